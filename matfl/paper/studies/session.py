"""Where notebooks and the driver find and leave things: runs, committed records, figures, verdicts."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import matfl
from matfl.config.run_config import preset as preset_config
from matfl.core.files import digest, replace_file, unfinished
from matfl.core.manifest import read_checked, write_files
from matfl.core.surroundings import is_live
from matfl.paper.claims import Claim
from matfl.paper.shown import Caption, Picture, Words, number_of
from matfl.paper.studies.base import Plan
from matfl.paper.studies.origins import mixed_arithmetic, mixed_origins
from matfl.paper.studies.paper_claims import not_computed
from matfl.paper.studies.partial import forget, tolerate
from matfl.paper.studies.stock import Stock, comparable, stored_runs, take_stock
from matfl.paper.studies.store import Job, Record, find_record, job_name, load_or_compute
from matfl.paper.tables import Table
from matfl.runs.store import RunError
from matfl.runs.workspace import Workspace, checkout, packed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from matfl.config.run_config import RunConfig
    from matfl.runs.run import Run

__all__ = [
    "Report",
    "Session",
    "check_writable",
    "collect",
    "collect_records",
    "collect_stored",
    "collect_stored_records",
    "export_record",
    "has_votes",
    "merged",
    "notebooks_folder",
    "read_claims",
    "stock",
]

VOTES = ("votes", "similarity")
"""Diagnostics that committed records keep only where a figure needs them."""


NORMS = ("norms", "cosines")
"""Diagnostics that records of versions before 0.2 lack."""


def notebooks_folder() -> Path:
    """The notebooks of the checkout, or those packed into the wheel."""
    return (checkout() or packed()) / "notebooks"


def collect_stored(plan: Plan, *, workspace: Workspace | None = None) -> list[Run]:
    """Of the plan's runs, in order, those that can be drawn from what is stored; nothing is trained.

    A run whose single-task baseline is missing cannot (`matfl.paper.studies.stock.comparable`).
    """
    place = workspace or Workspace()
    found = stored_runs(plan, _suffices, place)
    usable = set(comparable(found, plan))
    return [_recorded(found[config], place.records, plan) for config in plan.configs if config in usable]


def stock(plan: Plan, *, preset: str, workspace: Workspace | None = None, trains: bool = False) -> Stock:
    """What of the plan is stored and what is missing, with the minutes and the place that it would take."""
    return take_stock(plan, _suffices, preset=preset, workspace=workspace, trains=trains)


def collect(plan: Plan, *, workspace: Workspace | None = None, fresh: bool = False, **options: Any) -> list[Run]:
    """The plan's runs in order: from the store, from records, or trained now.

    A record without the votes or norms that the plan needs does not count: that run is trained. Where a run of the
    store has been recorded, the record is returned, whose numbers are rounded: so what is drawn does not depend on
    which of the two is at hand. `options` are those of `matfl.runs.run.load_or_run` (jobs, backend, device, progress).
    """
    from matfl.runs.run import load_or_run

    place = workspace or Workspace()
    found = {} if fresh else stored_runs(plan, _suffices, place)
    others = [config for config in dict.fromkeys(plan.configs) if config not in found]
    found |= zip(others, load_or_run(others, workspace=place.without_records(), fresh=fresh, **options))
    return [_recorded(found[config], place.records, plan) for config in plan.configs]


def _suffices(run: Run, plan: Plan) -> bool:
    """Whether the run's diagnostics hold all that the plan draws of it."""
    votes, norms = run.config in plan.votes, run.config in plan.norms
    return (not votes or has_votes(run)) and (not norms or set(NORMS) <= set(run.diagnostics))


def has_votes(run: Run) -> bool:
    """Whether the run's diagnostics hold what Figure 6 is drawn from."""
    return set(VOTES) <= set(run.diagnostics)


def _recorded(run: Run, folders: Sequence[Path], plan: Plan) -> Run:
    """The record of this very run (not merely of its config), if there is one with all that is needed."""
    from matfl.runs.run import Run as StoredRun
    from matfl.runs.store import run_path

    for folder in folders:
        copy = StoredRun(run_path(run.config, folder))
        whole = (copy.path / "config.json").exists() and copy.finished
        if whole and copy.provenance == run.provenance and _suffices(copy, plan):
            return copy
    return run


