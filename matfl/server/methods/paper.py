"""MaT-FL (paper, section 3.4, algorithm 1) and each of its two steps alone.

The steps themselves, similarity (equation 5), votes, friends and weights (equation 6), are in
`matfl.server.grouping`.
"""

from __future__ import annotations

from torch import Tensor

from matfl.server.grouping import friends, similarity_weights, votes
from matfl.server.methods.base import Round, method
from matfl.server.mixing import Mixing

__all__ = ["grouped", "matfl", "matfl_uniform", "similarity_only"]

_PAPER = "Many-Task Federated Learning"


def grouped(round: Round) -> dict[str, Tensor]:
    """Step 1, dynamic grouping: similarity (L, N, N), votes (L, N, N) and friends (N, N) of the round's clients."""
    similarity_LNN = round.similarity()
    k = max(1, min(round.config.k, round.n))
    votes_LNN = votes(similarity_LNN, k)
    friends_NN = friends(votes_LNN, k, similarity=similarity_LNN)
    return {"similarity": similarity_LNN, "votes": votes_LNN, "friends": friends_NN}


@method(
    title="MaT-FL",
    description="dynamic grouping, friends weighted by similarity",
    source=f"{_PAPER}, section 3.4, algorithm 1",
    family="paper",
    sketched=True,
)
def matfl(round: Round) -> Mixing:
    """Algorithm 1: friends by the votes of the layers' similarities, weighted by equation 6."""
    groups = grouped(round)
    return Mixing(weights_NN=similarity_weights(groups["similarity"], groups["friends"]), diagnostics=groups)


@method(
    title="MaT-FL, uniform",
    description="dynamic grouping, friends weighted equally",
    source=f"{_PAPER}, step 1 of algorithm 1 alone",
    family="paper",
    sketched=True,
)
def matfl_uniform(round: Round) -> Mixing:
    """Step 1 alone: w_ij = 1 / K for i's friends j."""
    groups = grouped(round)
    return Mixing(weights_NN=round.rows(groups["friends"]), diagnostics=groups)


@method(
    title="Similarity only",
    description="all clients weighted by similarity",
    source=f"{_PAPER}, step 2 of algorithm 1 alone",
    family="paper",
    sketched=True,
)
def similarity_only(round: Round) -> Mixing:
    """Step 2 alone: equation 6 with all clients as friends."""
    similarity_LNN = round.similarity()
    return Mixing(weights_NN=similarity_weights(similarity_LNN), diagnostics={"similarity": similarity_LNN})
