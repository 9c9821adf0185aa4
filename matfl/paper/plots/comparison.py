"""Tables 1 and 2 and Figure 4 as pictures: methods against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import method_title, metric_title, pair_title
from matfl.paper.plots.marks import course, current_axes, interval, limits
from matfl.paper.plots.style import METHOD_COLORS, method_look, pair_color

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["clients_per_task", "k_sweep", "layers_sweep", "learning_curves", "methods", "paper_clients"]

FEW = 7
"""Methods that a panel of learning curves tells apart by colour, mark and line."""


def methods(
    deltas: pd.DataFrame,
    *,
    order: Sequence[str] | None = None,
    ends: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """delta_m of every method against single-task FL: a dot per seed, and the mean with its 95 % interval.

    `deltas` has columns method, seed, delta_m. Panels side by side get the same `order` of methods (those without a run
    stay empty) and the same `ends` of the axis; an arrow marks an interval that leaves it.
    """
    from matfl.paper.stats import estimate

    ax = current_axes(ax)
    names = list(order if order is not None else deltas["method"].unique())
    ax.set_xlim(*(ends or limits(deltas["delta_m"])))
    for y, name in enumerate(reversed(names)):
        values = deltas.loc[deltas["method"] == name, "delta_m"].to_numpy()
        if not len(values):
            continue
        bound, look = estimate(values), method_look(name)
        if len(values) > 1:
            ax.plot(values, np.full(len(values), y), linestyle="", marker=".", markersize=4, color=look["color"])
        interval(ax, y, bound.mean, (bound.low, bound.high), look=look)
    ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    ax.set(
        yticks=range(len(names)),
        yticklabels=[method_title(name) for name in reversed(names)],
        xlabel="$\\Delta_m$ against single-task FL (%)",
        ylim=(-0.6, len(names) - 0.4),
    )
    return ax


def learning_curves(scores: pd.DataFrame, pair: str, *, ax: Axes | None = None) -> Axes:
    """A pair's main metric over the rounds, one line a method (mean over seeds), at its end the seeds' range.

    `scores` has columns method, seed, round, pair, value. Where there are more than a few methods, those of most
    figures (`METHOD_COLORS`) keep their looks and all others are grey.
    """
    ax = current_axes(ax)
    chosen = scores[scores["pair"] == pair]
    groups = list(chosen.groupby("method", sort=False))
    crowded = len(groups) > FEW
    place = 0
    for name, group in groups:
        if crowded and name not in list(METHOD_COLORS)[:5]:
            mean = group.groupby("round")["value"].mean()
            ax.plot(mean.index, mean, color="#CCCCCC", linewidth=0.8, label="other methods", zorder=1)
            continue
        title = method_title(str(name))
        course(ax, group, "value", look=method_look(str(name)), label=title, place=place, strong=name == "matfl")
        place += 1
    rounds = sorted(chosen["round"].unique())
    ax.set_title(pair_title(pair), color=pair_color(pair))
    ax.set(xlabel="round", ylabel=metric_title(pair), xticks=rounds[:: max(1, len(rounds) // 4)])
    return ax


def k_sweep(
    frame: pd.DataFrame,
    *,
    value: str = "value",
    swept: str = "matfl",
    label: str = "Seg. mIoU ↑",
    paired: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A value over K for MaT-FL, and the methods that know no K as horizontal lines (Figure 4).

    `frame` has columns method, k, seed and `value`. With `paired` the values are differences within each seed, and each
    mean has its 95 % t interval, the lines' at the right end; else means alone are drawn, since the spread of levels
    says nothing about differences.
    """
    from matfl.paper.stats import estimate

    ax = current_axes(ax)
    own = frame[frame["method"] == swept]
    mean = own.groupby("k")[value].mean()
    others = list(frame[frame["method"] != swept].groupby("method", sort=False))
    step = 0.05 * max(float(mean.index.max() - mean.index.min()), 1.0)
    look = method_look(swept)
    if paired:
        ax.set_ylim(*limits(frame[value], least=1e-6))
        ax.axhline(0, color="black", linewidth=0.6, zorder=0)
    for i, (name, group) in enumerate(others):
        color, line = method_look(str(name))["color"], method_look(str(name))["linestyle"]
        ax.axhline(group[value].mean(), color=color, linestyle=line, linewidth=1.3, label=method_title(str(name)))
        if paired:
            bound = estimate(group[value])
            at = float(mean.index.max()) + (i + 1) * step
            interval(ax, at, bound.mean, (bound.low, bound.high), look=method_look(str(name)), upright=True, size=4)
    ax.plot(mean.index, mean, label=method_title(swept), zorder=3, linewidth=1.9, **look)
    if paired:
        for k, group in own.groupby("k"):
            bound = estimate(group[value])
            interval(ax, float(k), bound.mean, (bound.low, bound.high), look=look, upright=True, size=4)  # type: ignore[arg-type]
    ax.set(xlabel="$K$", ylabel=label, xticks=list(mean.index))
    return ax


