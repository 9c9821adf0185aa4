"""The paper's comparisons in the paper's own measures: mIoU of segmentation and of saliency in the first domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.stats import holm_adjusted
from matfl.paper.studies.methods import STATEMENTS, reported
from matfl.paper.studies.tables import RunLike, differences, final
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "TABLE_1", "paper_measures"]

MEASURES = ("semseg", "sal")
"""The tasks whose mIoU the paper prints in its Tables 1 and 2: of PASCAL-Context alone, also beside clients of NYUD."""

TABLE_1 = tuple((method, against) for method, against, _ in STATEMENTS)
"""The comparisons that the paper draws from its Table 1, as (method, against)."""


def paper_measures(
    runs: Sequence[RunLike],
    comparisons: Sequence[tuple[str, str]] = TABLE_1,
    *,
    clients: Sequence[int] = (),
) -> pd.DataFrame:
    """Method minus method in each of `MEASURES` after the last round, paired by seed.

    Args:
        runs: of one server step.
        comparisons: (method, against) each.
        clients: the numbers of clients a task to compare at; all when empty.

    Returns:
        Columns tasks, pair, clients_per_task, method, against; n, mean, low, high (95 % t interval), p_holm (adjusted
        over all comparisons of a task set, in both measures and at all numbers of clients) and paper (the paper's
        difference; NaN where the task set stands for none of its own). A task set without a measure has no rows of it.
    """
    import pandas as pd

    rows = []
    for tasks, group in final(runs).groupby("tasks", sort=False) if runs else ():
        domain = pairs(str(tasks))[0].domain.name
        found = {
            (task, int(count), method, against): value  # type: ignore[call-overload]
            for task in MEASURES
            for method, against in comparisons
            for count, value in differences(
                group[group["pair"] == f"{domain}/{task}"],
                "value",
                method=method,
                against=against,
                by=["clients_per_task"],
            ).items()
            if not clients or count in clients
        }
        in_order = sorted(holm_adjusted(found).items(), key=lambda item: (MEASURES.index(item[0][0]), item[0][1]))
        for (task, count, method, against), value in in_order:
            first, second = (
                reported(str(tasks), count).get(name, {}).get(f"pascal/{task}", math.nan) for name in (method, against)
            )
            row = (tasks, f"{domain}/{task}", count, method, against)
            rows.append((*row, value.n, value.mean, value.low, value.high, value.p_holm, first - second))
    names = ("tasks", "pair", "clients_per_task", "method", "against", "n", "mean", "low", "high", "p_holm", "paper")
    return pd.DataFrame(rows, columns=names)
