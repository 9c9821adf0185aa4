"""The gallery: pictures and labels, class frequencies, the partition, and the transfer test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.style import pair_color, pair_title, short_title
from matfl.paper.plots.updates import _axes
from matfl.tasks.task import pair

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["class_frequencies", "gallery", "partition", "transfer"]


def gallery(columns: Sequence[tuple[str, Sequence[NDArray[np.generic]]]], axes: NDArray[np.object_]) -> None:
    """Fill a grid of axes (rows x columns): a column is a title ('image' or a pair's name) and its pictures.

    Images are (3, H, W) uint8, labels as `Task.draw` takes them; the pair tells which.
    """
    for j, (title, items) in enumerate(columns):
        for i, item in enumerate(items):
            ax = axes[i, j]
            if title == "image":
                picture = np.moveaxis(item, 0, -1)
            else:
                chosen = pair(title)
                picture = chosen.task.draw(item, chosen.channels)
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
            if i == 0:
                heading = title if title == "image" else pair(title).task.title
                ax.set_title(heading, color="black" if title == "image" else pair_color(title), pad=2)


def class_frequencies(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of labelled pixels of each class as horizontal bars; columns class_name, share, images."""
    ax = _axes(ax)
    y = np.arange(len(frame))[::-1]
    ax.barh(y, frame["images"], color="#DDDDDD", label="of images")
    ax.barh(y, frame["share"], color="#004488", height=0.5, label="of pixels")
    ax.set_yticks(y, frame["class_name"])
    ax.set(xlabel="share", xlim=(0, 1), ylim=(-0.6, len(frame) - 0.4))
    return ax


def partition(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Images of each client, coloured by task; columns client, pair, images."""
    ax = _axes(ax)
    colors = [pair_color(pair) for pair in frame["pair"]]
    ax.bar(frame["client"], frame["images"], color=colors)
    ax.set_xticks(frame["client"], [short_title(pair) for pair in frame["pair"]], rotation=90, size=6)
    ax.set(ylabel="training images", xlabel="client")
    return ax


def transfer(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Gain (percent) of centralised multi-task over single-task training for each pair: a dot a seed, a bar the mean.

    `frame` has columns pair, sharing ('domain' or 'all'), seed, gain.
    """
    from matplotlib.patches import Patch

    ax = _axes(ax)
    names = list(frame["pair"].unique())
    kinds = list(frame["sharing"].unique())
    width = 0.8 / len(kinds)
    for i, kind in enumerate(kinds):
        for j, name in enumerate(names):
            values = frame[(frame["pair"] == name) & (frame["sharing"] == kind)]["gain"].to_numpy()
            x = j - 0.4 + (i + 0.5) * width
            ax.bar(x, values.mean(), width=width * 0.92, color=pair_color(name), alpha=1.0 if i == 0 else 0.5)
            ax.plot(np.full(len(values), x), values, linestyle="", marker="o", markersize=2.5, color="black", alpha=0.6)
    ax.axhline(0, color="black", linewidth=0.7)
    ax.set_xticks(range(len(names)), [pair_title(name) for name in names], rotation=35, ha="right")
    ax.set(ylabel="gain over single-task (%)")
    titles = {"domain": "with its domain's tasks", "all": "with all tasks"}
    ax.legend(
        handles=[
            Patch(color="#444444", alpha=1.0 if i == 0 else 0.5, label=titles.get(kind, kind))
            for i, kind in enumerate(kinds)
        ],
        ncols=2,
        loc="best",
    )
    return ax
