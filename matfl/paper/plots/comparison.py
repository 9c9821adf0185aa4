"""Tables 1 and 2 and Figure 4 as pictures: methods against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.plots.style import method_color, method_title, pair_color, pair_title
from matfl.paper.plots.updates import _axes
from matfl.tasks.task import task_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["clients_per_task", "k_sweep", "layers_sweep", "learning_curves", "methods"]


def methods(deltas: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """delta_m of every method against single-task FL: a dot per seed, and the mean with its 95 % interval.

    `deltas` has columns method, seed, delta_m.
    """
    from matfl.paper.stats import estimate

    ax = _axes(ax)
    order = list(deltas["method"].unique())
    for y, name in enumerate(reversed(order)):
        values = deltas.loc[deltas["method"] == name, "delta_m"].to_numpy()
        bound = estimate(values)
        color = method_color(name)
        ax.plot(values, np.full(len(values), y), linestyle="", marker="o", markersize=3, alpha=0.55, color=color)
        if np.isfinite(bound.low):
            ax.plot([bound.low, bound.high], [y, y], color=color, linewidth=1.2)
        ax.plot(bound.mean, y, marker="D", markersize=5, color=color, markeredgecolor="white", markeredgewidth=0.5)
    ax.axvline(0, color="black", linewidth=0.6)
    _limit(ax, deltas["delta_m"].to_numpy())
    ax.set(
        yticks=range(len(order)),
        yticklabels=[method_title(name) for name in reversed(order)],
        xlabel="$\\Delta_m$ against single-task FL (%)",
        ylim=(-0.6, len(order) - 0.4),
    )
    return ax


def _limit(ax: Axes, values: np.ndarray) -> None:
    """x range by the seeds' values: the interval of two or three seeds may reach far outside it."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = 0.25 * max(high - low, 0.5)
    ax.set_xlim(low - margin, high + margin)


def learning_curves(scores: pd.DataFrame, pair: str, *, ax: Axes | None = None) -> Axes:
    """A pair's main metric over the rounds, one line a method (mean over seeds), MaT-FL with its seeds' range.

    `scores` has columns method, seed, round, pair, value.
    """
    ax = _axes(ax)
    chosen = scores[scores["pair"] == pair]
    for name, group in chosen.groupby("method", sort=False):
        by_round = group.groupby("round")["value"]
        mean = by_round.mean()
        color = method_color(str(name))
        ax.plot(
            mean.index,
            mean,
            color=color,
            label=method_title(str(name)),
            zorder=3 if name == "matfl" else 2,
            linewidth=1.9 if name == "matfl" else 1.1,
        )
        if name == "matfl":
            ax.fill_between(mean.index, by_round.min(), by_round.max(), color=color, alpha=0.15, linewidth=0)
    task = task_of(pair)
    arrow = "↑" if task.higher_is_better else "↓"
    ax.set_title(pair_title(pair), color=pair_color(pair))
    ax.set(xlabel="round", ylabel=f"{task.main_metric} {arrow}", xticks=sorted(chosen["round"].unique()))
    return ax


def k_sweep(
    frame: pd.DataFrame,
    *,
    value: str = "value",
    sweep: str = "k",
    swept: str = "matfl",
    label: str = "Seg. mIoU",
    ax: Axes | None = None,
) -> Axes:
    """A value over K for MaT-FL with the seeds' range, and the methods that know no K as horizontal lines (Figure 4).

    `frame` has columns method, seed, `sweep` and `value`.
    """
    ax = _axes(ax)
    own = frame[frame["method"] == swept]
    by_k = own.groupby(sweep)[value]
    mean = by_k.mean()
    for i, (name, group) in enumerate(frame[frame["method"] != swept].groupby("method", sort=False)):
        color = method_color(str(name))
        style = ("--", "-.", ":")[i % 3]
        ax.axhline(group[value].mean(), color=color, linestyle=style, linewidth=1.2, label=method_title(str(name)))
        ax.axhspan(group[value].min(), group[value].max(), color=color, alpha=0.08, linewidth=0)
    color = method_color(swept)
    ax.fill_between(mean.index, by_k.min(), by_k.max(), color=color, alpha=0.18, linewidth=0)
    ax.plot(mean.index, mean, color=color, marker="o", linewidth=1.9, label=method_title(swept), zorder=3)
    ax.set(xlabel="$K$" if sweep == "k" else sweep, ylabel=label, xticks=list(mean.index))
    return ax


def layers_sweep(frame: pd.DataFrame, *, value: str, label: str, ax: Axes | None = None) -> Axes:
    """A value over the number of voting layers, a dot per seed and a line through the means.

    `frame` has columns voting_layers, seed and `value`; correctness is shown beside its column `chance`.
    """
    ax = _axes(ax)
    mean = frame.groupby("voting_layers")[value].mean()
    ax.plot(frame["voting_layers"], frame[value], linestyle="", marker="o", alpha=0.5, color=method_color("matfl"))
    ax.plot(mean.index, mean, color=method_color("matfl"))
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xlabel="voting layers", ylabel=label, xticks=list(mean.index), xticklabels=[str(n) for n in mean.index])
    if value == "correctness":
        ax.set_ylim(0, 1.04)
        ax.axhline(frame["chance"].iloc[0], color="black", linestyle=":", linewidth=1, label="at random")
        ax.legend(loc="lower left")
    return ax


def clients_per_task(
    frame: pd.DataFrame, *, value: str, label: str, methods: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """A value over the number of clients per task: a line a method, a dot a seed (Table 2).

    `frame` has columns method, clients_per_task, seed and `value`.
    """
    ax = _axes(ax)
    counts = sorted(frame["clients_per_task"].unique())
    for i, name in enumerate(methods or frame["method"].unique()):
        group = frame[frame["method"] == name]
        mean = group.groupby("clients_per_task")[value].mean()
        positions = np.array([counts.index(n) for n in group["clients_per_task"]], float) + 0.04 * (i - 1.5)
        color = method_color(name)
        ax.plot(positions, group[value], linestyle="", marker="o", markersize=3, alpha=0.5, color=color)
        ax.plot(
            [counts.index(n) for n in mean.index],
            mean,
            color=color,
            label=method_title(name),
            linewidth=1.9 if name == "matfl" else 1.2,
        )
    ax.set(xticks=range(len(counts)), xticklabels=[str(n) for n in counts], xlabel="clients per task", ylabel=label)
    return ax
