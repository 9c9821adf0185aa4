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
    ax: Axes,
    points_N2: NDArray[np.floating],
    texts: Sequence[str],
    colors: Sequence[str],
    *,
    size: float = SMALLEST,
    lift: float = 0.0,
) -> None:
    """A text `lift` points above each point (data coordinates), moved up and down until none covers another.

    A thin line leads back from a text that had to go far.

    The axes' limits and place must be final.
    """
    fig = ax.figure
    settle(fig)
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    drawn = [
        ax.text(x, y, text, color=color, size=size, ha="center", va="center", weight="bold", zorder=6)
        for (x, y), text, color in zip(points_N2, texts, colors, strict=True)
    ]
    boxes = [text.get_window_extent(renderer) for text in drawn]
    half_N2 = np.array([[box.width / 2 + 1, box.height / 2 + 1] for box in boxes])
    home_N2 = ax.transData.transform(np.asarray(points_N2, dtype=float))
    inside = ax.get_window_extent(renderer)
    low, high = np.array([inside.x0, inside.y0]) + half_N2, np.array([inside.x1, inside.y1]) - half_N2
    home_N2[:, 1] += lift * fig.dpi / 72
    at_N2 = np.clip(home_N2, low, high)
    for _ in range(300):
        gap_NN2 = at_N2[:, None] - at_N2[None, :]
        over_NN2 = half_N2[:, None] + half_N2[None, :] - np.abs(gap_NN2)
        clash_NN = (over_NN2 > 0).all(-1) & ~np.eye(len(at_N2), dtype=bool)
        if not clash_NN.any():
            break
        i, j = map(int, np.argwhere(clash_NN)[0])
        up = 1.0 if (at_N2[i, 1], i) >= (at_N2[j, 1], j) else -1.0
        shift = (over_NN2[i, j, 1] / 2 + 0.5) * up
        at_N2[i, 1] += shift
        at_N2[j, 1] -= shift
        at_N2 = np.clip(at_N2, low, high)
    for text, here, home, color in zip(drawn, at_N2, home_N2, colors):
        x, y = ax.transData.inverted().transform(here)
        text.set_position((float(x), float(y)))
        if np.hypot(*(here - home)) > 12:
            ends = ax.transData.inverted().transform(np.stack([home, here]))
            ax.plot(*ends.T, color=color, linewidth=0.5, alpha=0.7, zorder=2)


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
