"""Figure 2: where the updates of single-task models lie, and how similar those of two tasks are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.plots.style import marker, pair_color, short_title, task_legend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["cosine_matrix", "neighbour_bars", "update_tsne"]


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    return ax if ax is not None else plt.gca()


def update_tsne(points: pd.DataFrame, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Points (columns x, y, pair) coloured by task type; squares indoor, circles outdoor."""
    ax = _axes(ax)
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
    if legend:
        ax.legend(
            handles=task_legend(list(points["pair"].unique())),
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handletextpad=0.2,
            labelspacing=0.6,
        )
    return ax


def cosine_matrix(
    matrix: pd.DataFrame, *, label: str = "mean cosine", fmt: str = ".2f", ax: Axes | None = None
) -> Axes:
    """Mean cosine of the updates of two pairs; rows and columns are `domain/task`. Equal task types are framed.

    Any other value between pairs is drawn likewise under its own `label` and number format.
    """
    import seaborn as sns
    from matplotlib.patches import Rectangle

    ax = _axes(ax)
    names = list(matrix.index)
    labels = [short_title(name) for name in names]
    limit = max(0.05, float(np.nanmax(np.abs(matrix.to_numpy()))))
    sns.heatmap(
        matrix,
        ax=ax,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        square=True,
        annot=True,
        fmt=fmt,
        annot_kws={"size": 5.5},
        xticklabels=labels,
        yticklabels=labels,
        linewidths=0.3,
        cbar_kws={"label": label, "shrink": 0.65},
    )
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if first.partition("/")[2] == second.partition("/")[2]:
                ax.add_patch(Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, fill=False, linewidth=1.0, color="black"))
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="x", rotation=60)
    ax.tick_params(axis="y", rotation=0)
    for tick, name in zip((*ax.get_xticklabels(), *ax.get_yticklabels()), names + names):
        tick.set_color(pair_color(name))
    return ax


def neighbour_bars(variants: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Mean cosines of every variant: same task, same type in the other domain, other type in the same domain.

    Columns: variant, same_task, same_type_other_domain, other_type_same_domain.
    """
    ax = _axes(ax)
    kinds = {
        "same_task": ("same task", "#222222"),
        "same_type_other_domain": ("same type, other domain", "#BB5566"),
        "other_type_same_domain": ("other type, same domain", "#6699CC"),
    }
    y = np.arange(len(variants))[::-1]
    height = 0.26
    for i, (column, (label, color)) in enumerate(kinds.items()):
        ax.barh(y + (1 - i) * height, variants[column], height=height, color=color, label=label)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set(yticks=y, yticklabels=variants["variant"], xlabel="mean cosine of two updates")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.22), ncols=1)
    return ax
