"""Differences of delta_m at every evaluated round and before the last aggregation: does what ends so hold before?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from matfl.paper.studies.tables import RunLike, delta_table, differences, final, scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["by_round"]


def by_round(
    runs: Sequence[RunLike], pairs: Sequence[tuple[Hashable, Hashable]], *, column: str = "method", by: str = "tasks"
) -> pd.DataFrame:
    """For each of `pairs` the first minus the second, paired by seed; one that has no runs is left out.

    The two are values of `column`, and stand within one value of `by` (both fields of `CASE`); with another `column`
    than the method they are MaT-FL's runs alone. delta_m is against single-task FL of the same round. Columns: `by`,
    ours, against, kind ('global', after aggregation, or 'local', before it, of the last round alone), round, mean, low,
    high (95 % t interval over paired seeds), n.
    """
    import pandas as pd

    rows = []
    for kind, frame in (("global", scores(runs)), ("local", final(runs, kind="local"))):
        for at, part in delta_table(frame).groupby("round"):
            named = part if column == "method" else _by_column(part, column)
            for ours, against in pairs:
                found = differences(named, "delta_m", method=ours, against=against, by=(by,))
                for where, value in found.items():
                    row = {by: where, "ours": ours, "against": against, "kind": kind, "round": at}
                    rows.append(row | {"mean": value.mean, "low": value.low, "high": value.high, "n": value.n})
    columns = [by, "ours", "against", "kind", "round", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values([by, "ours", "against"], key=_places, kind="stable")


def _by_column(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """MaT-FL's rows, told apart by another field than the method."""
    own = frame[frame["method"] == "matfl"]
    return own.assign(method=own[column])


def _places(names: pd.Series) -> pd.Series:
    """Where each name first stands, to sort by order of appearance."""
    return names.map({name: place for place, name in enumerate(dict.fromkeys(names))})
