"""How figures look and are written: one colour per task type everywhere, two widths, files with their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matfl.core.files import replace_file
from matfl.tasks.task import DOMAINS, task_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "METHOD_COLORS",
    "WIDTHS",
    "figure",
    "legend_below",
    "marker",
    "method_color",
    "method_title",
    "pair_color",
    "pair_title",
    "save",
    "shared_legend",
    "short_title",
    "task_legend",
]

WIDTHS = {"single": 3.4, "double": 7.0}
"""Inches of a single- and a double-column figure."""

METHOD_COLORS = {
    "local": "#BBBBBB",
    "single_task": "#222222",
    "fedavg": "#DDAA33",
    "fedprox": "#997700",
    "matfl": "#BB5566",
    "matfl_uniform": "#EE99AA",
    "similarity_only": "#6699CC",
    "clustered": "#004488",
    "soft_grouping": "#44AA99",
}
"""Paul Tol's high- and medium-contrast colours for the methods of most figures; see `method_color` for the others."""

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


def pair_title(pair: str) -> str:
    """`outdoor/semseg` as written in figures: `Seg. (outdoor)`; derived labels are called so."""
    domain = DOMAINS[pair.partition("/")[0]]
    derived = ", derived" if _derived(pair) else ""
    return f"{_title(pair)} ({domain.title.removesuffix(' scenes')}{derived})"


def short_title(pair: str) -> str:
    """`outdoor/semseg` where space is short: `Seg. O`; I for indoor domains, a small d for derived labels."""
    return f"{_title(pair)} {'I' if DOMAINS[pair.partition('/')[0]].indoor else 'O'}{'d' * _derived(pair)}"


def _derived(pair: str) -> bool:
    domain, label = pair.split("/")
    return any(task in DOMAINS[domain].derived for task in label.partition("@")[0].split("+"))


def _title(pair: str) -> str:
    """Of a pair's task; of the part of a kind of client with both: 'Seg. of Seg. + Sal.'."""
    own, _, kind = pair.partition("@")
    if not kind:
        return task_of(own).title
    return f"{task_of(own).title} of {task_of(own.partition('/')[0] + '/' + kind).title}"


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


def method_title(method: str) -> str:
    """The method's title from the registry, or its name."""
    from matfl.server.methods import METHODS

    return METHODS[method].title if method in METHODS else method


def task_legend(pairs: list[str]) -> list[Any]:
    """Legend handles: one colour per task type that occurs, then one marker per domain."""
    from matplotlib.lines import Line2D

    tasks: dict[str, str] = {}
    for pair in pairs:
        tasks.setdefault(pair.partition("/")[2], pair)
    domains = dict.fromkeys(pair.partition("/")[0] for pair in pairs)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=task_of(pair).color, label=_title(pair))
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
    written = []
    for suffix, metadata in ((".pdf", {"Keywords": text, "CreationDate": None}), (".png", {"Description": text})):
        target = base.with_name(base.name + suffix)
        replace_file(target, partial(fig.savefig, format=suffix[1:], metadata=metadata))
        written.append(target)
    return written[0], written[1]


def legend_below(fig: Figure, handles: list[Any], *, ncols: int = 0) -> None:
    """One legend for the whole figure, under its axes."""
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=ncols or min(len(handles), 8),
        handletextpad=0.4,
        columnspacing=1.2,
    )


def shared_legend(fig: Figure, axes: Any, *, ncols: int = 0) -> None:
    """One legend under the figure for the labelled lines of several axes, each label once."""
    import numpy as np

    found: dict[str, Any] = {}
    for ax in np.atleast_1d(axes).flat:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    fig.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=ncols or min(len(found), 5), columnspacing=1.2
    )
