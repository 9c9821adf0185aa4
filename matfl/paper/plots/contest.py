"""One method against several others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import method_title
from matfl.paper.plots.marks import current_axes, interval, limits
from matfl.paper.plots.style import method_look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["contest"]


def contest(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Differences of delta_m with 95 % intervals, an opponent a row; right of 0 the method that is asked about wins.

    An arrow marks an interval that leaves the axes.

    Columns: against, server_lr (the opponent's step), difference, low, high.
    """
    ax = current_axes(ax)
    y = np.arange(len(frame))[::-1]
    reach = 3 * frame["difference"].abs().max()
    ax.set_xlim(*limits(frame[["difference", "low", "high"]].clip(-reach, reach), margin=0.06))
    ax.axvline(0, color="black", linewidth=0.7, zorder=0)
    for position, (_, row) in zip(y, frame.iterrows()):
        interval(ax, position, row["difference"], (row["low"], row["high"]), look=method_look(row["against"]))
    ax.set_yticks(y, [f"{method_title(m)}, step {s:.3g}" for m, s in zip(frame["against"], frame["server_lr"])])
    ax.set(xlabel="difference in $\\Delta_m$ (points)", ylim=(-0.6, len(frame) - 0.4))
    return ax
