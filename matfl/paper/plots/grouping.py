"""Figures 5 and 6: whom clients chose, and how their layers voted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matfl.paper.names import layer_title, pair_title
from matfl.paper.plots.marks import current_axes, heat_labels, whole_rounds
from matfl.paper.plots.style import SMALLEST, legend_under, marker, pair_color, short_title, task_legend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "choice_matrix",
    "edge_width",
    "graph_legend",
    "grouping_correctness",
    "grouping_graph",
    "layer_agreement",
    "vote_scale",
    "votes",
    "weight_shares",
]


def grouping_graph(
    frequency_NN: NDArray[np.floating],
    client: int,
    pairs: Sequence[str],
    *,
    chance: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Graph of how often `client` (in the middle) chose each other one: edge width and label are the frequency.

    Squares are indoor clients and circles outdoor ones, coloured by task type (Figure 5). Every client has its number:
    bold for the partner of the same task, grey where it is no more than `chance`. Edges below 0.005 are not drawn.
    """
    import networkx as nx

    ax = current_axes(ax)
    n = len(pairs)
    others = [j for j in range(n) if j != client]
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(others)) / max(len(others), 1)
    position = {client: (0.0, 0.0)} | {j: (np.cos(a), np.sin(a)) for j, a in zip(others, angles)}
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    for j in others:
        weight = float(frequency_NN[client, j])
        x, y = position[j]
        ax.text(
            1.3 * x,
            1.3 * y,
            "0" if weight < 0.005 else f"{weight:.2f}".removeprefix("0"),
            size=SMALLEST,
            ha="center",
            va="center",
            color="black" if weight > chance else "#8a8a8a",
            weight="bold" if pairs[j] == pairs[client] else "normal",
        )
        if weight < 0.005:
            continue
        graph.add_edge(client, j)
        nx.draw_networkx_edges(
            graph,
            position,
            edgelist=[(client, j)],
            ax=ax,
            width=edge_width(weight),
            arrows=False,
            alpha=0.25 + 0.6 * weight,
            edge_color=pair_color(pairs[j]),
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
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    ax.set_axis_off()
    ax.set_title(pair_title(pairs[client]), color=pair_color(pairs[client]), weight="bold")
    return ax


def edge_width(share: float) -> float:
    """Points of a `grouping_graph`'s edge for a share of rounds."""
    return 0.3 + 3.2 * share


def graph_legend(pairs: Sequence[str], chance: float) -> list[Any]:
    """`task_legend`, and edges as wide as those of chance and of every round."""
    from matplotlib.lines import Line2D

    edges = [(chance, f"at random ({chance:.2f})".replace("0.", ".")), (1.0, "every round")]
    lines = [Line2D([], [], color="#777777", linewidth=edge_width(share), label=label) for share, label in edges]
    return [*task_legend(list(pairs)), *lines]


def choice_matrix(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How often clients of the row's pair chose clients of the column's, as a heatmap with numbers."""
    import seaborn as sns

    ax = current_axes(ax)
    labels = [short_title(name) for name in table.index]
    sns.heatmap(
        table,
        ax=ax,
        cmap="viridis",
        vmin=0,
        vmax=1,
        annot=True,
        fmt=".2f",
        linewidths=0.3,
        annot_kws={"size": SMALLEST},
        cbar_kws={"label": "share of rounds chosen"},
    )
    heat_labels(ax, labels)
    ax.set(xlabel="chosen client", ylabel="choosing client")
    return ax


def grouping_correctness(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of same-task partners among the friends over the rounds, with the seeds' range and the chance of it.

    `frame` has columns round, seed, correctness, chance.
    """
    ax = current_axes(ax)
    by_round = frame.groupby("round")["correctness"]
    mean = by_round.mean()
    ax.fill_between(mean.index, by_round.min(), by_round.max(), color="#BB5566", alpha=0.2, linewidth=0)
    ax.plot(mean.index, mean, color="#BB5566", label="same-task partner chosen")
    ax.axhline(frame["chance"].iloc[0], color="black", linestyle=":", linewidth=1, label="at random")
    ax.set(xlabel="round", ylabel="share of cases", ylim=(0, 1.04))
    whole_rounds(ax)
    legend_under(ax, ncols=2)
    return ax


def weight_shares(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Where a client's weights go over the rounds (mean over seeds): itself, partners of its task, all others.

    `frame` has columns round, self_weight, partner_weight, other_weight.
    """
    ax = current_axes(ax)
    mean = frame.groupby("round")[["self_weight", "partner_weight", "other_weight"]].mean()
    ax.stackplot(
        mean.index,
        mean.to_numpy().T,
        colors=["#222222", "#BB5566", "#DDAA33"],
        labels=["its own update", "its partners'", "all others'"],
    )
    first, last = float(mean.index.min()), float(mean.index.max())
    ends = (first, last) if last > first else (first - 0.5, last + 0.5)
    ax.set(xlabel="round", ylabel="share of the weights", ylim=(0, 1), xlim=ends)
    whole_rounds(ax)
    legend_under(ax, ncols=3)
    return ax


def votes(
    votes_LN: NDArray[np.floating],
    client: int,
    pairs: Sequence[str],
    *,
    top: int,
    layers: Sequence[str] | None = None,
    ax: Axes | None = None,
    labels: bool = True,
) -> Axes:
    """One client's votes, voting layers (shallow to deep, top to bottom) by clients.

    Its own column always holds the highest vote (`top` = K), so it is hatched and colours end at K - 1, the highest
    vote for another client. `layers` names the rows; columns are labelled by task, two or more clients each.
    """
    import seaborn as sns
    from matplotlib.patches import Rectangle

    ax = current_axes(ax)
    count, n = votes_LN.shape
    shown = np.array(votes_LN, dtype=float)
    shown[:, client] = np.nan
    sns.heatmap(
        shown, ax=ax, cmap="viridis", vmin=0, vmax=max(top - 1, 1), cbar=False, xticklabels=False, yticklabels=False
    )
    ax.add_patch(Rectangle((client, 0), 1, count, facecolor="#F0F0F0", edgecolor="#888888", hatch="////", linewidth=0))
    names = layers if layers is not None else [str(i + 1) for i in range(count)]
    ax.set_yticks(np.arange(count) + 0.5, [layer_title(str(name)) for name in names], rotation=0, size=SMALLEST)
    kinds = list(dict.fromkeys(pairs))
    middles = [float(np.mean([i for i in range(n) if pairs[i] == kind])) + 0.5 for kind in kinds]
    ax.set_xticks(middles, [short_title(kind) for kind in kinds] if labels else [], rotation=90, size=SMALLEST)
    for tick, kind in zip(ax.get_xticklabels(), kinds):
        tick.set_color(pair_color(kind))
    ax.tick_params(length=1.5, pad=1)
    ax.set_title(pair_title(pairs[client]), color=pair_color(pairs[client]))
    return ax


def layer_agreement(
    agreement_LL: NDArray[np.floating], *, layers: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Rank correlation between the layers' opinions of the other clients; `layers` names rows and columns."""
    import seaborn as sns

    ax = current_axes(ax)
    count = len(agreement_LL)
    labels = [layer_title(str(name)) for name in layers] if layers is not None else [str(i + 1) for i in range(count)]
    few = count <= 10
    sns.heatmap(
        agreement_LL,
        ax=ax,
        cmap="viridis",
        vmin=min(0.0, float(np.nanmin(agreement_LL))),
        vmax=1,
        annot=np.array([[f"{v:.2f}".replace("0.", ".") for v in row] for row in agreement_LL]) if few else False,
        fmt="",
        annot_kws={"size": SMALLEST},
        cbar_kws={"label": "Spearman correlation"},
    )
    heat_labels(ax, labels)
    ax.tick_params(labelsize=SMALLEST)
    ax.set(xlabel="voting layer (shallow to deep)", ylabel="voting layer")
    return ax


def vote_scale(fig: Figure, axes: NDArray[np.object_], top: int) -> None:
    """One colour bar for a grid of `votes` axes, and the names of their rows and columns."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(norm=Normalize(0, max(top - 1, 1)), cmap="viridis")
    fig.colorbar(scale, ax=axes.ravel().tolist(), label="vote for another client (mean over rounds)", aspect=35)
    fig.supxlabel("chosen clients, by task", size=8)
    fig.supylabel("voting layer (shallow to deep)", size=8)
