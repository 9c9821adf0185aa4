"""What the server decided: weights, friends and votes of the recorded rounds as numbers (paper, section 5).

Shapes: R rounds, L voting layers, N clients. `same_NN` is True where two different clients do the same task.
Rows of clients that did not train in a round are left out of every mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "agreement",
    "correctness",
    "frequency",
    "mean_votes",
    "partner_weight",
    "same_task",
    "self_weight",
]

Array = NDArray[np.floating]


def same_task(client_pairs: list[str] | NDArray[np.str_]) -> NDArray[np.bool_]:
    """(N, N) mask of different clients with equal (domain, task) pair."""
    names = np.asarray(client_pairs)
    return (names[:, None] == names[None, :]) & ~np.eye(len(names), dtype=bool)


def _mean(values_RN: Array, participants_RN: NDArray[np.bool_]) -> Array:
    """Mean over the clients that trained, one value a round; NaN where none did."""
    counts = participants_RN.sum(1)
    total = np.where(participants_RN, values_RN, 0).sum(1)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def self_weight(weights_RNN: Array, participants_RN: NDArray[np.bool_]) -> Array:
    """(R,) mean weight that a client gives its own update."""
    return _mean(np.diagonal(weights_RNN, axis1=1, axis2=2).astype(float), participants_RN)


def partner_weight(weights_RNN: Array, same_NN: NDArray[np.bool_], participants_RN: NDArray[np.bool_]) -> Array:
    """(R,) mean summed weight that a client gives the other clients of its task."""
    return _mean((weights_RNN * same_NN).sum(2, dtype=float), participants_RN)


def correctness(
    friends_RNN: NDArray[np.bool_], same_NN: NDArray[np.bool_], participants_RN: NDArray[np.bool_]
) -> Array:
    """(R,) share of present same-task partners among a client's friends (section 5.1); NaN where there are none."""
    possible = same_NN & participants_RN[:, :, None] & participants_RN[:, None, :]
    counts = possible.sum((1, 2))
    hits = (friends_RNN & possible).sum((1, 2))
    return np.divide(hits, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def frequency(friends_RNN: NDArray[np.bool_], participants_RN: NDArray[np.bool_]) -> Array:
    """(N, N) share of rounds in which row's client chose column's, of those in which both trained (Figure 5)."""
    both_RNN = participants_RN[:, :, None] & participants_RN[:, None, :]
    together = both_RNN.sum(0)
    return np.divide((friends_RNN & both_RNN).sum(0), together, out=np.full(together.shape, np.nan), where=together > 0)


def mean_votes(votes_RLNN: Array, participants_RN: NDArray[np.bool_]) -> Array:
    """(L, N, N) votes averaged over the rounds in which both clients trained (Figure 6)."""
    together = (participants_RN[:, :, None] & participants_RN[:, None, :])[:, None]
    total = (votes_RLNN * together).sum(0, dtype=float)
    counts = np.broadcast_to(together.sum(0), total.shape)
    return np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)


def agreement(similarity_RLNN: Array, participants_RN: NDArray[np.bool_]) -> Array:
    """(L, L) Spearman correlation of two layers' rankings of the other clients, averaged over clients and rounds.

    A client's own similarity, always 1, is left out. NaN entries (fewer than three others) are skipped.
    """
    rounds, layers = similarity_RLNN.shape[:2]
    total, count = np.zeros((layers, layers)), 0
    for r in range(rounds):
        present = np.flatnonzero(participants_RN[r])
        if len(present) < 4:
            continue
        for i in present:
            others = present[present != i]
            ranks_LM = stats.rankdata(similarity_RLNN[r][:, i, others].astype(float), axis=1)
            if (ranks_LM.std(1) == 0).any():
                continue
            total += np.corrcoef(ranks_LM) if layers > 1 else 1.0
            count += 1
    return total / count if count else np.full((layers, layers), np.nan)
