"""The paper's comparisons in the paper's own measures: mIoU of segmentation and of saliency in the first domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.names import STAND_IN
from matfl.paper.stats import holm_adjusted
from matfl.paper.studies.methods import PAPER, STATEMENTS
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
        Columns tasks, clients_per_task, pair, method, against; n, mean, low, high (95 % t interval), p_holm (adjusted
        over one measure's comparisons of a task set, at all numbers of clients together) and paper (the paper's
        difference; NaN where the task set stands for none of its own). A task set without a measure has no rows of it.
    """
    import pandas as pd

    rows = []
    for tasks, group in final(runs).groupby("tasks", sort=False) if runs else ():
        domain = pairs(str(tasks))[0].domain.name
        for task in MEASURES:
            scores = group[group["pair"] == f"{domain}/{task}"]
            found = {
                (int(str(count)), method, against): value
                for method, against in comparisons
                for count, value in differences(
                    scores, "value", method=method, against=against, by=["clients_per_task"]
                ).items()
                if not clients or count in clients
            }
            for (count, method, against), value in sorted(holm_adjusted(found).items(), key=lambda item: item[0][0]):
                row = (tasks, count, f"{domain}/{task}", method, against)
                estimated = (value.n, value.mean, value.low, value.high, value.p_holm)
                rows.append((*row, *estimated, _papers(str(tasks), count, task, method, against)))
    names = ("tasks", "clients_per_task", "pair", "method", "against", "n", "mean", "low", "high", "p_holm", "paper")
    return pd.DataFrame(rows, columns=names)


def _papers(tasks: str, clients_per_task: int, task: str, method: str, against: str) -> float:
    reported = PAPER.get((STAND_IN.get(tasks, tasks), clients_per_task), {})
    first, second = (reported.get(name, {}).get(f"pascal/{task}", math.nan) for name in (method, against))
    return first - second
