"""What of a plan is stored, what is missing, and what the missing would take, before anything trains.

    stock = take_stock(plan)
    print(stock)   # 12 of 94 results are missing: about 340 minutes on 2 cores, 400 MB in runs

Seconds are those that stored results of the same kind recorded: of the same run on another seed; else of the same
network and picture size, per unit of work (`matfl.runs.parallel.work`); for other results those of their kind.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from statistics import fmean
from typing import TYPE_CHECKING

from matfl.config.run_config import RunConfig
from matfl.paper.studies.base import Plan
from matfl.paper.studies.store import Job, Record, find_record, job_name
from matfl.runs.parallel import work
from matfl.runs.workspace import Workspace
from matfl.tasks.task import Pair, pairs

if TYPE_CHECKING:
    from matfl.runs.run import Run

__all__ = ["Stock", "comparable", "seconds_of", "stored_runs", "take_stock"]


@dataclass(frozen=True, kw_only=True)
class Stock:
    """A plan's results: which are stored, which are missing."""

    runs: tuple[RunConfig, ...] = ()
    """Federated runs that are stored with all that is drawn of them."""
    jobs: tuple[Job, ...] = ()
    """Other results that are stored."""
    missing_runs: tuple[RunConfig, ...] = ()
    missing_jobs: tuple[Job, ...] = ()
    preset: str = ""
    place: Workspace
    trains: bool = False
    """Whether what is missing will be trained now."""
    cores: int = 1

    @property
    def missing(self) -> int:
        """How many results are not stored."""
        return len(self.missing_runs) + len(self.missing_jobs)

    @property
    def total(self) -> int:
        """How many results the plan has."""
        return self.missing + len(self.runs) + len(self.jobs)

    @cached_property
    def _seconds(self) -> list[float]:
        """Estimated core-seconds of each missing result; NaN where nothing like it is stored."""
        rates = _Rates(self.place)
        return [*map(rates.run, self.missing_runs), *map(rates.job, self.missing_jobs)]

    @property
    def minutes(self) -> float:
        """Estimated minutes for what is missing on this machine's cores; NaN where nothing like any of it is stored.

        A lower bound where `unknown` is not 0.
        """
        known = [seconds for seconds in self._seconds if not math.isnan(seconds)]
        return sum(known) / 60 / self.cores if known or not self.missing else math.nan

    @property
    def unknown(self) -> int:
        """How many of the missing results have nothing like them stored, so that their time cannot be estimated."""
        return sum(map(math.isnan, self._seconds))

    @cached_property
    def megabytes(self) -> float:
        """Estimated size of what is missing in the run store."""
        return sum(_bytes(config) for config in self.missing_runs) / 1e6

    def __str__(self) -> str:
        if not self.missing:
            return f"All {self.total} results are stored: nothing needs to be trained."
        many = "None" if self.missing == self.total else f"{self.total - self.missing}"
        least = "at least " if self.unknown else ""
        duration = (
            "for an unknown time, since nothing like them is stored"
            if math.isnan(self.minutes)
            else f"for {least}about {_duration(self.minutes)} on {self.cores} cores"
        )
        text = (
            f"{many} of {self.total} results of preset {self.preset!r} are stored. The others "
            f"({_listing(self.missing_runs, self.missing_jobs)}) would be trained {duration}, and take about "
            f"{max(1, self.megabytes):.0f} MB in {self.place.runs}. "
        )
        if self.trains:
            return text.replace("would be", "are now") + "Finished rounds are stored, so it can be interrupted."
        return text + (
            'Nothing is trained now: `train = "yes"` in the cell of the parameters trains them; until then what is '
            "there is drawn."
        )

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return str(self) if not self.missing else f"> {self}"


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes))} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _listing(configs: Sequence[RunConfig], jobs: Sequence[Job]) -> str:
    """'6 runs of matfl, 2 of fedavg; 3 results central'."""
    methods = Counter(config.method for config in configs)
    kinds = Counter(job.kind for job in jobs)
    listed = [f"{count} run{'s' if count > 1 else ''} of {name}" for name, count in methods.items()]
    return ", ".join(listed + [f"{count} of kind {name}" for name, count in kinds.items()])


def stored_runs(plan: Plan, suffices: Callable[[Run, Plan], bool], place: Workspace) -> dict[RunConfig, Run]:
    """The plan's runs that are stored or recorded with all that is drawn of them (`suffices`)."""
    from matfl.runs.run import find_run

    found = {config: find_run(config, place, suffices=lambda run: suffices(run, plan)) for config in plan.configs}
    return {config: run for config, run in found.items() if run is not None}


def take_stock(
    plan: Plan,
    suffices: Callable[[Run, Plan], bool],
    *,
    preset: str,
    workspace: Workspace | None = None,
    trains: bool = False,
) -> Stock:
    """What of a plan is stored. No run is trained and no weights are read."""
    place = workspace or Workspace()
    there = stored_runs(plan, suffices, place)
    jobs = {job_name(job): job for job in plan.jobs}
    stored = [name for name, job in jobs.items() if find_record(job, place.runs, place.records)]
    wanted = dict.fromkeys(plan.configs)
    return Stock(
        runs=tuple(config for config in wanted if config in there),
        missing_runs=tuple(config for config in wanted if config not in there),
        jobs=tuple(jobs[name] for name in stored),
        missing_jobs=tuple(job for name, job in jobs.items() if name not in stored),
        preset=preset,
        place=place,
        trains=trains,
        cores=os.cpu_count() or 1,
    )


