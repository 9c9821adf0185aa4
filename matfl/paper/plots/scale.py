"""Many, private, packed and hostile clients as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.paper.names import method_title
from matfl.paper.plots.marks import current_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "attack_deltas",
    "attack_table",
    "crowd_bytes",
    "crowd_seconds",
    "epsilon_curve",
    "packed_quality",
    "sketch_error",
    "sketch_kept",
]

_SERIES = ("#BB5566", "#004488", "#DDAA33", "#44AA99", "#222222", "#999999")
_MARKS = ("o", "s", "^", "D", "v", "x")


def _styled(number: int) -> dict[str, Any]:
    return {"color": _SERIES[number % len(_SERIES)], "marker": _MARKS[number % len(_MARKS)]}


def crowd_seconds(
    frame: pd.DataFrame, parts: Mapping[str, str], *, to: int = 1_000_000, ax: Axes | None = None
) -> Axes:
    """Processor seconds of the parts of a server's step over the clients, both logarithmic.

    Dotted up to `to` clients is on paper, at the slope of the last three sizes. Columns clients and those that `parts`
    names (column -> label).
    """
    ax = current_axes(ax)
    for number, (column, label) in enumerate(parts.items()):
        if column in frame:
            known = frame[["clients", column]].dropna()
            ax.plot(known["clients"], known[column], label=label, markersize=3, **_styled(number))
            last = known.iloc[-3:]
            if len(last) > 1:
                slope = np.polyfit(np.log(last["clients"]), np.log(last[column]), 1)[0]
                n, seconds = last["clients"].iloc[-1], last[column].iloc[-1]
                ends = [seconds, seconds * (to / n) ** slope]
                ax.plot([n, to], ends, linestyle=":", linewidth=0.9, color=_SERIES[number % len(_SERIES)])
    ax.set(xscale="log", yscale="log", xlabel="clients N", ylabel="processor time (s)")
    return ax


def crowd_bytes(frame: pd.DataFrame, *, layers: int, length: int, to: int = 1_000_000, ax: Axes | None = None) -> Axes:
    """Gigabytes over the clients, both logarithmic: of whole updates, similarities and sketches, and the step's peak.

    Columns clients, parameters, peak_mb (measured).
    """
    ax = current_axes(ax)
    n = np.array([*frame["clients"], to], dtype=float)
    forms = {
        "all updates": 4 * n * frame["parameters"].iloc[-1],
        "similarities N x N": 4 * layers * n**2,
        "sketches": 4 * layers * length * n,
    }
    for number, (label, size) in enumerate(forms.items()):
        ax.plot(n, size / 1e9, label=label, linestyle="--", markersize=3, **_styled(number))
    ax.plot(
        frame["clients"], frame["peak_mb"] / 1e3, label="the step, measured", color="black", marker="o", markersize=3
    )
    ax.axhline(1, color="black", linewidth=0.6, linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="clients N", ylabel="memory (GB)")
    return ax


def sketch_error(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Error of cosines over a sketch's length: measured (dots are seeds) beside theory's (line).

    Columns length, seed, error, theory.
    """
    ax = current_axes(ax)
    ax.plot(frame["length"], frame["error"], linestyle="", marker="o", alpha=0.6, color="#BB5566", label="measured")
    theory = frame.groupby("length")["theory"].mean()
    ax.plot(theory.index, theory, color="#222222", linewidth=1, label="theory")
    ax.set(xscale="log", yscale="log", xlabel="numbers a layer d", ylabel="error of cosines")
    ax.set_xscale("log", base=2)
    return ax