def collect_records(plan: Plan, *, workspace: Workspace | None = None, **options: Any) -> list[Record]:
    """The plan's other results in order; `options` are those of `matfl.paper.studies.store.load_or_compute`."""
    import torch

    versions = {
        "matfl": matfl.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    place = workspace or Workspace()
    return load_or_compute(plan.jobs, runs_dir=place.runs, records=place.records, provenance=versions, **options)


def collect_stored_records(plan: Plan, *, workspace: Workspace | None = None) -> list[Record]:
    """Of the plan's other results, in order, those that are stored; nothing is computed."""
    place = workspace or Workspace()
    found = (find_record(job, place.runs, place.records) for job in plan.jobs)
    return [record for record in found if record is not None]


def check_writable(folder: Path, remedy: str) -> None:
    """Make a folder and try to write there, before anything is computed. Raises RunError with the remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished(folder / "writable") as probe:
            probe.write_bytes(b"")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written to ({error}): {remedy}") from None


class Report:
    """Verdicts on claims, shown as a list in notebooks."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = tuple(claims)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.claims))

    def _repr_markdown_(self) -> str:
        return "\n".join(claim.markdown() for claim in self.claims)


def _trains(train: bool | str) -> bool:
    """Whether missing results are trained: as asked, and for 'ask' only where nobody looks (a batch)."""
    answers: dict[bool | str, bool] = {True: True, False: False, "yes": True, "no": False, "ask": not is_live()}
    if train not in answers:
        raise ValueError(f"train={train!r}: choose 'ask' (train in a batch, show in an open notebook), 'yes' or 'no'")
    return answers[train]


class Session:
    """One notebook's access to results. It writes files only where $MATFL_FIGURES names a folder (the driver does).

    Args:
        study: the notebook's name.
        preset: of its runs.
        train: whether what is missing is trained: 'yes' or True, 'no' or False, or 'ask', which in an open notebook
            only shows what is missing and in a batch trains it.
    """

    def __init__(self, study: str, preset: str, *, train: bool | str = "ask") -> None:
        preset_config(preset)
        self.study = study
        self.preset = preset
        self.trains = _trains(train)
        self.missing = 0
        self.reported = False
        forget()
        self.configs: dict[str, RunConfig] = {}
        self.names: list[str] = []
        self.versions: set[str] = set()
        self._places: dict[str, list[str]] = {}

    def stock(self, plan: Plan) -> Stock:
        """What of the plan is stored and what is missing, to be shown before anything trains.

        Where something is missing and not to be trained, the cells that follow draw what they can and say in a sentence
        what they cannot (`matfl.paper.studies.partial`). Raises RunError where it is to be trained and the run store
        cannot be written.
        """
        found = stock(plan, preset=self.preset, trains=self.trains)
        if found.missing and self.trains:
            check_writable(found.place.runs, "choose another run store with MATFL_RUNS or --runs-dir")
        self.missing = 0 if self.trains else found.missing
        if self.missing:
            tolerate(self)
        return found

    def runs(self, plan: Plan) -> list[Run]:
        """The plan's runs; missing ones are trained now, with progress on stderr, or left out (`train`)."""
        runs = collect(plan) if self.trains else collect_stored(plan)
        for run in runs:
            self.configs[run.config.name] = run.config
            self.versions.add(str(run.provenance.get("torch")))
        self._notice([run.outdated for run in runs], "runs")
        self._warn_of_mixed(runs)
        return runs

    def records(self, plan: Plan) -> list[Record]:
        """The plan's other results; missing ones are computed now, or left out (`train`)."""
        records = collect_records(plan) if self.trains else collect_stored_records(plan)
        self.names += [record.path.name for record in records]
        self._notice([record.outdated for record in records], "results")
        for kind, several in mixed_arithmetic(records).items():
            print(
                f"Note: results of kind {kind} come from {' and from '.join(several)}: part of what tells them apart "
                "is that. `matfl reproduce --fresh` computes them anew."
            )
        return records

    def _notice(self, outdated: Sequence[Sequence[str]], what: str) -> None:
        """Say on the page how many of the drawn results are of an older arithmetic."""
        old = [parts for parts in outdated if parts]
        if old:
            parts = ", ".join(sorted({part for each in old for part in each}))
            print(
                f"Note: {len(old)} of these {len(outdated)} {what} are records of an older arithmetic: {parts}. "
                "`matfl reproduce --fresh` computes them anew."
            )

    def _warn_of_mixed(self, runs: Sequence[Run]) -> None:
        """Say on the page which of the drawn runs were not made by the same arithmetic."""
        for strangers in mixed_origins(runs):
            names = ", ".join(run.config.name for run in strangers)
            print(
                f"Note: {names} should begin with the same loss and do not: they, and runs like them, come from "
                "different machines, starts or versions, and part of what tells them apart is that. "
                "`matfl reproduce --fresh` computes them anew."
            )

    def provenance(self) -> dict[str, Any]:
        """What the figures were made from: hash over all runs, seeds, task sets, versions."""
        import matplotlib

        names = sorted({*self.configs, *self.names})
        return {
            "study": self.study,
            "preset": self.preset,
            "runs": len(names),
            "hash": digest("\n".join(names).encode())[:12],
            "seeds": sorted({config.seed for config in self.configs.values()}),
            "data": sorted({config.tasks for config in self.configs.values()}),
            "matfl": matfl.__version__,
            "torch": sorted(self.versions),
            "matplotlib": matplotlib.__version__,
        }

    def show(self, fig: Figure, name: str, caption: Caption, *, data: pd.DataFrame | None = None) -> None:
        """The figure with its numbered caption on the page, and closed; written as by `save`, the caption beside it.

        `<study>_<name>.md` holds the picture's alternative text and the caption, ready to be put into a page.
        """
        import matplotlib.pyplot as plt
        from IPython.display import display

        number = self._number("figure", name)
        self.save(fig, name, data=data)
        if folder := os.environ.get("MATFL_FIGURES"):
            page = f"![{caption.alt}]({self.study}_{name}.png)\n\n{caption.numbered(number)}\n"
            replace_file(Path(folder) / f"{self.study}_{name}.md", page)
        display(Picture.of(fig, f"Figure {number}: {caption.alt}"), Words(caption.numbered(number)))
        plt.close(fig)

    def table(self, name: str, table: Table) -> Table:
        """The table with its number, to be shown; in $MATFL_FIGURES, if set, as Markdown, LaTeX and CSV."""
        numbered = table.numbered(self._number("table", name))
        if folder := os.environ.get("MATFL_FIGURES"):
            base = Path(folder) / f"{self.study}_table_{name}"
            for suffix, text in ((".md", numbered.markdown()), (".tex", numbered.latex()), (".csv", numbered.csv())):
                replace_file(base.with_name(base.name + suffix), text)
        return numbered

    def _number(self, kind: str, name: str) -> str:
        """The place of a figure or table in its notebook; the same when its cell is run again."""
        places = self._places.setdefault(kind, [])
        if name not in places:
            places.append(name)
        return number_of(self.study, places.index(name) + 1)

    def save(self, fig: Figure, name: str, *, data: pd.DataFrame | None = None) -> None:
        """Write `<study>_<name>.pdf`, `.png` and, given the numbers behind it, `.csv` into $MATFL_FIGURES, if set."""
        folder = os.environ.get("MATFL_FIGURES")
        if not folder:
            return
        from matfl.paper.plots import save

        base = Path(folder) / f"{self.study}_{name}"
        save(fig, base, self.provenance())
        if data is not None:
            from pandas.api.types import is_integer_dtype

            named = data.index.names != [None]
            data.to_csv(
                base.with_name(base.name + ".csv"),
                index=named or not is_integer_dtype(data.index.dtype),
                float_format="%.6g",
                lineterminator="\n",
            )

    def report(self, claims: Iterable[Claim]) -> Report:
        """The verdicts, to be shown; the driver finds them in `<study>.json` of $MATFL_FIGURES."""
        report = Report(not_computed(self.study, claims) if self.missing else tuple(claims))
        self.reported = True
        if folder := os.environ.get("MATFL_FIGURES"):
            content = {"claims": [claim.row() for claim in report.claims], "provenance": self.provenance()}
            replace_file(Path(folder) / f"{self.study}.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
        return report


def merged(plans: Iterable[Plan]) -> Plan:
    """The union of several plans, each run and job once."""
    configs: dict[RunConfig, None] = {}
    votes: dict[RunConfig, None] = {}
    norms: dict[RunConfig, None] = {}
    jobs: dict[str, Job] = {}
    for plan in plans:
        configs |= dict.fromkeys(plan.configs)
        votes |= dict.fromkeys(plan.votes)
        norms |= dict.fromkeys(plan.norms)
        jobs |= {job_name(job): job for job in plan.jobs}
    return Plan(configs=tuple(configs), votes=tuple(votes), norms=tuple(norms), jobs=tuple(jobs.values()))


def export_record(run: Run, folder: Path, *, votes: bool) -> Path:
    """Copy a run's small record for a repository: without weights, clients' details and, unless wanted, votes.

    Numbers keep six significant digits, weights and cosines half precision.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not finished: `matfl resume {run.path}` first")
    kept = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in run.diagnostics.items()
        if votes or name not in VOTES
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)  # type: ignore[arg-type]
    rounds = [json.dumps({name: value for name, value in row.items() if name != "clients"}) for row in run.rounds]
    table = run.metrics.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files = {
        "config.json": read_checked(run.path, "config.json"),
        "provenance.json": read_checked(run.path, "provenance.json"),
        "diagnostics.npz": buffer.getvalue(),
        "metrics.csv": table.encode(),
        "rounds.jsonl": ("\n".join(rounds) + "\n").encode(),
    }
    target = folder / run.config.name
    write_files(target, files)
    return target


def read_claims(folder: Path, study: str) -> list[dict[str, str]]:
    """The verdicts that a notebook left in `folder`; none of one that judges nothing."""
    file = folder / f"{study}.json"
    return list(json.loads(file.read_text(encoding="utf-8"))["claims"]) if file.exists() else []
