"""Runs: found again by their config, trained when missing, read as tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from matfl.config.run_config import RunConfig, override, preset
from matfl.core.manifest import read_checked, write_files
from matfl.core.records import RoundRow
from matfl.runs.arithmetic import differences, without_arithmetic
from matfl.runs.parallel import train_all
from matfl.runs.predict import predict, task_models
from matfl.runs.store import (
    METRIC_COLUMNS,
    RECORD_FILES,
    RunError,
    is_finished,
    read_config,
    read_diagnostics,
    read_metrics,
    read_provenance,
    read_rounds,
    run_path,
)
from matfl.runs.workspace import Folder, Workspace

if TYPE_CHECKING:
    import pandas as pd

    from matfl.models.network import Model

__all__ = ["Run", "export", "find_run", "list_runs", "load_or_run", "metrics_table", "run"]


@dataclass(frozen=True)
class Run:
    """A stored run: a folder of the run store, or a committed record without weights. Files are read when asked for.

    >>> import matfl
    >>> ours = matfl.run("smoke", method="matfl")
    >>> sorted(ours.metrics["kind"].unique())
    ['global', 'local']
    >>> ours.rounds[0]["round"], len(ours.rounds) == ours.config.rounds
    (1, True)
    >>> ours.diagnostics["weights"].sum(-1).round(5).min()
    np.float32(1.0)
    >>> [prediction.shape for prediction in ours.predict("picture.png", tasks=["outdoor/semseg"])["outdoor/semseg"]]
    [(48, 64)]
    """

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
    def rounds(self) -> list[RoundRow]:
        """One dict a round: losses and bytes per client, seconds per phase, who was left out."""
        return read_rounds(self.path)

    @cached_property
    def diagnostics(self) -> dict[str, np.ndarray]:
        """Arrays with the trained rounds R as first axis: participants (R, N), weights (R, N, N), similarity, votes
        (R, L, N, N), friends (R, N, N), cos_start (R, N), norms (R, N) and cosines (R, N, N) of whole updates; and
        client_pairs (N,), layers (L,)."""
        return read_diagnostics(self.path)

    @property
    def outdated(self) -> list[str]:
        """The parts of its arithmetic that are of another revision than today's, in words; empty for none."""
        from matfl.runs.engine import data_version

        return differences(self.provenance.get("data") or {}, data_version(self.config))

    @property
    def finished(self) -> bool:
        """Whether all its rounds are stored. Raises RunError naming the file when a finished run has lost one."""
        return is_finished(self.path, self.config)

    @cached_property
    def models(self) -> dict[str, Model]:
        """The model of each (domain, task) pair by name, on the CPU in evaluation mode; where clients keep models of
        their own, the first client's. Raises RunError for a run without weights, a committed record say."""
        return task_models(self)

    def predict(
        self, images: Folder | Sequence[Folder], *, tasks: Sequence[str] | None = None, device: str | None = None
    ) -> dict[str, list[np.ndarray]]:
        """The dense predictions for image files by pair, one a file, each at the file's own size.

        Args:
            tasks: only these pairs ('outdoor/semseg', ...); default all.

        Raises ValueError for an unknown pair or a file that is no picture, RunError for a run without weights.
        """
        files = [images] if isinstance(images, str | Path) else images
        found: dict[str, list[np.ndarray]] = {}
        for _, pair, prediction in predict(self, files, tasks=tasks, device=device):
            found.setdefault(pair.name, []).append(prediction)
        return found


def list_runs(folder: Folder | None = None) -> list[Run]:
    """Every run and record in `folder` (default: the run store), by name. Folders that are no runs are passed over.

    >>> import matfl
    >>> ours = matfl.run("smoke", method="matfl")
    >>> ours.path in [run.path for run in matfl.list_runs()]
    True
    """
    base = Path(folder) if folder else Workspace().runs
    return [Run(path.parent) for path in sorted(base.glob("*/config.json"))]


