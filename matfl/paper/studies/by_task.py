"""Gains task by task: what each adds to a difference of delta_m, and what is left of the difference without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.stats import Estimate, estimate, holm_adjusted
from matfl.paper.studies.tables import RunLike, final, ordered_pairs
from matfl.tasks.meters import delta_m

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Entrant", "by_task", "gains"]

Entrant = tuple[str, float]
"""A method and its server step."""

COLUMNS = (
    "tasks", "against", "server_lr", "pair", "gain", "low", "high", "share", "without", "without_low", "without_high",
    "p_holm",
)  # fmt: skip


def by_task(runs: Sequence[RunLike], ours: Entrant, others: Sequence[Entrant]) -> pd.DataFrame:
    """`ours` minus each of `others` after the last round, task by task, paired by seed; who has no runs is left out.

    A task's gain is relative to single-task FL of the same seed at step 1, in percent: its mean over tasks is delta_m.
    Columns: tasks, against, server_lr (of `against`), pair; gain, low, high (the difference in that task, with its 95 %
    t interval); share (percent of the whole difference that this task makes; NaN where the whole is not told from 0);
    without, without_low, without_high (the difference of delta_m over the other tasks) and p_holm (of that difference,
    adjusted over `others`).
    """
    import pandas as pd

    rows = []
    for tasks, gains in _gains(runs).items():
        leads = {other: (gains[ours] - gains[other]).dropna() for other in others if {ours, other} <= set(gains)}
        without = {
            pair: holm_adjusted({o: estimate(lead.drop(columns=pair).mean(axis=1)) for o, lead in leads.items()})
            for pair in next(iter(leads.values()), ())
        }
        for other, lead in leads.items():
            whole = estimate(lead.mean(axis=1))
            for pair in lead:
                task, rest = estimate(lead[pair]), without[pair][other]
                share = 100 * task.mean / (whole.mean * lead.shape[1]) if _told_from_0(whole) else math.nan
                row = (tasks, *other, pair, task.mean, task.low, task.high, share)
                rows.append((*row, rest.mean, rest.low, rest.high, rest.p_holm))
    return pd.DataFrame(rows, columns=COLUMNS)


def gains(runs: Sequence[RunLike]) -> pd.DataFrame:
    """Each run's gain over single-task FL of the same seed at step 1 after the last round, task by task, in percent.

    Columns: tasks, method, server_lr, seed, pair, gain; the mean over pairs is delta_m. No rows for a single task.
    """
    import pandas as pd

    rows = [
        (tasks, *entrant, seed, pair, value)
        for tasks, by_entrant in _gains(runs).items()
        for entrant, frame in by_entrant.items()
        for seed, values in frame.iterrows()
        for pair, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["tasks", "method", "server_lr", "seed", "pair", "gain"])


def _told_from_0(value: Estimate) -> bool:
    return value.low > 0 or value.high < 0


def _gains(runs: Sequence[RunLike]) -> dict[str, dict[Entrant, pd.DataFrame]]:
    """Task set of several tasks -> entrant -> gains over single-task FL in percent, a row a seed, a column a pair."""
    import pandas as pd

    found: dict[str, dict[Entrant, pd.DataFrame]] = {}
    for tasks, frame in final(runs).groupby("tasks", sort=False) if runs else ():
        wide = frame.pivot(index=["method", "server_lr", "seed"], columns="pair", values="value")
        wide = wide[ordered_pairs([str(tasks)])]
        if wide.shape[1] == 1:
            continue
        base = wide.loc["single_task", 1.0]
        for (method, step), rows in wide.groupby(level=["method", "server_lr"], sort=False):
            values = rows.droplevel(["method", "server_lr"])
            gains = {pair: _gain(pair, values[pair], base[pair]) for pair in values}
            found.setdefault(str(tasks), {})[str(method), float(step)] = pd.DataFrame(gains, index=values.index)
    return found


def _gain(pair: str, values: pd.Series, base: pd.Series) -> list[float]:
    return [delta_m({pair: value}, {pair: base[seed]}) for seed, value in values.items()]
