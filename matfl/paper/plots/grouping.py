"""Figures 5 and 6: whom clients chose, and how their layers voted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matfl.paper.plots.style import marker, pair_color, pair_title, short_title
from matfl.paper.plots.updates import _axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "choice_matrix",
    "grouping_correctness",
    "grouping_graph",
    "layer_agreement",
    "vote_scale",
    "votes",
    "weight_shares",
]


def grouping_graph(
    frequency_NN: NDArray[np.floating], client: int, pairs: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Graph of how often `client` (in the middle) chose each other one: edge width and label are the frequency.

    Squares are indoor clients and circles outdoor ones, coloured by task type (Figure 5). Edges below 0.1 have no
    label, edges below 0.005 are not drawn.
    """
    import networkx as nx

    ax = _axes(ax)
    n = len(pairs)
    others = [j for j in range(n) if j != client]
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(others)) / len(others)
    position = {client: (0.0, 0.0)} | {j: (np.cos(a), np.sin(a)) for j, a in zip(others, angles)}
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    for j in others:
        weight = float(frequency_NN[client, j])
        if not weight >= 0.005:
            continue
        graph.add_edge(client, j)
        nx.draw_networkx_edges(
            graph,
            position,
            edgelist=[(client, j)],
            ax=ax,
            width=0.3 + 3.2 * weight,
            arrows=False,
            alpha=0.25 + 0.6 * weight,
            edge_color=pair_color(pairs[j]),
        )
        if weight >= 0.1:
            x, y = position[j]
            ax.text(
                1.27 * x,
                1.27 * y,
                f"{weight:.2f}".removeprefix("0"),
                size=6,
                ha="center",
                va="center",
                weight="bold" if pairs[j] == pairs[client] else "normal",
            )
    for node in range(n):
        own = node == client
        nx.draw_networkx_nodes(
            graph,
            position,
            nodelist=[node],
            ax=ax,
            node_shape=marker(pairs[node]),
            node_color=pair_color(pairs[node]),
            node_size=150 if own else 75,
            edgecolors="black" if own else "white",
            linewidths=1.3 if own else 0.5,
        )
    ax.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal")
    ax.set_axis_off()
    ax.set_title(pair_title(pairs[client]), color=pair_color(pairs[client]), weight="bold")
    return ax


def choice_matrix(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How often clients of the row's pair chose clients of the column's, as a heatmap with numbers."""
    import seaborn as sns

    ax = _axes(ax)
    labels = [short_title(name) for name in table.index]
    sns.heatmap(
        table,
        ax=ax,
        cmap="viridis",
        vmin=0,
        vmax=1,
        square=True,
        annot=True,
        fmt=".2f",
        linewidths=0.3,
        annot_kws={"size": 5.5},
        xticklabels=labels,
        yticklabels=labels,
        cbar_kws={"label": "share of rounds chosen", "shrink": 0.8},
    )
    ax.set(xlabel="chosen client", ylabel="choosing client")
    ax.tick_params(axis="x", rotation=60)
    ax.tick_params(axis="y", rotation=0)
    return ax


def grouping_correctness(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of same-task partners among the friends over the rounds, with the seeds' range and the chance of it.

    `frame` has columns round, seed, correctness, chance.
    """
    ax = _axes(ax)
    by_round = frame.groupby("round")["correctness"]
    mean = by_round.mean()
    ax.fill_between(mean.index, by_round.min(), by_round.max(), color="#BB5566", alpha=0.2, linewidth=0)
    ax.plot(mean.index, mean, color="#BB5566", label="same-task partner chosen")
    ax.axhline(frame["chance"].iloc[0], color="black", linestyle=":", linewidth=1, label="at random")
    ax.set(xlabel="round", ylabel="share of cases", ylim=(0, 1.04))
    ax.legend(loc="lower left")
    return ax


def weight_shares(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Where a client's weights go over the rounds (mean over seeds): itself, partners of its task, all others.

    `frame` has columns round, self_weight, partner_weight, other_weight.
    """
    ax = _axes(ax)
    mean = frame.groupby("round")[["self_weight", "partner_weight", "other_weight"]].mean()
    ax.stackplot(
        mean.index,
        mean.to_numpy().T,
        colors=["#222222", "#BB5566", "#DDAA33"],
        labels=["its own update", "partners of its task", "all others"],
    )
    ax.set(xlabel="round", ylabel="share of the weights", ylim=(0, 1), xlim=(mean.index.min(), mean.index.max()))
    ax.legend(loc="lower left", frameon=True, framealpha=0.9)
    return ax


def votes(
    votes_LN: NDArray[np.floating],
    client: int,
    pairs: Sequence[str],
    *,
    top: int,
    ax: Axes | None = None,
    labels: bool = True,
) -> Axes:
    """One client's votes, voting layers (shallow to deep, top to bottom) by clients; `top` = K is the highest vote."""
    import seaborn as sns

    ax = _axes(ax)
    layers = len(votes_LN)
    sns.heatmap(votes_LN, ax=ax, cmap="viridis", vmin=0, vmax=top, cbar=False, xticklabels=False, yticklabels=False)
    ax.set_yticks(np.arange(layers) + 0.5, [str(i + 1) for i in range(layers)], rotation=0)
    ax.set_xticks(np.arange(len(pairs)) + 0.5)
    ax.set_xticklabels([short_title(p) for p in pairs] if labels else [], rotation=90, size=5.5)
    for tick, name in zip(ax.get_xticklabels(), pairs):
        tick.set_color(pair_color(name))
    ax.tick_params(length=1.5, pad=1)
    ax.set_title(f"{pair_title(pairs[client])}", color=pair_color(pairs[client]))
    return ax


def layer_agreement(agreement_LL: NDArray[np.floating], *, ax: Axes | None = None) -> Axes:
    """Rank correlation between the layers' opinions of the other clients."""
    import seaborn as sns

    ax = _axes(ax)
    labels = [str(i + 1) for i in range(len(agreement_LL))]
    sns.heatmap(
        agreement_LL,
        ax=ax,
        cmap="viridis",
        vmin=0,
        vmax=1,
        square=True,
        annot=True,
        fmt=".2f",
        annot_kws={"size": 5.5},
        xticklabels=labels,
        yticklabels=labels,
        cbar_kws={"label": "Spearman correlation", "shrink": 0.8},
    )
    ax.set(xlabel="voting layer (shallow to deep)", ylabel="voting layer")
    ax.tick_params(axis="y", rotation=0)
    return ax


def vote_scale(fig: Figure, axes: NDArray[np.object_], top: int) -> None:
    """One colour bar for a grid of `votes` axes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(norm=Normalize(0, top), cmap="viridis")
    fig.colorbar(scale, ax=axes.ravel().tolist(), label="vote (mean over rounds)", shrink=0.6, aspect=35)
