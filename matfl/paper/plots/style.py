"""How figures look and are written: one colour per task type everywhere, two widths, files with their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matfl.core.files import replace_file
from matfl.paper.names import domain_letter, is_derived, task_title
from matfl.tasks.task import DOMAINS, task_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "METHOD_COLORS",
    "SMALLEST",
    "WIDTHS",
    "figure",
    "legend_below",
    "legend_under",
    "marker",
    "method_color",
    "method_look",
    "pair_color",
    "save",
    "shared_legend",
    "short_title",
    "task_legend",
]

WIDTHS = {"single": 3.4, "double": 7.0}
"""Inches of a single- and a double-column figure."""
SMALLEST = 6.5
"""Points of the smallest type in any figure, at the size at which it is saved."""

METHOD_COLORS = {
    "local": "#AAAAAA",
    "single_task": "#222222",
    "fedavg": "#DDAA33",
    "fedprox": "#0077BB",
    "matfl": "#BB5566",
    "matfl_uniform": "#EE99AA",
    "similarity_only": "#88CCEE",
    "clustered": "#332288",
    "soft_grouping": "#44AA99",
}
"""Paul Tol's colours for the methods of most figures; see `method_look` for their marks and for the other methods."""

_METHOD_MARKS = {
    "local": ("X", (0, (1, 1))),
    "single_task": ("s", "-"),
    "fedavg": ("^", "--"),
    "fedprox": ("v", "-."),
    "matfl": ("o", "-"),
    "matfl_uniform": ("P", "--"),
    "similarity_only": ("<", "-."),
    "clustered": (">", (0, (1, 1))),
    "soft_grouping": ("p", (0, (3, 1, 1, 1, 1, 1))),
}
_OTHER_MARKS = ("D", "d", "h", "*", "8", "H", "X", "P", "<", ">", "p")
_LINES = ("-", "--", "-.", (0, (1, 1)))

_MARKERS = {True: "s", False: "o"}
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


def figure(
    columns: Literal["single", "double"] = "single", *, height: float, rows: int = 1, cols: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure of a column's width and `height` inches, and its axes as `plt.subplots` gives them."""
    import matplotlib.pyplot as plt

    if columns not in WIDTHS:
        raise ValueError(f"columns={columns!r}: choose 'single' or 'double'")
    plt.rcParams.update(_STYLE)  # type: ignore[arg-type]  # the stub lists every key
    return plt.subplots(rows, cols, figsize=(WIDTHS[columns], height), layout="constrained", **options)


def pair_color(pair: str) -> str:
    """The colour of a `domain/task` name: its task type's."""
    return task_of(pair).color


def marker(pair: str) -> str:
    """Square for indoor domains and circle for outdoor ones (paper, Figure 5)."""
    return _MARKERS[DOMAINS[pair.partition("/")[0]].indoor]


def short_title(pair: str) -> str:
    """`outdoor/semseg` where space is short: `Seg. O`, the domain's letter; a small d for derived labels."""
    return f"{task_title(pair)} {domain_letter(pair)}{'d' * is_derived(pair)}"


def method_color(method: str) -> str:
    """The method's colour: its own in `METHOD_COLORS`, else one of the evenly spaced hues of the other methods.

    A name that is not registered is grey.
    """
    from colorsys import hls_to_rgb

    from matfl.server.methods import METHODS

    if method in METHOD_COLORS:
        return METHOD_COLORS[method]
    others = [name for name in METHODS if name not in METHOD_COLORS]
    if method not in others:
        return "#777777"
    place = others.index(method)
    red, green, blue = hls_to_rgb(place / len(others), (0.3, 0.42, 0.54)[place % 3], 0.5)
    return f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"


def method_look(method: str) -> dict[str, Any]:
    """Colour, marker and line style of a method, as options of `plot`: no two methods differ by colour alone."""
    from matfl.server.methods import METHODS

    if method in _METHOD_MARKS:
        mark, line = _METHOD_MARKS[method]
    else:
        others = [name for name in METHODS if name not in _METHOD_MARKS]
        place = others.index(method) if method in others else 0
        mark, line = _OTHER_MARKS[place % len(_OTHER_MARKS)], _LINES[place % len(_LINES)]
    return {"color": method_color(method), "marker": mark, "linestyle": line}


def task_legend(pairs: list[str]) -> list[Any]:
    """Legend handles: one colour per task type that occurs, then one marker per domain."""
    from matplotlib.lines import Line2D

    tasks: dict[str, str] = {}
    for pair in pairs:
        tasks.setdefault(pair.partition("/")[2], pair)
    domains = dict.fromkeys(pair.partition("/")[0] for pair in pairs)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=task_of(pair).color, label=task_title(pair))
        for pair in tasks.values()
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker=_MARKERS[DOMAINS[domain].indoor],
            markerfacecolor="white",
            color="#444444",
            label=DOMAINS[domain].title,
        )
        for domain in domains
    ]
    return handles


def save(fig: Figure, path: str | Path, provenance: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `path` + .pdf and .png with the provenance inside as JSON; the same figure gives the same bytes.

    It lies in the PNG's text field Description and in the PDF's Keywords.
    """
    text = json.dumps(dict(provenance), sort_keys=True)
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    fig.canvas.draw()  # axes of a fixed aspect find their place in a second pass
    written = []
    for suffix, metadata in ((".pdf", {"Keywords": text, "CreationDate": None}), (".png", {"Description": text})):
        target = base.with_name(base.name + suffix)
        replace_file(target, partial(fig.savefig, format=suffix[1:], metadata=metadata))
        written.append(target)
    return written[0], written[1]


def legend_below(fig: Figure, handles: list[Any], *, ncols: int = 0) -> None:
    """One legend for the whole figure, under its axes."""
    _fitted(fig, handles, [handle.get_label() for handle in handles], ncols or min(len(handles), 8))


def shared_legend(fig: Figure, axes: Any, *, ncols: int = 0) -> None:
    """One legend under the figure for the labelled lines of several axes, each label once."""
    import numpy as np

    found: dict[str, Any] = {}
    for ax in np.atleast_1d(axes).flat:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    _fitted(fig, list(found.values()), list(found), ncols or min(len(found), 5))


def _fitted(fig: Figure, handles: list[Any], labels: list[str], ncols: int) -> None:
    """The legend in as many columns as the figure's width holds, at most `ncols`."""
    for columns in range(max(ncols, 1), 0, -1):
        legend = fig.legend(
            handles, labels, loc="outside lower center", ncols=columns, handletextpad=0.4, columnspacing=1.2
        )
        width = legend.get_window_extent(fig.canvas.get_renderer()).width  # type: ignore[attr-defined]
        if columns == 1 or width < fig.bbox.width:
            return
        legend.remove()


def legend_under(ax: Axes, *, ncols: int = 1) -> None:
    """The legend of one axes, under its x label: never over the data."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=ncols, handletextpad=0.4, columnspacing=1.2)
