"""From runs to tidy frames: final scores, delta_m against single-task FL, and differences paired by seed.

A run here is anything with `.config` (`RunConfig`) and `.metrics` (columns round, domain, task, client, kind, metric,
value).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import stats

from matfl.config.run_config import RunConfig
from matfl.tasks.meters import delta_m
from matfl.tasks.task import TASKS, pairs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CASE",
    "RunLike",
    "delta_table",
    "final",
    "interval",
    "ordered_pairs",
    "paired",
    "scores",
    "summary",
    "tidy",
]

CASE = ("tasks", "clients_per_task", "k", "voting_layers", "method", "seed")
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
    return frame[frame["metric"] == frame["task"].map({name: task.main_metric for name, task in TASKS.items()})]


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


def delta_table(frame: pd.DataFrame, *, baseline: str = "single_task") -> pd.DataFrame:
    """delta_m (percent) of every run in a `scores` frame against `baseline`: same tasks, clients, seed and round.

    Columns: `CASE`, round, delta_m. The baseline's own rows are 0. Raises ValueError where a baseline run is missing.
    """
    import pandas as pd

    where = ["tasks", "clients_per_task", "seed", "round"]
    reference = {}
    for key, group in frame[frame["method"] == baseline].groupby(where, sort=False):
        reference[key] = dict(zip(group["pair"], group["value"]))
    rows = []
    for case, group in frame.groupby([*CASE, "round"], sort=False):
        row = dict(zip((*CASE, "round"), case))
        key = tuple(row[name] for name in where)
        if key not in reference:
            named = ", ".join(f"{name}={value}" for name, value in zip(where, key))
            raise ValueError(f"delta_m needs a run of {baseline!r} with {named}: add it to the study's configs")
        rows.append({**row, "delta_m": delta_m(dict(zip(group["pair"], group["value"])), reference[key])})
    return pd.DataFrame(rows)


def interval(values: Sequence[float] | np.ndarray, *, confidence: float = 0.95) -> dict[str, float]:
    """Mean, standard deviation and t confidence interval of a few independent values (paired differences, say).

    With one value sd, low and high are NaN: a single seed says nothing about spread.
    """
    numbers = np.asarray(values, dtype=float)
    n = len(numbers)
    mean = float(numbers.mean())
    if n < 2:
        return {"n": n, "mean": mean, "sd": np.nan, "low": np.nan, "high": np.nan}
    sd = float(numbers.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * sd / n**0.5
    return {"n": n, "mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def summary(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """`interval` of a column within each group, in order of appearance."""
    import pandas as pd

    rows = []
    for key, group in frame.groupby(list(by), sort=False):
        rows.append({**dict(zip(by, key if isinstance(key, tuple) else (key,))), **interval(group[value].to_numpy())})
    return pd.DataFrame(rows)


def paired(
    frame: pd.DataFrame, value: str, *, method: str, against: str, by: Sequence[str] = ("tasks",)
) -> pd.DataFrame:
    """Interval of `method` minus `against` in a column, paired by seed within each group of `by`."""
    import pandas as pd

    rows = []
    for key, group in frame.groupby(list(by), sort=False):
        first, second = (group[group["method"] == name].set_index("seed")[value] for name in (method, against))
        both = first.index.intersection(second.index)
        if len(both) == 0:
            continue
        if not (first.index.is_unique and second.index.is_unique):
            raise ValueError(
                f"several runs of one seed within {dict(zip(by, key))}: add the field that differs to `by`"
            )
        difference = (first[both] - second[both]).to_numpy()
        rows.append({**dict(zip(by, key)), "method": method, "against": against, **interval(difference)})
    return pd.DataFrame(rows)


def ordered_pairs(tasks: Iterable[str]) -> list[str]:
    """Pair names of one or several task sets in their own order, each once."""
    return list(dict.fromkeys(pair.name for name in tasks for pair in pairs(name)))