def metrics_table(runs: Iterable[Run]) -> pd.DataFrame:
    """All runs' metrics as one tidy table: the config fields that differ between them, the run's name, the metrics.

    >>> import matfl
    >>> table = matfl.metrics_table([matfl.run("smoke", method=name) for name in ("single_task", "matfl")])
    >>> list(table.columns)
    ['method', 'run', 'round', 'domain', 'task', 'client', 'kind', 'metric', 'value']
    """
    import pandas as pd

    listed = list(runs)
    settings = [
        {**{k: str(v) if isinstance(v, list) else v for k, v in run.config.to_json().items() if k != "parameters"}}
        | {f"{run.config.method}.{name}": value for name, value in run.config.parameters}
        for run in listed
    ]
    names = dict.fromkeys(name for setting in settings for name in setting)
    differing = [name for name in names if len({str(setting.get(name)) for setting in settings}) > 1]
    tables = []
    for run, setting in zip(listed, settings, strict=True):
        table = run.metrics.copy()
        for position, name in enumerate(differing):
            table.insert(position, name, setting.get(name))
        table.insert(len(differing), "run", run.config.name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", *METRIC_COLUMNS])


def export(run: Run, folder: Folder) -> Path:
    """Copy the run's small record (no weights) to `folder/<name>` and return that path."""
    if not run.finished:
        raise RunError(f"{run.path} is not finished: `matfl resume {run.path}` first")
    target = Path(folder) / run.config.name
    write_files(target, {name: read_checked(run.path, name) for name in RECORD_FILES})
    return target


def run(
    config: RunConfig | str = "quick",
    *,
    workspace: Workspace | None = None,
    device: str | None = None,
    fresh: bool = False,
    progress: bool = True,
    **changes: object,
) -> Run:
    """The finished run of a config, or of a preset by name, with some parameters changed; trained when not stored.

    >>> import matfl
    >>> prox = matfl.run("smoke", method="fedprox", seed=1, **{"fedprox.mu": 0.1})
    >>> prox.finished, prox.config.parameters
    (True, (('mu', 0.1),))

    The other arguments are those of `load_or_run`.
    """
    chosen = override(preset(config) if isinstance(config, str) else config, **changes)
    (found,) = load_or_run([chosen], workspace=workspace, device=device, fresh=fresh, progress=progress)
    return found


def load_or_run(
    configs: Iterable[RunConfig],
    *,
    workspace: Workspace | None = None,
    jobs: int | None = None,
    backend: Literal["loky", "ray"] = "loky",
    device: str | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> list[Run]:
    """The finished runs of `configs`, in that order; those not found are trained first, the unfinished resumed.

    Args:
        workspace: where runs, records, cached pictures and data lie; default `Workspace()`.
        jobs: runs at a time, each in a process of its own with one thread. Default: one per core (with 'ray' of the
            cluster), or 1 on a GPU.
        backend: 'loky' spreads over this machine, 'ray' over the cluster of a running Ray (whose machines share the
            workspace).
        device: 'cpu', 'cuda', ...; default: a GPU if there is one.
        fresh: train everything again, whatever is stored.
        progress: report on stderr: one bar over all rounds, or one line per finished run when that is no terminal.

    Raises:
        RunError: some runs failed. All the others are stored by then, and each failure is named with its config.

    >>> import matfl
    >>> configs = [matfl.override(matfl.preset("smoke"), method=name) for name in ("single_task", "matfl")]
    >>> [run.config.method for run in matfl.load_or_run(configs)]
    ['single_task', 'matfl']
    """
    given = list(configs)
    wanted = list(dict.fromkeys(given))
    place = workspace or Workspace()
    found = {} if fresh else {config: run for config in wanted if (run := find_run(config, place))}
    missing = [config for config in wanted if config not in found]
    if missing:
        train_all(missing, place, jobs=jobs, backend=backend, device=device, fresh=fresh, progress=progress)
        found |= {config: Run(run_path(config, place.runs)) for config in missing}
    return [found[config] for config in given]


def find_run(
    config: RunConfig, workspace: Workspace, *, suffices: Callable[[Run], bool] = lambda run: True
) -> Run | None:
    """The finished run of `config` in the store or the records, made of the pictures that this version renders.

    Of several copies the first that `suffices`. A committed record may be of an older arithmetic: it is drawn as it
    is, and says so (`Run.outdated`). A run of the store may not.
    """
    from matfl.runs.engine import data_difference, data_version

    for folder in (workspace.runs, *workspace.records):
        path = run_path(config, folder)
        if not (path / "config.json").exists():
            continue
        if read_config(path) != config:
            raise RunError(
                f"{path} holds another run than its name says: its config.json was changed; remove the "
                "folder or restore the file"
            )
        if not is_finished(path, config):
            continue
        stored, today = read_provenance(path).get("data") or {}, data_version(config)
        if folder != workspace.runs:
            stored, today = without_arithmetic(stored), without_arithmetic(today)
        difference = data_difference(stored, today)
        if difference:
            warnings.warn(f"{path} was trained on other data and is not used ({difference})", stacklevel=3)
        elif suffices(run := Run(path)):
            return run
    return None
