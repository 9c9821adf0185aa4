"""The two looks at runs that everybody wants first: how methods compare, and who chose whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.studies import grouping_frequency, methods
from matfl.paper.studies.tables import final, ordered_pairs

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["choices", "compare"]


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """The last scores of runs, a row a (task set, method), averaged over seeds: every task's main metric on its models
    after aggregation and, where a run of 'single_task' is among them, delta_m against it in percent with its spread.

    >>> import matfl
    >>> table = matfl.compare([matfl.run("smoke", method=name) for name in ("single_task", "matfl")])
    >>> list(table.index.get_level_values("method"))
    ['single_task', 'matfl']
    >>> "delta_m" in table.columns
    True
    """
    if any(run.config.method == "single_task" for run in runs):
        return methods.table(runs)
    frame = final(runs)
    wide = frame.pivot_table(index=["tasks", "method"], columns="pair", values="value", sort=False)
    return wide[ordered_pairs(dict.fromkeys(frame["tasks"]))]


def choices(run: Run) -> pd.DataFrame:
    """The share of rounds in which a client of the row's task had one of the column's among its friends.

    The diagonal counts the partner of the same task, not the client itself. Raises ValueError for a method that chooses
    no friends.

    >>> import matfl
    >>> shares = matfl.choices(matfl.run("smoke", method="matfl"))
    >>> bool(((shares >= 0) & (shares <= 1)).all(axis=None))
    True
    """
    if "friends" not in run.diagnostics or not run.diagnostics["friends"].any():
        raise ValueError(f"method {run.config.method!r} chooses no friends: take a run of 'matfl' or 'matfl_uniform'")
    return grouping_frequency.neighbours([run])
