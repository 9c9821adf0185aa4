"""One method against several others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.plots.style import method_color, method_title
from matfl.paper.plots.updates import _axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["contest"]


def contest(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Differences of delta_m with 95 % intervals, an opponent a row; right of 0 the method that is asked about wins.

    Columns: against, server_lr (the opponent's step), difference, low, high.
    """
    ax = _axes(ax)
    y = np.arange(len(frame))[::-1]
    for position, (_, row) in zip(y, frame.iterrows()):
        ax.plot([row["low"], row["high"]], [position] * 2, color=method_color(row["against"]), linewidth=1.5)
        ax.plot(row["difference"], position, marker="D", color=method_color(row["against"]), markersize=5)
    ax.axvline(0, color="black", linewidth=0.7)
    ax.set_yticks(y, [f"{method_title(m)}, step {s:g}" for m, s in zip(frame["against"], frame["server_lr"])])
    ax.set(xlabel="difference in delta_m (points)", ylim=(-0.6, len(frame) - 0.4))
    return ax