def sketch_kept(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What sketches keep over their length: mean over seeds, bands reach from the worst seed to the best.

    Columns length, seed, votes, friends, partners, partners_exact, weights (L1 change, drawn as 1 - half of it).
    """
    ax = current_axes(ax)
    named = {"votes": "votes", "friends": "friends", "partners": "partners found"}
    shown = frame.assign(same=1 - frame["weights"] / 2)
    for number, (column, label) in enumerate({**named, "same": "weights"}.items()):
        by_length = shown.groupby("length")[column]
        mean = by_length.mean()
        ax.plot(mean.index, mean, label=label, markersize=3, **_styled(number))
        ax.fill_between(mean.index, by_length.min(), by_length.max(), alpha=0.12, linewidth=0, color=_SERIES[number])
    ax.axhline(frame["partners_exact"].mean(), color="black", linewidth=0.6, linestyle=":")
    ax.set(xlabel="numbers a layer d", ylabel="share that is kept", ylim=(0, 1.03))
    ax.set_xscale("log", base=2)
    return ax


def epsilon_curve(frame: pd.DataFrame, value: str, *, chance: float, label: str, ax: Axes | None = None) -> Axes:
    """A quantity over epsilon, a line for each sketch length; the last point is without noise, dotted is chance.

    Columns length, epsilon, seed and `value`.
    """
    ax = current_axes(ax)
    steps = sorted(frame["epsilon"].unique())
    for number, (length, group) in enumerate(frame.groupby("length")):
        by_epsilon = group.groupby("epsilon")[value]
        mean, places = by_epsilon.mean(), range(len(steps))
        ax.plot(places, mean, label=f"d = {length}", markersize=3, **_styled(number))
        ax.fill_between(places, by_epsilon.min(), by_epsilon.max(), alpha=0.12, linewidth=0, color=_SERIES[number])
    ax.axhline(chance, color="black", linewidth=0.6, linestyle=":")
    ax.set_xticks(range(len(steps)), [f"{step:g}" if np.isfinite(step) else "no noise" for step in steps])
    ax.set(xlabel="epsilon of a whole run", ylabel=label, ylim=(0, 1.03))
    return ax


def packed_quality(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """delta_m against float32 over the megabytes that a client sends a round; dots are seeds.

    Columns packing, seed, megabytes, delta_m.
    """
    ax = current_axes(ax)
    for number, (name, group) in enumerate(frame.groupby("packing", sort=False)):
        ax.plot(group["megabytes"], group["delta_m"], linestyle="", alpha=0.7, label=str(name), **_styled(number))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(xscale="log", xlabel="sent up by a client each round (MB)", ylabel="$\\Delta_m$ against float32 (%)")
    return ax


def attack_table(table: pd.DataFrame, *, label: str, fmt: str = ".2f", ax: Axes | None = None) -> Axes:
    """Attacks (rows) by defences (columns): numbers on a logarithmic scale of greys."""
    from matplotlib.colors import LogNorm

    ax = current_axes(ax)
    values = table.to_numpy(float)
    shown = ax.imshow(np.clip(values, 1e-2, None), norm=LogNorm(1e-2, 20), cmap="Greys", aspect="auto")
    for row, column in np.ndindex(values.shape):
        dark = values[row, column] > 0.9
        text = format(values[row, column], fmt)
        ax.text(column, row, text, ha="center", va="center", size=6.5, color="white" if dark else "black")
    ax.set_xticks(range(len(table.columns)), [_defence(str(name)) for name in table.columns], rotation=90)
    ax.set_yticks(range(len(table.index)), list(map(str, table.index)))
    ax.figure.colorbar(shown, ax=ax, label=label)
    return ax


def _defence(name: str) -> str:
    method, comma, rest = name.partition(",")
    return method_title(method) + comma + rest


def attack_deltas(frame: pd.DataFrame, tasks: str, attacks: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """delta_m under attacks, a row a defence, a mark an attack: small marks are seeds, large ones their mean.

    Columns defence, attack, seed and `tasks` ('attacked', 'others' or 'all').
    """
    ax = current_axes(ax)
    names = list(dict.fromkeys(frame["defence"]))
    for number, kind in enumerate(attacks):
        for y, name in enumerate(reversed(names)):
            values = frame[(frame["defence"] == name) & (frame["attack"] == kind)][tasks]
            place = y + 0.15 * (number - (len(attacks) - 1) / 2)
            style: dict[str, Any] = {"color": _SERIES[number], "marker": _MARKS[number], "linestyle": ""}
            ax.plot(values, np.full(len(values), place), markersize=2.5, alpha=0.5, **style)
            shown = {"none": "no attack"}.get(kind, kind) if y == 0 else None
            ax.plot([values.mean()], [place], markersize=5, label=shown, **style)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_xscale("symlog", linthresh=10)
    low = float(frame[tasks].min())
    ticks = [tick for tick in (-300, -100, -30, -10, -5, 0, 5, 10) if low - 5 <= tick <= float(frame[tasks].max()) + 5]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(yticks=range(len(names)), yticklabels=[_defence(name) for name in reversed(names)])
    ax.set(xlabel="$\\Delta_m$ against honest single-task FL (%)", ylim=(-0.6, len(names) - 0.4))
    return ax
