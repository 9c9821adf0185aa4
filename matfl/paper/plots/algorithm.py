"""Algorithm 1 by hand: updates as arrows, and small arrays with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.style import pair_color
from matfl.paper.plots.updates import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["arrows", "numbers"]


def arrows(
    vectors_N2: NDArray[np.floating], names: Sequence[str], pairs: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Updates of two numbers as arrows from the common start, in their tasks' colours, with the clients' names."""
    ax = _axes(ax)
    reach = 1.35 * float(np.abs(vectors_N2).max())
    for (x, y), name, pair in zip(vectors_N2, names, pairs, strict=True):
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": pair_color(pair), "linewidth": 1.6})
        ax.text(1.17 * x, 1.17 * y, name, color=pair_color(pair), ha="center", va="center", weight="bold")
    ax.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
    ax.axvline(0, color="#cccccc", linewidth=0.6, zorder=0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    return ax


def numbers(
    matrix: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    fmt: str = ".2f",
    low: float = 0.0,
    high: float = 1.0,
    marked: NDArray[np.bool_] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A small array as shaded cells with its numbers; colours run from `low` to `high`, `marked` cells are framed."""
    from matplotlib.patches import Rectangle

    ax = _axes(ax)
    ax.imshow(matrix, cmap="Blues", vmin=low, vmax=high + 0.35 * (high - low), aspect="equal")
    for i, j in np.ndindex(matrix.shape):
        ax.text(j, i, format(matrix[i, j], fmt), ha="center", va="center", size=7)
        if marked is not None and marked[i, j]:
            ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, linewidth=1.4, color="#BB5566"))
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