def comparable(configs: Iterable[RunConfig], plan: Plan) -> list[RunConfig]:
    """Of the stored configs those whose own single-task run, if the plan has one, is stored as well.

    delta_m compares with the single-task run that differs in nothing but what the method brings; without it a run
    cannot be drawn.
    """
    stored = list(configs)
    base = {_case(config) for config in plan.configs if config.method == "single_task"}
    have = {_case(config) for config in stored if config.method == "single_task" and config.server_lr == 1}
    return [config for config in stored if _case(config) in have or _case(config) not in base]


_SEEDS = ("seed", "data_seed")
_OWN = ("method", "parameters", "k", "voting_layers", "preset")
_SERVER = ("server_lr", "server_optimizer", "server_beta1", "server_beta2", "server_tau")


def _case(config: RunConfig) -> tuple[object, ...]:
    """What a run and its single-task baseline share."""
    own = (*_OWN, *_SERVER)
    return tuple(getattr(config, field.name) for field in fields(config) if field.name not in own)


def seconds_of(run: Run) -> float:
    """Core-seconds that a run recorded: training, mixing, evaluation."""
    return float(sum(sum(row["seconds"].values()) for row in run.rounds))


class _Rates:
    """Seconds of stored results, by what they have in common with missing ones."""

    def __init__(self, place: Workspace) -> None:
        self.folders = (place.runs, *place.records)
        self.place = place

    @cached_property
    def runs(self) -> list[tuple[RunConfig, float]]:
        """(config, seconds) of every finished run; what cannot be read is passed over, since this is an estimate."""
        from matfl.runs.run import list_runs
        from matfl.runs.store import RunError

        found = []
        for folder in self.folders:
            for run in list_runs(folder):
                try:
                    if run.finished:
                        found.append((run.config, seconds_of(run)))
                except (RunError, KeyError, TypeError):
                    continue
        return found

    @cached_property
    def seeds(self) -> dict[tuple[object, ...], list[float]]:
        """Seconds of the finished runs that differ in their seeds alone."""
        found: dict[tuple[object, ...], list[float]] = {}
        for config, seconds in self.runs:
            found.setdefault(_but_seeds(config), []).append(seconds)
        return found

    @cached_property
    def kinds(self) -> dict[str, list[tuple[float, float]]]:
        """(work of its config, seconds) of the stored results of each kind; 1 is the work of those without a config."""
        from matfl.paper.studies.store import read_record, recorded_config
        from matfl.runs.store import RunError

        found: dict[str, list[tuple[float, float]]] = {}
        for path in {path.parent for folder in self.folders for path in folder.glob("*/record.json")}:
            try:
                record: Record = read_record(path)
                asked = work(recorded_config(record.spec)) if "config" in record.spec else 1.0
            except (RunError, ValueError):
                continue
            listed = found.setdefault(path.name.rpartition("-")[0], [])
            listed.append((asked, record.provenance.get("seconds", 0.0)))
        return found

    def run(self, config: RunConfig) -> float:
        """Core-seconds of a run."""
        if same := self.seeds.get(_but_seeds(config)):
            return fmean(same)
        alike = [(other, s) for other, s in self.runs if _network(other) == _network(config)]
        for close in ([pair for pair in alike if pair[0].method == config.method], alike, self.runs):
            if close:
                return fmean(seconds / work(other) for other, seconds in close) * work(config)
        return math.nan

    def job(self, job: Job) -> float:
        """Core-seconds of another result: those of the stored ones of its kind that ask for about as much work."""
        config = getattr(job, "config", None)
        asked = 1.0 if config is None else work(config)
        stored = self.kinds.get(job.kind, [])
        if not stored:
            return math.nan
        apart = [abs(math.log(other / asked)) for other, _ in stored]
        nearest = [pair for pair, far in zip(stored, apart, strict=True) if far <= min(apart) + 1e-9]
        return fmean(seconds / other for other, seconds in nearest) * asked


def _but_seeds(config: RunConfig) -> tuple[object, ...]:
    """What a run shares with those of other seeds; its preset is a name alone."""
    return tuple(getattr(config, field.name) for field in fields(config) if field.compare and field.name not in _SEEDS)


def _network(config: RunConfig) -> tuple[object, ...]:
    return config.backbone, config.width, config.size


def _bytes(config: RunConfig) -> float:
    """Size of a run's folder: a model a client in single precision, and what is recorded of its rounds."""
    network = replace(config, method="single_task", parameters=(), seed=0, data_seed=0)
    parameters = sum(_parameters(network, pair) for pair in pairs(config.tasks)) * config.clients_per_task
    return 4 * parameters + 100 * config.rounds * config.num_clients


@lru_cache(maxsize=64)
def _parameters(config: RunConfig, pair: Pair) -> int:
    """Parameters of a pair's network."""
    from matfl.models.network import build

    return sum(tensor.numel() for tensor in build(config, pair).parameters())
