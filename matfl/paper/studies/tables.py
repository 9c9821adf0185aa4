"""From runs to tidy frames: final scores, delta_m against single-task FL, and differences paired by seed.

A run here is anything with `.config` (`RunConfig`) and `.metrics` (columns round, domain, task, client, kind, metric,
value).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.stats import Estimate, estimate, paired
from matfl.tasks.meters import delta_m
from matfl.tasks.task import parts_of, task_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CASE",
    "RunLike",
    "delta_table",
    "differences",
    "final",
    "ordered_pairs",
    "scores",
    "summary",
    "tidy",
]

CASE = ("tasks", "clients_per_task", "k", "voting_layers", "server_lr", "method", "seed")
"""The config fields that tell the runs of a study apart."""


class RunLike(Protocol):
    """The part of `matfl.runs.run.Run` that tables need."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def metrics(self) -> pd.DataFrame: ...


def tidy(runs: Iterable[RunLike]) -> pd.DataFrame:
    """All metrics of all runs, one value a row, with the config fields of `CASE` and the column `pair`."""
    import pandas as pd

    frames = []
    for run in runs:
        frame = run.metrics.assign(**{name: getattr(run.config, name) for name in CASE})
        frames.append(frame.assign(pair=frame["domain"] + "/" + frame["task"]))
    if not frames:
        raise ValueError("no runs: a table needs at least one")
    return pd.concat(frames, ignore_index=True)


def _main(frame: pd.DataFrame) -> pd.DataFrame:
    main = {label: task_of(label).main_metric for label in frame["task"].unique()}
    return frame[frame["metric"] == frame["task"].map(main)]


def scores(runs: Iterable[RunLike], *, kind: str = "global") -> pd.DataFrame:
    """Each pair's main metric at each evaluated round, averaged over its clients where they keep their own models.

    Columns: `CASE`, round, pair, value. `kind` 'global' is the dispatched model after aggregation, 'local' the
    clients' models right after local training.
    """
    frame = tidy(runs)
    frame = _main(frame[frame["kind"] == kind])
    if frame.empty:
        raise ValueError(f"the runs hold no metrics of kind {kind!r}: choose 'global' or 'local'")
    keys = [*CASE, "round", "pair"]
    return frame.groupby(keys, sort=False)["value"].mean().reset_index()


def final(runs: Iterable[RunLike], *, kind: str = "global") -> pd.DataFrame:
    """`scores` at each run's last evaluated round."""
    frame = scores(runs, kind=kind)
    last = frame.groupby(list(CASE), sort=False)["round"].transform("max")
    return frame[frame["round"] == last].reset_index(drop=True)


def delta_table(
    frame: pd.DataFrame, *, baseline: str = "single_task", reference: pd.DataFrame | None = None
) -> pd.DataFrame:
    """delta_m (percent) of every run in a `scores` frame against `baseline`: same tasks, clients, seed and round.

    The baseline is taken from `reference` (default: the frame itself) at the server's step of 1. Columns: `CASE`,
    round, delta_m. The baseline's own rows are 0. Raises ValueError where a baseline run is missing.
    """
    import pandas as pd

    where = ["tasks", "clients_per_task", "seed", "round"]
    source = frame if reference is None else reference
    plain = source[(source["method"] == baseline) & (source["server_lr"] == 1)]
    levels = {key: dict(zip(group["pair"], group["value"])) for key, group in plain.groupby(where, sort=False)}
    rows = []
    for case, group in frame.groupby([*CASE, "round"], sort=False):
        row = dict(zip((*CASE, "round"), case))
        key = tuple(row[name] for name in where)
        if key not in levels:
            named = ", ".join(f"{name}={value}" for name, value in zip(where, key))
            raise ValueError(f"delta_m needs a run of {baseline!r} with {named}: add it to the study's configs")
        rows.append({**row, "delta_m": delta_m(dict(zip(group["pair"], group["value"])), levels[key])})
    return pd.DataFrame(rows)


def _row(values: np.ndarray) -> dict[str, float]:
    """n, mean, sd and 95 % interval; NaN throughout where a value is (nothing of it was labelled)."""
    if np.isnan(values).any():
        return {"n": len(values), **dict.fromkeys(("mean", "sd", "low", "high"), np.nan)}
    found = estimate(values)
    return {"n": found.n, "mean": found.mean, "sd": found.sd, "low": found.low, "high": found.high}


def summary(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """n, mean, sd and 95 % t interval of a column within each group, in order of appearance."""
    import pandas as pd

    rows = []
    for key, group in frame.groupby(list(by), sort=False):
        rows.append({**dict(zip(by, key if isinstance(key, tuple) else (key,))), **_row(group[value].to_numpy(float))})
    return pd.DataFrame(rows)


def differences(
    frame: pd.DataFrame, value: str, *, method: Hashable, against: Hashable, by: Sequence[str] = ("tasks",)
) -> dict[Hashable, Estimate]:
    """`method` minus `against` in a column, paired by seed: an `Estimate` for each group of `by` that has both.

    Keys are the group's value, or the tuple of them where `by` names several columns.
    """
    found: dict[Hashable, Estimate] = {}
    for key, group in frame.groupby(list(by), sort=False):
        first, second = (group[group["method"] == name].set_index("seed")[value] for name in (method, against))
        if not (first.index.is_unique and second.index.is_unique):
            raise ValueError(
                f"several runs of one seed within {dict(zip(by, key))}: add the field that differs to `by`"
            )
        if set(first.index) & set(second.index):
            name = key[0] if isinstance(key, tuple) and len(key) == 1 else key
            found[name] = estimate(paired(first.to_dict(), second.to_dict()))
    return found


def ordered_pairs(tasks: Iterable[str]) -> list[str]:
    """Pair names of one or several task sets in their own order, each once."""
    return list(dict.fromkeys(pair.name for name in tasks for pair in parts_of(name)))
