"""The two ways to group that the authors of MaT-FL published as code; their paper's algorithm 1 is another one.

Both compare the clients' *weights* w_i after training: d_i = w_i - mean_j(w_j) over every floating-point tensor of the
backbone, batch-norm means and variances included, counters not, as one vector. *Weights* are mixed, batch-norm
statistics too, and each client gets a result of its own. Heads stay with their clients. The scores that the authors
report are those right after local training (kind 'local').
"""

from __future__ import annotations

from dataclasses import dataclass

from matfl.config.run_config import RunConfig
from matfl.server.grouping import clusters, cosine, normalise
from matfl.server.methods.base import Method, Round, register
from matfl.server.mixing import Mixing
from matfl.server.spans import models_gram, of_models

__all__ = ["AuthorsClustered", "AuthorsSoft"]


@register
@dataclass(frozen=True, kw_only=True)
class AuthorsClustered(Method):
    """w_ij = 1 / (size of i's cluster) within it: average linkage on the cosines of the d, cut at `clusters` groups."""

    name = "authors_clustered"
    title = "Authors' clusters"
    description = "weights averaged within clusters of clients, one model a client"
    source = "the published code of Many-Task Federated Learning, agglomerative variant"
    family = "authors"
    scope = "client"

    clusters: int = 2
    """Number of groups."""

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"authors_clustered.clusters={self.clusters}: must be at least 1")

    def check(self, config: RunConfig) -> None:
        if self.clusters > config.num_clients:
            raise ValueError(
                f"authors_clustered.clusters={self.clusters}: choose 1..{config.num_clients}, the number of clients"
            )

    def mix(self, round: Round) -> Mixing:
        labels = clusters(cosine(models_gram(round, buffers=True)), self.clusters)
        return of_models(round, normalise(round.same(labels).double()))


@register
@dataclass(frozen=True, kw_only=True)
class AuthorsSoft(Method):
    """w_ij in proportion to max(cos(d_i, d_j) + th, 0), rows scaled to sum to 1."""

    name = "authors_soft"
    title = "Authors' soft groups"
    description = "weights averaged in proportion to their cosine plus a threshold, one model a client"
    source = "the published code of Many-Task Federated Learning, soft variant"
    family = "authors"
    scope = "client"

    threshold: float = 0.0
    """th, added to every cosine. As the d sum to 0, their cosines lie round -1/(N - 1)."""

    def __post_init__(self) -> None:
        if not -1 < self.threshold <= 1:
            raise ValueError(f"authors_soft.threshold={self.threshold}: choose a number in (-1, 1], added to cosines")

    def mix(self, round: Round) -> Mixing:
        return of_models(round, normalise(cosine(models_gram(round, buffers=True)) + self.threshold))
