"""The gallery: pictures and labels with their keys, class frequencies, and the transfer test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matfl.paper.names import pair_title
from matfl.paper.plots.marks import current_axes, interval, limits
from matfl.paper.plots.style import SMALLEST, pair_color
from matfl.tasks.colours import class_colours
from matfl.tasks.kinds import Quantity
from matfl.tasks.task import pair

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["SHARING", "class_frequencies", "class_key", "gallery", "transfer"]

SHARING = {"domain": ("with its domain's tasks", "o", True), "all": ("with all tasks", "s", False)}
"""Which tasks share a backbone -> words, marker, filled."""


def gallery(columns: Sequence[tuple[str, Sequence[NDArray[np.generic]]]], axes: NDArray[np.object_]) -> None:
    """Fill a grid of axes (rows x columns): a column is a title ('image' or a pair's name) and its pictures.

    Images are (3, H, W) uint8, labels as `Task.draw` takes them; the pair tells which. Quantities, whose colours reach
    from each picture's nearest to its farthest, have these two numbers under them.
    """
    for j, (title, items) in enumerate(columns):
        for i, item in enumerate(items):
            ax = axes[i, j]
            if title == "image":
                picture = np.moveaxis(item, 0, -1)
            else:
                chosen = pair(title)
                picture = chosen.task.draw(item, chosen.channels)
                if isinstance(chosen.task, Quantity):
                    words = _reach(item, chosen.task)
                    ax.text(0.5, -0.03, words, transform=ax.transAxes, va="top", ha="center", size=7)
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
            if i == 0:
                heading = title if title == "image" else pair(title).task.title
                ax.set_title(heading, color="black" if title == "image" else pair_color(title), pad=2)


def _reach(label: NDArray[np.generic], task: Quantity) -> str:
    """The least (bright) and the greatest (dark) value of one picture."""
    values = np.asarray(label, dtype=float)
    known = values[np.isfinite(values) & (values != (np.nan if task.ignore is None else task.ignore))]
    return f"{known.min():.1f} to {known.max():.1f} {task.unit}".rstrip() if known.size else "no label"


def class_key(names: Mapping[str, Sequence[str]], pairs: Sequence[str]) -> list[Any]:
    """Legend handles: the colour of every class of the class maps among `pairs`; `names` are classes by task."""
    from matplotlib.patches import Patch

    handles = []
    for name in pairs:
        task = name.partition("/")[2]
        colours = class_colours(pair(name).channels) / 255
        handles += [
            Patch(color=tuple(colour), label=f"{pair(name).task.title} {words}")
            for colour, words in zip(colours, names.get(task, ()))
        ]
    return handles


def class_frequencies(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share (percent, logarithmic) of labelled pixels and of images that show each class; no class is too rare to see.

    Columns class_name, share, images.
    """
    ax = current_axes(ax)
    y = np.arange(len(frame))[::-1]
    pixels, images = (100 * frame[name].to_numpy(dtype=float) for name in ("share", "images"))
    shown = np.concatenate([pixels, images])
    least = 10 ** np.floor(np.log10(max(shown[shown > 0].min(initial=1.0), 1e-4)))
    ax.hlines(y, np.maximum(pixels, least), np.maximum(images, least), color="#CCCCCC", linewidth=1.2, zorder=1)
    ax.plot(images, y, "o", color="#888888", markerfacecolor="white", label="of images", clip_on=False)
    ax.plot(pixels, y, "o", color="#004488", label="of pixels", clip_on=False)
    ax.set_yticks(y, frame["class_name"])
    ax.set_xscale("log")
    lowest = round(np.log10(least))
    ticks = [10.0**e for e in range(2, lowest - 1, -1 if lowest > -2 else -2)]  # room for labels in a narrow panel
    ax.set(xlabel="share (%)", xlim=(least, 100), ylim=(-0.6, len(frame) - 0.4))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.tick_params(axis="y", labelsize=SMALLEST)
    return ax


def transfer(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Gain (percent) of centralised multi-task over single-task training: the seeds' mean with its 95 % interval.

    `frame` has columns pair, sharing (`SHARING`), seed, gain; dots are seeds. Arrangements differ by mark and filling.
    """
    from matplotlib.lines import Line2D

    from matfl.paper.stats import estimate

    ax = current_axes(ax)
    names = list(frame["pair"].unique())
    kinds = list(frame["sharing"].unique())
    ax.set_ylim(*limits(frame["gain"], margin=0.15))
    ax.axhline(0, color="black", linewidth=0.7, zorder=0)
    handles = []
    for i, kind in enumerate(kinds):
        words, mark, filled = SHARING.get(kind, (kind, "^", True))
        for j, name in enumerate(names):
            values = frame[(frame["pair"] == name) & (frame["sharing"] == kind)]["gain"].to_numpy()
            if not len(values):
                continue
            x, bound, color = j + 0.28 * (i - (len(kinds) - 1) / 2), estimate(values), pair_color(name)
            if len(values) > 1:
                ax.plot(np.full(len(values), x + 0.09), values, ".", markersize=3, color="#777777")
            interval(ax, x, bound.mean, (bound.low, bound.high), look={"color": color, "marker": mark}, upright=True)
            if not filled:
                ax.plot(x, bound.mean, mark, markersize=5, color=color, markerfacecolor="white", zorder=6)
        face = "#444444" if filled else "white"
        handles.append(Line2D([], [], linestyle="", marker=mark, color="#444444", markerfacecolor=face, label=words))
    ax.set_xticks(range(len(names)), [pair_title(name).replace(" (", "\n(").replace(", ", ",\n") for name in names])
    ax.set(ylabel="gain over single-task (%)")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    return ax
