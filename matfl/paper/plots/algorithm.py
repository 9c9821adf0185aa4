"""Algorithm 1 by hand: updates as arrows, and small arrays with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.marks import current_axes
from matfl.paper.plots.style import pair_color, short_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["arrows", "decisions", "numbers"]


def arrows(
    vectors_N2: NDArray[np.floating], names: Sequence[str], pairs: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Updates of two numbers as arrows from the common start, in their tasks' colours, with the clients' names."""
    ax = current_axes(ax)
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

    ax = current_axes(ax)
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


def decisions(
    matrix_NN: NDArray[np.floating],
    pairs: Sequence[str],
    *,
    label: str,
    marked: NDArray[np.bool_] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What every client (row) decided about every other (column) as shades; one label a task, `marked` cells framed.

    `label` says what the shades are, beside their scale.
    """
    ax = current_axes(ax)
    image = ax.imshow(matrix_NN, cmap="Blues", vmin=0)
    if marked is not None:
        rows, columns = np.nonzero(marked)
        ax.scatter(columns, rows, s=9, facecolor="none", edgecolor="#BB5566", linewidth=0.8, marker="s")
    names = list(dict.fromkeys(pairs))
    middles = [float(np.mean([i for i, pair in enumerate(pairs) if pair == name])) for name in names]
    ax.set_xticks(middles, [short_title(name) for name in names], rotation=90)
    ax.set_yticks(middles, [short_title(name) for name in names])
    for tick, name in zip((*ax.get_xticklabels(), *ax.get_yticklabels()), names + names, strict=True):
        tick.set_color(pair_color(name))
    ax.tick_params(length=0)
    ax.set(xlabel="chosen client", ylabel="choosing client")
    ax.figure.colorbar(image, ax=ax, shrink=0.9, label=label, location="bottom")
    return ax
