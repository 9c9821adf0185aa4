"""Grouping by the cosine of the voting layers' updates taken as one vector: clusters, and soft groups.

Both were built after a description of the authors' published code, but compare and mix *updates*, one model a task.
What that code does is in `matfl.server.methods.authors`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.server.grouping import clusters, cosine, gram
from matfl.server.kernels import product_dtype
from matfl.server.methods.base import Method, Round, register
from matfl.server.mixing import Mixing
from matfl.server.updates import Updates

__all__ = ["Clustered", "SoftGrouping"]


def _layers_and_whole(updates: Updates) -> tuple[dict[str, Tensor], Tensor]:
    """The similarity of each voting layer as a diagnostic, and (N, N) the cosine of all of them taken as one vector."""
    gram_LNN = gram(updates, updates.layout.voting)
    return {"similarity": cosine(gram_LNN).to(product_dtype(updates.dtype))}, cosine(gram_LNN.sum(0))


@register
@dataclass(frozen=True, kw_only=True)
class Clustered(Method):
    """Average within clusters of clients: agglomerative, by cosine distance of updates, average linkage."""

    name = "clustered"
    title = "Clustered updates"
    description = "average within clusters of updates (cosine, average linkage)"
    source = "agglomerative clustering as in the authors' code, of updates instead of weights"
    family = "grouping"

    clusters: int = 2
    """Number of groups."""

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"clustered.clusters={self.clusters}: must be at least 1")

    def check(self, config: RunConfig) -> None:
        if self.clusters > config.num_clients:
            raise ValueError(
                f"clustered.clusters={self.clusters}: choose 1..{config.num_clients}, the number of clients"
            )

    def mix(self, round: Round) -> Mixing:
        layers, cosine_NN = _layers_and_whole(round.updates)
        return Mixing(weights_NN=round.rows(round.same(clusters(cosine_NN, self.clusters))), diagnostics=layers)


@register
@dataclass(frozen=True, kw_only=True)
class SoftGrouping(Method):
    """w_ij in proportion to the cosine of the updates of i and j where that reaches the threshold, else 0."""

    name = "soft_grouping"
    title = "Soft groups of updates"
    description = "all clients weighted by the cosine of updates above a threshold"
    source = "soft grouping as in the authors' code, of updates instead of weights"
    family = "grouping"

    threshold: float = 0.0
    """Cosine below which a client gets no weight."""

    def __post_init__(self) -> None:
        if not -1 <= self.threshold < 1:
            raise ValueError(f"soft_grouping.threshold={self.threshold}: choose a cosine in [-1, 1)")

    def mix(self, round: Round) -> Mixing:
        layers, cosine_NN = _layers_and_whole(round.updates)
        weights_NN = torch.where(cosine_NN >= self.threshold, cosine_NN, 0)
        return Mixing(weights_NN=round.rows(weights_NN), diagnostics=layers)
