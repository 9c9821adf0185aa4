"""The explanation as pictures: how far steps go, how partners' cosines fall, what a larger server step does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import method_title
from matfl.paper.plots.marks import course, current_axes, whole_rounds
from matfl.paper.plots.style import method_look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["cosine_course", "delta_over_rounds", "step_components"]


def delta_over_rounds(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """delta_m over the rounds, a line a (method, server step): mean over seeds.

    Marks are filled at step 1 and hollow at others; bars at the right end reach from the worst to the best seed of the
    last round. Columns method, server_lr, seed, round, delta_m.
    """
    ax = current_axes(ax)
    for place, ((method, step), group) in enumerate(frame.groupby(["method", "server_lr"], sort=False)):
        look = method_look(str(method)) | ({} if step == 1 else {"markerfacecolor": "white"})
        label = f"{method_title(str(method))}, step {step:.3g}"
        course(ax, group, "delta_m", look=look, label=label, place=place)
    ax.axhline(0, color="black", linewidth=0.6, zorder=0)
    rounds = sorted(frame["round"].unique())
    ax.set(xlabel="round", ylabel="$\\Delta_m$ (%)", xticks=rounds[:: max(1, len(rounds) // 6)])
    return ax


def step_components(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Component of a task's step along its own, a row a (method, step): dots are seeds, the cross is the theory.

    Columns method, server_lr, own, own_theory. 1 is the step of single-task FL.
    """
    ax = current_axes(ax)
    cases = list(dict.fromkeys(zip(frame["method"], frame["server_lr"])))
    for y, (method, step) in enumerate(reversed(cases)):
        group = frame[(frame["method"] == method) & (frame["server_lr"] == step)]
        look = method_look(str(method)) | {"linestyle": ""}
        ax.plot(group["own"], np.full(len(group), y), alpha=0.7, label="a seed" if y == 0 else None, **look)
        label = "orthogonal updates of one length" if y == 0 else None
        ax.plot(group["own_theory"].mean(), y, marker="x", color="black", linestyle="", markersize=6, label=label)
    ax.axvline(1, color="black", linewidth=0.6, zorder=0)
    ax.set(
        yticks=range(len(cases)),
        yticklabels=[f"{method_title(method)}, step {step:.3g}" for method, step in reversed(cases)],
        xlabel="component of the step along the task's own",
        ylim=(-0.6, len(cases) - 0.4),
    )
    return ax


def cosine_course(
    frame: pd.DataFrame, *, curve: NDArray[np.floating] | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Mean cosine of partners' and of other tasks' updates over the rounds with the seeds' range.

    Columns round, seed, partners, others; `curve` is the closed form (R,), drawn dotted.
    """
    ax = current_axes(ax)
    for column, label, color in (("partners", "same task", "#222222"), ("others", "other tasks", "#0077BB")):
        if frame[column].isna().all():
            continue
        by_round = frame.groupby("round")[column]
        mean = by_round.mean()
        ax.plot(mean.index, mean, color=color, label=label, linestyle="-" if column == "partners" else "--")
        ax.fill_between(mean.index, by_round.min(), by_round.max(), color=color, alpha=0.15, linewidth=0)
    if curve is not None:
        ax.plot(np.arange(1, len(curve) + 1), curve, color="#BB5566", linestyle=":", linewidth=1.6, label="closed form")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(xlabel="round", ylabel="mean cosine", title=title)
    whole_rounds(ax)
    return ax
