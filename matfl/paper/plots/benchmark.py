"""The gallery: pictures and labels, class frequencies, the partition, and the transfer test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.style import pair_color, pair_title, short_title
from matfl.paper.plots.updates import _axes
from matfl.tasks.task import IGNORE, TASKS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["class_frequencies", "gallery", "label_colors", "label_picture", "partition", "transfer"]


def label_colors(count: int) -> NDArray[np.float64]:
    """(count, 3) colours of the classes of a segmentation map, the first (background) dark."""
    from matplotlib import colormaps

    table = np.array([*colormaps["tab20"].colors, *colormaps["tab20b"].colors])  # type: ignore[attr-defined]
    strong_then_pale = np.r_[0:20:2, 1:20:2, 20:40]
    return np.vstack([[[0.13, 0.13, 0.16]], table[strong_then_pale]])[:count]


def label_picture(label: NDArray[np.generic], task: str, channels: int) -> NDArray[np.float64]:
    """(H, W, 3) picture of a label in the conventions of `matfl.tasks.task`; pixels without a label are mid-grey."""
    from matplotlib import colormaps

    kind = TASKS[task]
    values = label.astype(float)
    if task == "normals":
        picture = (np.moveaxis(values, 0, -1) + 1) / 2
        missing = (values == 0).all(0)
    elif task == "depth":
        missing = values == 0
        near, far = (values[~missing].min(), values[~missing].max()) if (~missing).any() else (0.0, 1.0)
        picture = colormaps["viridis_r"]((values - near) / max(far - near, 1e-6))[..., :3]
    else:
        missing = values == IGNORE
        index = np.where(missing, 0, values).astype(int)
        palette = np.array([[0.0] * 3, [1.0] * 3]) if channels == 1 else label_colors(channels)
        picture = palette[index]
    if kind.ignore in (0, IGNORE):
        picture = np.where(missing[..., None], 0.5, picture)
    return np.clip(picture, 0, 1)


def gallery(columns: Sequence[tuple[str, Sequence[NDArray[np.generic]]]], axes: NDArray[np.object_]) -> None:
    """Fill a grid of axes (rows x columns): a column is a title ('image' or a pair's name) and its pictures.

    Images are (3, H, W) uint8, labels as `label_picture` takes them; the pair tells which.
    """
    from matfl.tasks.task import pair as pair_of

    for j, (title, items) in enumerate(columns):
        for i, item in enumerate(items):
            ax = axes[i, j]
            if title == "image":
                picture = np.moveaxis(item, 0, -1)
            else:
                chosen = pair_of(title)
                picture = label_picture(item, chosen.task.name, chosen.channels)
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
            if i == 0:
                heading = title if title == "image" else TASKS[title.partition("/")[2]].title
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
