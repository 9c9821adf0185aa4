"""Runs: found again by their config, trained when missing, read as tables."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from matfl.config import RunConfig
from matfl.store import (
    METRIC_COLUMNS,
    RECORD_FILES,
    RunError,
    is_finished,
    read_config,
    read_diagnostics,
    read_metrics,
    read_provenance,
    read_rounds,
    read_state,
)

if TYPE_CHECKING:
    import pandas as pd

    from matfl.aggregation import Method

__all__ = ["Run", "describe", "export", "list_runs", "load_or_run", "metrics_table", "runs_folder"]

Folder = str | Path


@dataclass(frozen=True)
class Run:
    """A stored run: a folder of the run store, or a committed record without weights. Files are read when asked for."""

    path: Path

    @cached_property
    def config(self) -> RunConfig:
        """What decided its numbers."""
        return read_config(self.path)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, device, seed, git commit; later sessions of a resumed run under 'resumed'."""
        return read_provenance(self.path)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Columns round, domain, task, client (-1: the task's model), kind ('global' or 'local'), metric, value."""
        import pandas as pd

        return pd.DataFrame(read_metrics(self.path), columns=list(METRIC_COLUMNS))

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """One dict a round: losses and bytes per client, seconds per phase, who was left out."""
        return read_rounds(self.path)

    @cached_property
    def diagnostics(self) -> dict[str, np.ndarray]:
        """Arrays with the trained rounds R as first axis: participants (R, N), weights (R, N, N), similarity, votes
        (R, L, N, N), friends (R, N, N), cos_start (R, N); and client_pairs (N,), layers (L,)."""
        return read_diagnostics(self.path)

    @property
    def finished(self) -> bool:
        """Whether all its rounds are stored."""
        return is_finished(self.path, self.config)


def runs_folder(runs_dir: Folder | None = None) -> Path:
    """The run store: `runs_dir`, else $MATFL_RUNS, else ./runs."""
    return Path(runs_dir or os.environ.get("MATFL_RUNS") or "runs")


def list_runs(folder: Folder | None = None) -> list[Run]:
    """Every run and record in `folder` (default: the run store), by name. Folders that are no runs are passed over."""
    base = runs_folder(folder)
    return [Run(path.parent) for path in sorted(base.glob("*/config.json"))]


def metrics_table(runs: Iterable[Run]) -> pd.DataFrame:
    """All runs' metrics as one tidy table: the config fields that differ between them, the run's name, the metrics."""
    import pandas as pd

    listed = list(runs)
    settings = [asdict(run.config) for run in listed]
    differing = [name for name in (settings[0] if settings else ()) if len({str(s[name]) for s in settings}) > 1]
    tables = []
    for run, setting in zip(listed, settings, strict=True):
        table = run.metrics.copy()
        for position, name in enumerate(differing):
            table.insert(position, name, str(setting[name]) if isinstance(setting[name], tuple) else setting[name])
        table.insert(len(differing), "run", run.config.name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", *METRIC_COLUMNS])


def export(run: Run, folder: Folder) -> Path:
    """Copy the run's small record (no weights) to `folder/<name>` and return that path."""
    if not run.finished:
        raise RunError(f"{run.path} is not finished: `matfl resume {run.path}` first")
    target = Path(folder) / run.config.name
    target.mkdir(parents=True, exist_ok=True)
    for name in RECORD_FILES:
        temporary = target / (name + ".tmp")
        shutil.copyfile(run.path / name, temporary)
        temporary.replace(target / name)
    return target


def describe(config: RunConfig) -> str:
    """The fields in which a config differs from its preset, for messages: 'method=matfl, seed=1'."""
    from matfl.config import PRESETS

    base = asdict(PRESETS[config.preset]()) if config.preset in PRESETS else {}
    changed = {name: value for name, value in asdict(config).items() if base.get(name) != value or name == "method"}
    return ", ".join(f"{name}={value}" for name, value in changed.items())


def load_or_run(
    configs: Iterable[RunConfig],
    *,
    runs_dir: Folder | None = None,
    records: Folder | Sequence[Folder] | None = None,
    jobs: int | None = None,
    backend: Literal["loky", "ray"] = "loky",
    device: str | None = None,
    data_dir: Folder | None = None,
    cache_dir: Folder | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> list[Run]:
    """The finished runs of `configs`, in that order; those not found are trained first, the unfinished resumed.

    Args:
        runs_dir: the run store; see `runs_folder`.
        records: read-only folders of committed records, looked up by config after the run store.
        jobs: runs at a time, each in a process of its own with one thread. Default: one per core, or 1 on a GPU.
        backend: 'loky' spreads over this machine, 'ray' over the cluster of a running Ray (runs_dir must be shared).
        device: 'cpu', 'cuda', ...; default: a GPU if there is one.
        fresh: train everything again, whatever is stored.
        progress: report on stderr: one bar over all rounds, or one line per finished run when that is no terminal.

    Raises:
        RunError: some runs failed. All the others are stored by then, and each failure is named with its config.
    """
    wanted = list(dict.fromkeys(configs))
    base = runs_folder(runs_dir)
    found = {} if fresh else {config: run for config in wanted if (run := _find(config, base, _folders(records)))}
    missing = [config for config in wanted if config not in found]
    if missing:
        options = {"device": device, "data_dir": data_dir, "cache_dir": cache_dir}
        _train(missing, base, jobs=jobs, backend=backend, fresh=fresh, progress=progress, options=options)
        found |= {config: Run(base / config.name) for config in missing}
    by_config = {config: found[config] for config in wanted}
    return [by_config[config] for config in configs] if isinstance(configs, Sequence) else list(by_config.values())


def _folders(records: Folder | Sequence[Folder] | None) -> list[Path]:
    if records is None:
        return []
    return [Path(records)] if isinstance(records, str | Path) else [Path(item) for item in records]


def _find(config: RunConfig, base: Path, records: Sequence[Path]) -> Run | None:
    """The finished run of `config`, made of the pictures that this version renders."""
    from matfl.federation import data_version

    for path in (folder / config.name for folder in (base, *records)):
        if not (path / "config.json").exists():
            continue
        if read_config(path) != config:
            raise RunError(f"{path} holds another run than its name says: its config.json was changed; remove the "
                           "folder or restore the file")  # fmt: skip
        if not is_finished(path, config):
            continue
        if read_provenance(path).get("data") == data_version(config):
            return Run(path)
        warnings.warn(f"{path} was trained on the pictures of another version of matfl and is not used", stacklevel=3)
    return None


def _cost(config: RunConfig) -> float:
    """Work of a run in arbitrary units, to start the largest first."""
    images = config.images_per_client or config.images_train or 2000
    size = config.size or 512
    return (
        config.rounds
        * config.num_clients
        * config.participation
        * config.local_epochs
        * images
        * size**2
        * (config.width * (config.width + 16))
    )


def _train(
    configs: Sequence[RunConfig],
    base: Path,
    *,
    jobs: int | None,
    backend: str,
    fresh: bool,
    progress: bool,
    options: dict[str, Any],
) -> None:
    """Train or resume `configs` in folders under `base`, `jobs` at a time."""
    import joblib

    from matfl import federation

    device = federation.pick_device(options["device"])
    if jobs is None:
        jobs = 1 if device.type == "cuda" else joblib.cpu_count()
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: must be at least 1")
    jobs = min(jobs, len(configs))
    options = {**options, "device": str(device), "fresh": fresh, "wait": True}
    # Splits and starts go to the cache once, before the processes ask for them.
    federation.prepare(configs, data_dir=options["data_dir"], cache_dir=options["cache_dir"], device=device,
                       progress=progress and sys.stderr.isatty(), say=_say if progress else None)  # fmt: skip
    ordered = sorted(configs, key=_cost, reverse=True)
    failures: dict[RunConfig, str] = {}
    with _Monitor(ordered, base, enabled=progress, jobs=jobs) as monitor:
        for index, failure in _results(ordered, base, jobs, backend, options):
            if failure:
                failures[ordered[index]] = failure
            monitor.done(ordered[index], failure)
    if failures:
        lines = [f"  {config.name} ({describe(config)}): {text.splitlines()[0]}" for config, text in failures.items()]
        error = RunError(f"{len(failures)} of {len(configs)} runs failed (the others are stored):\n" + "\n".join(lines))
        for config, text in failures.items():
            error.add_note(f"{config.name}: {text}")
        raise error


def _results(
    configs: Sequence[RunConfig], base: Path, jobs: int, backend: str, options: dict[str, Any]
) -> Iterator[tuple[int, str | None]]:
    """(index, failure or None) of every config as it ends."""
    from matfl.aggregation import METHODS

    if jobs == 1 and backend == "loky":
        for index, config in enumerate(configs):
            yield _run_one(index, config, base / config.name, None, options)
        return
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if backend == "ray":
        try:
            from ray.util.joblib import register_ray
        except ImportError:
            raise RunError("backend='ray' needs Ray: pip install 'matfl[ray]', or use backend='loky'") from None
        register_ray()
    limits = {"inner_max_num_threads": 1} if backend == "loky" else {}
    shared = {**options, "parent": os.getpid()}
    try:
        with joblib.parallel_config(backend=backend, n_jobs=jobs, **limits):
            yield from joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)(
                joblib.delayed(_run_one)(index, config, base / config.name, METHODS.get(config.method), shared)
                for index, config in enumerate(configs)
            )
    except TerminatedWorkerError:
        raise RunError("a worker process was killed, perhaps for lack of memory: use fewer jobs; finished rounds are "
                       "stored, so the same call goes on") from None  # fmt: skip


def _run_one(
    index: int, config: RunConfig, path: Path, method: Method | None, options: dict[str, Any]
) -> tuple[int, str | None]:
    """Train one run; an exception comes back as text, so that it ends this run alone.

    `method` is the config's: another process does not know those that the caller registered, in a notebook's cell say.
    """
    from matfl import federation
    from matfl.aggregation import METHODS, register

    if method is not None and method.name not in METHODS:
        register(method)
    options = dict(options)
    parent = options.pop("parent", None)
    here = os.getppid()

    def orphaned() -> bool:
        return parent == here and os.getppid() != here

    try:
        federation.run(config, path, stop=orphaned, **options)
    except Exception as error:
        return index, f"{error}\n{traceback.format_exc()}"
    return index, None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Monitor:
    """Progress of many runs on stderr: one bar over their rounds, or one line a finished run."""

    def __init__(self, configs: Sequence[RunConfig], base: Path, *, enabled: bool, jobs: int) -> None:
        self.paths = [base / config.name for config in configs]
        self.total = sum(config.rounds for config in configs)
        self.enabled, self.jobs, self.ended = enabled, jobs, 0
        self.bar: Any = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Monitor:
        if self.enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total, initial=self._stored(), unit="round", dynamic_ncols=True, desc=self._title()
            )
            self.thread.start()
        elif self.enabled:
            _say(f"training {len(self.paths)} runs ({self.total} rounds), {self.jobs} at a time")
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        if self.bar is not None:
            self.thread.join()
            self.bar.close()

    def done(self, config: RunConfig, failure: str | None) -> None:
        self.ended += 1
        state = f"failed: {failure.splitlines()[0]}" if failure else "finished"
        if self.bar is not None:
            self.bar.set_description(self._title())
            if failure:
                self.bar.write(f"{config.name} {state}", file=sys.stderr)
        elif self.enabled:
            _say(f"[{self.ended}/{len(self.paths)}] {config.name} ({describe(config)}) {state}")

    def _title(self) -> str:
        return f"{self.ended}/{len(self.paths)} runs"

    def _stored(self) -> int:
        return sum(read_state(path).get("round", 0) for path in self.paths)

    def _watch(self) -> None:
        while not self.closing.wait(0.5):
            self.bar.n = self._stored()
            self.bar.refresh()
        self.bar.n = self._stored()
        self.bar.refresh()
