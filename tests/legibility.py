"""What can be computed of a drawn figure's legibility, and the colours that people with a colour-vision deficiency see.

Each function returns a list of complaints in words; an empty list is a legible figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as it is seen, a row a channel."""


def seen(colors: list[str], deficiency: str | None) -> NDArray[np.float64]:
    """(N, 3) CIELAB of hexadecimal colours, as they are or as they are seen with a deficiency."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors])
    if deficiency:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = (linear @ np.array(DEFICIENCIES[deficiency]).T).clip(0, 1)
        rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(rgb[None])[0], dtype=float)


def closest(colors: dict[str, str]) -> dict[tuple[str, str], float]:
    """The least CIEDE2000 difference of each pair of named colours over normal sight and the three deficiencies."""
    names = list(colors)
    found = {}
    labs = [seen(list(colors.values()), deficiency) for deficiency in (None, *DEFICIENCIES)]
    for i, j in combinations(range(len(names)), 2):
        found[names[i], names[j]] = min(float(deltaE_ciede2000(lab[i], lab[j])) for lab in labs)
    return found


def texts(fig: Figure) -> Iterator[Text]:
    """All visible texts that are not empty; a heat map's numbers among them."""
    for text in fig.findobj(Text):
        axes = text.axes
        if text.get_visible() and text.get_text().strip() and (axes is None or axes.get_visible()):
            yield text


def small_type(fig: Figure, least: float) -> list[str]:
    """Texts below `least` points at the size at which the figure is saved."""
    return [
        f"{t.get_text()!r} has {t.get_fontsize():g} pt" for t in drawn_texts(fig) if t.get_fontsize() < least - 1e-6
    ]


def drawn_texts(fig: Figure) -> list[Text]:
    """Texts that are on the page: tick labels beyond an axis' ends and those of hidden axes are not."""
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    hidden: set[int] = set()
    for ax in fig.axes:
        parts = [t for axis in (ax.xaxis, ax.yaxis) for t in axis.findobj(Text)]
        if not ax.axison:
            hidden |= {id(t) for t in parts}
            continue
        for axis in (ax.xaxis, ax.yaxis):
            shown = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {id(label) for tick in ticks for label in (tick.label1, tick.label2) if id(label) not in shown}
    found = []
    for text in texts(fig):
        if id(text) in hidden:
            continue
        box = text.get_window_extent(renderer)
        if box.width > 0 and box.height > 0:
            found.append(text)
    return found


def overlaps(fig: Figure, *, slack: float = 1.0) -> list[str]:
    """Pairs of texts whose boxes share more than `slack` pixels in both directions."""
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in drawn_texts(fig)]
    return [
        f"{a!r} and {b!r} overlap"
        for (a, one), (b, two) in combinations(boxes, 2)
        if _shared(one, two)[0] > slack and _shared(one, two)[1] > slack
    ]


def _shared(one: Bbox, two: Bbox) -> tuple[float, float]:
    return min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0)


def outside(fig: Figure, *, slack: float = 1.0) -> list[str]:
    """Texts and legends that the canvas cuts."""
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    canvas = fig.bbox
    legends: list[Artist] = [*fig.legends, *(leg for ax in fig.axes if (leg := ax.get_legend()) is not None)]
    found = []
    for artist in [*drawn_texts(fig), *legends]:
        box = artist.get_window_extent(renderer)
        if min(box.x0, box.y0, canvas.x1 - box.x1, canvas.y1 - box.y1) < -slack:
            found.append(f"{getattr(artist, 'get_text', lambda: 'a legend')()!r} leaves the canvas")
    return found


def covered(fig: Figure) -> list[str]:
    """Legends that stand over points of lines or marks of their axes."""
    renderer = fig.canvas.get_renderer()  # type: ignore[attr-defined]
    found = []
    for ax in fig.axes:
        for legend in [leg for leg in (ax.get_legend(),) if leg is not None] + list(fig.legends):
            box = legend.get_window_extent(renderer)
            if any(box.contains(x, y) for x, y in _points(ax)):
                found.append(f"a legend covers data of {ax.get_title() or ax.get_ylabel()!r}")
    return found


def _points(ax: Axes) -> Iterator[tuple[float, float]]:
    inside = ax.bbox
    for line in ax.lines:
        if line.get_transform() == ax.transData and len(line.get_xdata()):
            for x, y in ax.transData.transform(np.asarray(line.get_xydata(), dtype=float)):
                if inside.contains(x, y):
                    yield float(x), float(y)


def unnamed(fig: Figure) -> list[str]:
    """Axes with numbers on them but no name: neither on themselves nor on the whole figure or a shared neighbour."""
    found = []
    for ax in fig.axes:
        if not ax.axison or ax.get_label() == "<colorbar>":
            continue
        for axis, own, whole in (
            ("x", ax.get_xlabel(), fig.get_supxlabel()),
            ("y", ax.get_ylabel(), fig.get_supylabel()),
        ):
            labels = [t.get_text() for t in getattr(ax, f"get_{axis}ticklabels")()]
            numbers = [text for text in labels if text.strip("−-+.0123456789") == "" and text]
            shared = [s for s in getattr(ax, f"get_shared_{axis}_axes")().get_siblings(ax) if s is not ax]
            named = own or whole or any(getattr(s, f"get_{axis}label")() for s in shared)
            if len(numbers) > 1 and not named:
                found.append(f"the {axis} axis of {ax.get_title()!r} has numbers and no name")
    return found
