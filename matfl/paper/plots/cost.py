"""Costs: the server's step, training throughput, bytes to reach a quality, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.paper.names import method_title
from matfl.paper.plots.marks import current_axes
from matfl.paper.plots.style import legend_under, method_look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["bytes_to_quality", "memory", "server_step", "throughput"]

_WAYS: dict[str, tuple[str, str, str, str]] = {
    "naive": ("#DDAA33", "^", "--", "naive (all pairs of clients)"),
    "ours": ("#BB5566", "o", "-", "matfl"),
    "matfl": ("#BB5566", "o", "-", "matfl"),
    "floor": ("#222222", "s", "-.", "floor"),
    "held": ("#0077BB", "", ":", "all updates at once (computed)"),
    "streamed": ("#BB5566", "o", "-", "matfl, streamed (measured)"),
    "plain": ("#0077BB", "v", "--", "plain loop"),
    "reference": ("#DDAA33", "^", "-.", "reference loop"),
}
"""Way -> colour, marker (none: computed, not measured), line style, words."""


def _way(name: str) -> tuple[str, str, str, str]:
    return _WAYS.get(name, ("#888888", "D", "-", name))


def _lines(frame: pd.DataFrame, value: str, ax: Axes) -> None:
    for name, group in frame.groupby("way", sort=False):
        color, mark, line, words = _way(str(name))
        ordered = group.sort_values("clients")
        ax.plot(ordered["clients"], ordered[value], color=color, label=words, marker=mark, linestyle=line)
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    counts = sorted(frame["clients"].unique())
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.set_xlabel("clients N")
    legend_under(ax, ncols=1)


def server_step(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Seconds of one server step over the number of clients; columns clients, way (naive, ours, floor), seconds.

    Thin lines show how a time grows that is proportional to N (bytes moved) or to N^2 (cosines of all pairs).
    """
    ax = current_axes(ax)
    ax.set_yscale("log")
    own = frame[frame["way"] == "ours"].sort_values("clients")
    if len(own) > 1:
        clients = own["clients"].to_numpy(dtype=float)[[0, -1]]  # on logarithmic axes a power is a straight line
        for power, words in ((1, "~ N"), (2, "~ N²")):
            grown = float(own["seconds"].iloc[-1]) * (clients / clients[1]) ** power
            ax.plot(clients, grown, color="#BBBBBB", linewidth=0.8, zorder=0)
            ax.text(clients[0] * 0.93, grown[0], words, size=7, color="#777777", ha="right", va="center")
    _lines(frame, "seconds", ax)
    ax.margins(x=0.12)
    ax.set_ylabel("server step (s)")
    return ax


def memory(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Memory of the server step over the number of clients; columns clients, way (held, streamed), gigabytes.

    What is measured has marks; what is computed is a dotted line.
    """
    ax = current_axes(ax)
    _lines(frame, "gigabytes", ax)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("memory (GB)")
    return ax


def throughput(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training images per second as horizontal bars; columns machine, way (a loop's name), images_per_second.

    Hatched where column `doubtful` is not empty: it says why the number is no measurement of the machine.
    """
    ax = current_axes(ax)
    several = frame["machine"].nunique() > 1
    y = list(range(len(frame)))[::-1]
    doubts = list(frame["doubtful"]) if "doubtful" in frame else [""] * len(frame)
    labels = []
    for at, row, doubt in zip(y, frame.itertuples(), doubts):
        color, _, _, words = _way(str(row.way))
        look: dict[str, Any] = {"color": color}
        if doubt:
            look = {"facecolor": "white", "hatch": "////", "edgecolor": color}
        value = float(row.images_per_second)  # type: ignore[arg-type]
        ax.barh(at, value, height=0.7, linewidth=0.8, **look)
        ax.text(value, at, f" {value:,.0f}", va="center", size=7)
        labels.append(words + (f", {doubt}" if doubt else "") + (f"\n{row.machine}" if several else ""))
    ax.set_yticks(y, labels)
    ax.set(xlabel="training images / s")
    if several:
        ax.set_xscale("log")
    ax.margins(x=0.2)
    return ax


def bytes_to_quality(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Gigabytes sent until each delta_m is first reached: a row a level, a mark a method, a line from seed to seed.

    Columns level (percent), method, seed, gigabytes (NaN where a seed never reaches it). A method of which a seed never
    does stands at the right edge as an arrow.
    """
    ax = current_axes(ax)
    levels = sorted(frame["level"].unique())
    names = list(frame["method"].unique())
    most = float(np.nanmax([1e-9, *frame["gigabytes"]]))
    ax.set_xlim(0, 1.12 * most)
    for i, name in enumerate(names):
        look, shown = method_look(name) | {"linestyle": ""}, False
        for row, level in enumerate(levels):
            sent = frame[(frame["method"] == name) & (frame["level"] == level)]["gigabytes"].to_numpy(dtype=float)
            at = row + 0.72 * (0.5 - (i + 0.5) / len(names))
            label = None if shown else method_title(name)
            shown = True
            if np.isnan(sent).any() or not len(sent):
                ax.plot(1.1 * most, at, color=look["color"], marker=">", markerfacecolor="white", linestyle="")
                ax.plot([], [], label=label, **look)
                continue
            ax.plot([sent.min(), sent.max()], [at, at], color=look["color"], linewidth=1.2)
            ax.plot(sent.mean(), at, label=label, markersize=4.5, **look)
    for row in range(1, len(levels)):
        ax.axhline(row - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(levels)), [f"{level:+g} %" for level in levels])
    ax.set(xlabel="sent up and down until then (GB)", ylabel="$\\Delta_m$ reached", ylim=(-0.5, len(levels) - 0.5))
    return ax
