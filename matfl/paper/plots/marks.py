"""Marks that several figures share: intervals that say where they leave the axes, courses, labels that keep apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.style import SMALLEST

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["course", "current_axes", "heat_labels", "interval", "labels_apart", "limits", "settle", "whole_rounds"]


THIN = ("X", "P", "*", "x")
"""Marks that a white edge would eat."""

WAYS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)])
"""Where a name stands beside its points: above, below, right, left, and between."""
GAPS, NEAR = (3, 9, 18, 30), 2
"""How far from them, in points; and how many of these are near enough to need no line."""


def current_axes(ax: Axes | None) -> Axes:
    """The given axes, or pyplot's."""
    import matplotlib.pyplot as plt

    return ax if ax is not None else plt.gca()


def limits(values: object, *, margin: float = 0.25, least: float = 0.5) -> tuple[float, float]:
    """An axis' ends by single values and 0, with a margin; an interval of two or three seeds may reach far outside."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    low, high = min(0.0, *numbers, 0.0), max(0.0, *numbers, 0.0)
    room = margin * max(high - low, least)
    return low - room, high + room


def interval(
    ax: Axes,
    at: float,
    mean: float,
    bounds: tuple[float, float],
    *,
    look: Mapping[str, Any],
    upright: bool = False,
    size: float = 5,
    label: str | None = None,
) -> None:
    """A mean with its interval at a place of the other axis; an arrow at the edge where it leaves the axes.

    The axes' limits must be set before. `look` holds color and marker; bounds of NaN draw the mean alone; `upright`
    intervals run along y.
    """
    ends = ax.get_ylim() if upright else ax.get_xlim()
    first, last = min(ends), max(ends)
    color, mark = look["color"], look.get("marker", "o")

    def place(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        fixed = [at] * len(values)
        return (fixed, values) if upright else (values, fixed)

    low, high = bounds
    if np.isfinite(low) and np.isfinite(high):
        ax.plot(*place([max(low, first), min(high, last)]), color=color, linewidth=1.3, solid_capstyle="butt")
        arrows = ("v", "^") if upright else ("<", ">")
        for outside, edge, arrow in ((low < first, first, arrows[0]), (high > last, last, arrows[1])):
            if outside:
                ax.plot(*place([edge]), marker=arrow, markersize=6, color=color, linestyle="", clip_on=False, zorder=5)
    ax.plot(
        *place([mean]),
        marker=mark,
        markersize=size,
        color=color,
        linestyle="",
        markeredgecolor=color if mark in THIN else "white",
        markeredgewidth=0.5,
        label=label,
        zorder=4,
    )


def course(
    ax: Axes,
    frame: pd.DataFrame,
    value: str,
    *,
    look: Mapping[str, Any],
    label: str | None = None,
    place: int = 0,
    strong: bool = False,
) -> None:
    """The seeds' mean of a column over the rounds, and at its right end a bar from the least to the greatest seed.

    Bars of several courses stand beside each other by their `place`. One seed has no bar.
    """
    by_round = frame.groupby("round")[value]
    mean = by_round.mean()
    ax.plot(
        mean.index, mean, label=label, markersize=3.2 if len(mean) > 1 else 5, linewidth=1.9 if strong else 1.1, **look
    )
    ends = by_round.get_group(mean.index[-1])
    if len(ends) > 1:
        step = 0.022 * max(float(mean.index[-1] - mean.index[0]), 1.0)
        at = float(mean.index[-1]) + (place + 1.2) * step
        ax.plot([at, at], [ends.min(), ends.max()], color=look["color"], linewidth=1.6, solid_capstyle="butt")


def labels_apart(
    ax: Axes, clusters: Mapping[str, NDArray[np.floating]], colors: Sequence[str], *, size: float = SMALLEST
) -> None:
    """Each cluster's name beside its points (M, 2; data coordinates), where it covers no other name and fewest marks.

    Tried are eight directions, near before far; a thin line leads back from a name that had to go far. The axes' limits
    and place must be final.
    """
    fig = ax.figure
    settle(fig)
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    point = fig.dpi / 72
    inside = ax.get_window_extent(renderer)
    places = [ax.transData.transform(points_M2) for points_M2 in clusters.values()]
    marks_M2, named_N4 = np.concatenate(places), np.zeros((0, 4))
    for name, its_M2, color in zip(clusters, places, colors, strict=True):
        text = ax.text(0, 0, name, color=color, size=size, ha="center", va="center", weight="bold", zorder=6)
        box = text.get_window_extent(renderer)
        half_2 = np.array([box.width, box.height]) / 2 + point
        low_2, high_2 = np.quantile(its_M2, (0.1, 0.9), axis=0)  # a stray mark does not carry the name away
        middle_2, reach_2 = (low_2 + high_2) / 2, (high_2 - low_2) / 2 + half_2
        tried_C2 = np.stack([middle_2 + way * (reach_2 + gap * point) for gap in GAPS for way in WAYS])
        tried_C2 = np.clip(tried_C2, inside.min + half_2, inside.max - half_2)
        marks_C = (np.abs(tried_C2[:, None] - marks_M2) < half_2 + 2 * point).all(-1).sum(1)
        names_C = (np.abs(tried_C2[:, None] - named_N4[:, :2]) < half_2 + named_N4[:, 2:]).all(-1).sum(1)
        chosen = int(np.argmin(marks_C + len(marks_M2) * names_C))
        here_2 = tried_C2[chosen]
        named_N4 = np.vstack([named_N4, [*here_2, *half_2]])
        x, y = ax.transData.inverted().transform(here_2)
        text.set_position((float(x), float(y)))
        if chosen >= NEAR * len(WAYS):
            edge_2 = np.clip(middle_2, here_2 - half_2, here_2 + half_2)
            ends_22 = ax.transData.inverted().transform(np.stack([middle_2, edge_2]))
            ax.plot(*ends_22.T, color=color, linewidth=0.5, alpha=0.7, zorder=2)


def settle(fig: Figure | SubFigure) -> None:
    """Draw until the layout stands: axes of a fixed aspect find their place only in a second pass."""
    for _ in range(2):
        fig.canvas.draw()


def whole_rounds(ax: Axes) -> None:
    """Ticks of the x axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def heat_labels(ax: Axes, names: Sequence[str], *, rows: Sequence[str] | None = None) -> None:
    """Labels of a heat map's columns, upright, and of its rows (default: the same), at every cell's middle."""
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
    below = names if rows is None else rows
    ax.set_yticks(np.arange(len(below)) + 0.5, below, rotation=0)