def layers_sweep(frame: pd.DataFrame, *, value: str, label: str, ax: Axes | None = None) -> Axes:
    """A value over the number of voting layers, a dot per seed and a line through the means.

    `frame` has columns voting_layers, seed and `value`; correctness is shown beside its column `chance`, delta_m beside
    0.
    """
    ax = current_axes(ax)
    mean, look = frame.groupby("voting_layers")[value].mean(), method_look("matfl")
    ax.plot(frame["voting_layers"], frame[value], linestyle="", marker=".", markersize=5, color=look["color"])
    ax.plot(mean.index, mean, markersize=4, **look)
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xlabel="voting layers", ylabel=label, xticks=list(mean.index), xticklabels=[str(n) for n in mean.index])
    ax.margins(x=0.15)
    if value == "correctness":
        chance = float(frame["chance"].iloc[0])
        ax.set_ylim(0, 1.04)
        ax.axhline(chance, color="black", linestyle=":", linewidth=1)
        ax.text(0.5, chance - 0.03, "at random", transform=ax.get_yaxis_transform(), size=7, va="top", ha="center")
    elif value == "delta_m":
        ax.axhline(0, color="black", linewidth=0.6, zorder=0)
    return ax


def clients_per_task(
    frame: pd.DataFrame, *, value: str, label: str, methods: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """A value over the number of clients per task: a line a method through the seeds' means, a dot a seed (Table 2).

    `frame` has columns method, clients_per_task, seed and `value`. Methods stand side by side within a number.
    """
    ax = current_axes(ax)
    counts = sorted(frame["clients_per_task"].unique())
    names = list(methods or frame["method"].unique())
    for i, name in enumerate(names):
        group = frame[frame["method"] == name]
        mean, look = group.groupby("clients_per_task")[value].mean(), method_look(name)
        shift = 0.07 * (i - (len(names) - 1) / 2)
        if group["seed"].nunique() > 1:
            at = [counts.index(n) + shift for n in group["clients_per_task"]]
            ax.plot(at, group[value], linestyle="", marker=".", markersize=4, alpha=0.7, color=look["color"])
        ax.plot(
            [counts.index(n) + shift for n in mean.index],
            mean,
            label=method_title(name),
            linewidth=1.9 if name == "matfl" else 1.2,
            markersize=5,
            **look,
        )
    if value == "delta_m":
        ax.axhline(0, color="black", linewidth=0.6, zorder=0)
    ax.set(xticks=range(len(counts)), xticklabels=[str(n) for n in counts], xlabel="clients per task", ylabel=label)
    ax.set_xlim(-0.35, len(counts) - 0.65)
    return ax


def paper_clients(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The paper's own numbers of Table 2 in the same form; columns method, clients_per_task, value (Seg. mIoU)."""
    ax = clients_per_task(frame.assign(seed=0), value="value", label="Seg. mIoU ↑", ax=ax)
    ax.set_title("the paper's (PASCAL-Context)")
    return ax
