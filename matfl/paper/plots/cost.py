"""Costs: the server's step, training throughput, bytes to reach a quality, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matfl.paper.plots.style import method_color, method_title
from matfl.paper.plots.updates import _axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["bytes_to_quality", "memory", "server_step", "throughput"]

_WAYS = {
    "naive": ("#DDAA33", "naive (all pairs of clients)"),
    "ours": ("#BB5566", "matfl"),
    "matfl": ("#BB5566", "matfl"),
    "floor": ("#222222", "floor"),
    "held": ("#6699CC", "all updates at once (computed)"),
    "streamed": ("#BB5566", "matfl, streamed (measured)"),
    "plain": ("#6699CC", "plain loop"),
    "reference": ("#DDAA33", "reference loop"),
}


def _lines(frame: pd.DataFrame, value: str, ax: Axes) -> None:
    for way, group in frame.groupby("way", sort=False):
        color, label = _WAYS.get(str(way), ("#888888", str(way)))
        ordered = group.sort_values("clients")
        ax.plot(ordered["clients"], ordered[value], color=color, label=label, marker="o")
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    counts = sorted(frame["clients"].unique())
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.set_xlabel("clients N")
    ax.legend(loc="upper left")


def server_step(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Seconds of one server step over the number of clients; columns clients, way (naive, ours, floor), seconds."""
    ax = _axes(ax)
    _lines(frame, "seconds", ax)
    ax.set_yscale("log")
    ax.set_ylabel("server step (s)")
    return ax


def memory(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Memory of the server step over the number of clients; columns clients, way (held, streamed), gigabytes."""
    ax = _axes(ax)
    _lines(frame, "gigabytes", ax)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("memory (GB)")
    return ax


def throughput(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training images per second as horizontal bars; columns machine, way (a loop's name), images_per_second."""
    ax = _axes(ax)
    several = frame["machine"].nunique() > 1
    y = range(len(frame))[::-1]
    ax.barh(list(y), frame["images_per_second"], color=[_WAYS.get(way, ("#888888", ""))[0] for way in frame["way"]])
    for position, value in zip(y, frame["images_per_second"]):
        ax.text(value, position, f" {value:,.0f}", va="center", size=7)
    labels = [
        _WAYS.get(way, ("", way))[1] + (f"\n{machine}" if several else "")
        for way, machine in zip(frame["way"], frame["machine"])
    ]
    ax.set_yticks(list(y), labels)
    ax.set(xlabel="training images / s")
    if several:
        ax.set_xscale("log")
    ax.margins(x=0.2)
    return ax


def bytes_to_quality(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """delta_m over the gigabytes sent so far, one line a method; columns method, gigabytes, delta_m (mean of seeds)."""
    ax = _axes(ax)
    for name, group in frame.groupby("method", sort=False):
        ordered = group.groupby("gigabytes")["delta_m"].mean().reset_index().sort_values("gigabytes")
        ax.plot(
            ordered["gigabytes"],
            ordered["delta_m"],
            color=method_color(str(name)),
            marker="o",
            markersize=2.5,
            label=method_title(str(name)),
            linewidth=1.9 if name == "matfl" else 1.1,
        )
    ax.axhline(0, color="black", linewidth=0.6, linestyle=":")
    ax.set(xlabel="sent up and down so far (GB)", ylabel="$\\Delta_m$ (%)")
    return ax
