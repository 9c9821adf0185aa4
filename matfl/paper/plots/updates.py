"""Figure 2: where the updates of single-task models lie, and how similar those of two tasks are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.plots.marks import current_axes, heat_labels, interval, labels_apart, limits
from matfl.paper.plots.style import SMALLEST, marker, pair_color, short_title, task_legend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

__all__ = ["KINDS", "cosine_matrix", "label_clusters", "neighbour_bars", "update_tsne"]

KINDS = {
    "same_task": ("same task", "#222222", "s"),
    "same_type_other_domain": ("same type, other domain", "#BB5566", "o"),
    "other_type_same_domain": ("other type, same domain", "#0077BB", "^"),
}
"""What two updates have in common -> words, colour, marker."""


def update_tsne(points: pd.DataFrame, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Points (columns x, y, pair) coloured by task type; squares indoor, circles outdoor; each pair's name beside it.

    A title says the perplexity where the frame has a column of that name. `label_clusters` writes the names once the
    figure's layout is final.
    """
    ax = current_axes(ax)
    for pair, group in points.groupby("pair", sort=False):
        ax.scatter(
            group["x"],
            group["y"],
            s=16,
            marker=marker(str(pair)),
            color=pair_color(str(pair)),
            edgecolor="white",
            linewidth=0.4,
            alpha=0.9,
        )
    ax.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    ax.set_aspect("equal", adjustable="datalim")
    if "perplexity" in points:
        ax.set_title(f"perplexity {float(points['perplexity'].iloc[0]):g}")
    if legend:
        ax.legend(
            handles=task_legend(list(points["pair"].unique())),
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handletextpad=0.2,
            labelspacing=0.6,
        )
    return ax


def label_clusters(points: pd.DataFrame, ax: Axes) -> None:
    """Each pair's name beside its points, kept apart from the others' and from marks; the last thing to draw."""
    groups = points.groupby("pair", sort=False)
    clusters = {short_title(str(name)): group[["x", "y"]].to_numpy(dtype=float) for name, group in groups}
    labels_apart(ax, clusters, [pair_color(str(name)) for name in groups.groups])


def cosine_matrix(
    matrix: pd.DataFrame,
    *,
    label: str = "mean cosine",
    fmt: str = ".2f",
    ends: tuple[float, float] | None = None,
    bar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean cosine of the updates of two pairs; rows and columns are `domain/task`. Equal task types are framed.

    Any other value between pairs is drawn likewise under its own `label` and number format. Colours rise from 0, or the
    least, where hardly anything is negative, else they diverge around 0; `ends` (least, greatest) are given to compare
    several matrices.
    """
    import seaborn as sns
    from matplotlib.patches import Rectangle

    ax = current_axes(ax)
    names = list(matrix.index)
    labels = [short_title(name) for name in names]
    values = matrix.to_numpy(dtype=float)
    low, high = ends or (float(np.nanmin(values)), float(np.nanmax(values)))
    limit = max(0.05, abs(low), abs(high))
    rising = low >= -0.15 * limit
    sns.heatmap(
        matrix,
        ax=ax,
        cmap=pale_blues() if rising else "RdBu_r",
        vmin=min(low, 0.0) if rising else -limit,
        vmax=limit,
        annot=np.array([[("" if np.isnan(v) else _short(v, fmt)) for v in row] for row in values]),
        fmt="",
        annot_kws={"size": SMALLEST},
        linewidths=0.3,
        cbar=bar,
        cbar_kws={"label": label} if bar else None,
    )
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if first.partition("/")[2] == second.partition("/")[2]:
                ax.add_patch(Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, fill=False, linewidth=1.0, color="black"))
    heat_labels(ax, labels)
    ax.set(xlabel="", ylabel="")
    for tick, name in zip((*ax.get_xticklabels(), *ax.get_yticklabels()), names + names):
        tick.set_color(pair_color(name))
    return ax


def _short(value: float, fmt: str) -> str:
    """`0.63` as `.63` and `-0.63` as `-.63`, since cells are small; a rounded zero has no sign."""
    text = format(value, fmt)
    if float(text) == 0:
        text = text.removeprefix("-")
    return re.sub(r"^(-?)0\.(\d\d)", r"\1.\2", text)


def pale_blues() -> ListedColormap:
    """Matplotlib's Blues without its darkest quarter, on which black numbers cannot be read."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    return ListedColormap(mpl.colormaps["Blues"](np.linspace(0, 0.75, 192)), name="pale_blues")


def neighbour_bars(variants: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Mean cosines of every variant: same task, same type in the other domain, other type in the same domain.

    Columns: variant, models, kind (`KINDS`), mean, low, high (95 %, NaN where it cannot be told).
    """
    ax = current_axes(ax)
    names = list(dict.fromkeys(zip(variants["variant"], variants["models"])))
    ax.set_xlim(*limits(variants["mean"], margin=0.15, least=0.2))
    ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    for i, (kind, (label, color, mark)) in enumerate(KINDS.items()):
        for y, (name, _) in enumerate(reversed(names)):
            for row in variants[(variants["variant"] == name) & (variants["kind"] == kind)].itertuples():
                place, bounds = y + 0.24 * (1 - i), (float(row.low), float(row.high))  # type: ignore[arg-type]
                shown = label if y == 0 else None
                interval(ax, place, float(row.mean), bounds, look={"color": color, "marker": mark}, label=shown)  # type: ignore[arg-type]
    titles = [f"{name}\n({models} models)" for name, models in reversed(names)]
    ax.set(yticks=range(len(names)), yticklabels=titles, xlabel="mean cosine of two updates")
    ax.set_ylim(-0.6, len(names) - 0.4)
    return ax
