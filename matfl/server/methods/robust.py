"""Averages that a few hostile clients cannot move far: coordinate-wise median and trimmed mean, Krum.

All of them are over all clients of all tasks, as plain averaging is. They were made for clients that estimate one
gradient: where tasks differ, an honest client may be the outlier.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.server.methods.base import Method, Round, method, register
from matfl.server.mixing import Mixing
from matfl.server.spans import squared_distances, whole_gram

__all__ = ["Krum", "TrimmedMean", "krum_scores", "median_of_columns", "trimmed_mean_of_columns"]

_YIN = "Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018"


def median_of_columns(values_NK: Tensor) -> Tensor:
    """Each column's median in every row (N, K); of an even number the mean of the middle two."""
    ordered_NK = values_NK.sort(0).values
    n = len(values_NK)
    middle_K = (ordered_NK[(n - 1) // 2] + ordered_NK[n // 2]) / 2
    return middle_K.expand_as(values_NK)


def trimmed_mean_of_columns(values_NK: Tensor, share: float) -> Tensor:
    """Each column's mean without its floor(share N) lowest and highest numbers, in every row (N, K)."""
    n = len(values_NK)
    cut = int(share * n + 1e-9)
    return values_NK.sort(0).values[cut : n - cut].mean(0).expand_as(values_NK)


def krum_scores(squared_NN: Tensor, attackers: int) -> Tensor:
    """(N,): the sum of each client's squared distances to its N - f - 2 nearest others, f the `attackers` (at least 1
    of them counts)."""
    n = len(squared_NN)
    nearest = max(1, min(n - attackers - 2, n - 1))
    others_NN = squared_NN.clone().fill_diagonal_(torch.inf)
    return others_NN.sort(1).values[:, :nearest].sum(1)


@method(
    title="Median",
    description="coordinate-wise median of all clients' updates",
    source=f"{_YIN}, algorithm 1, option I",
    family="robust",
)
def median(round: Round) -> Mixing:
    """Every client takes the coordinate-wise median of all updates; weights are those of plain averaging on paper."""
    return Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)), columns=median_of_columns)


@register
@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Method):
    """Every client takes the coordinate-wise mean without the lowest and highest numbers."""

    name = "trimmed_mean"
    title = "Trimmed mean"
    description = "coordinate-wise mean of all clients' updates without the extremes"
    source = f"{_YIN}, algorithm 1, option II"
    family = "robust"

    share: float = 0.25
    """Share of the clients left out at either end of each coordinate."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 0.5:
            raise ValueError(f"trimmed_mean.share={self.share}: choose 0 (plain averaging) or more, below 0.5")

    def mix(self, round: Round) -> Mixing:
        return Mixing(
            weights_NN=round.rows(torch.ones(round.n, round.n)),
            columns=lambda values_NK: trimmed_mean_of_columns(values_NK, self.share),
        )


@register
@dataclass(frozen=True, kw_only=True)
class Krum(Method):
    """Every client takes the mean of the `keep` updates that lie closest to their nearest others."""

    name = "krum"
    title = "Krum"
    description = "the mean of those updates that lie closest to most others"
    source = "Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017"
    family = "robust"

    attackers: int = 1
    """f, the number of hostile clients to expect: N - f - 2 nearest others count."""
    keep: int = 1
    """Updates that are averaged; more than 1 is Multi-Krum."""

    def __post_init__(self) -> None:
        if self.attackers < 0:
            raise ValueError(f"krum.attackers={self.attackers}: choose 0 or more")
        if self.keep < 1:
            raise ValueError(f"krum.keep={self.keep}: choose 1 or more")

    def check(self, config: RunConfig) -> None:
        n = config.num_clients
        if self.attackers > n - 3:
            raise ValueError(f"krum.attackers={self.attackers}: choose 0..{n - 3}, three fewer than the {n} clients")
        if self.keep > n:
            raise ValueError(f"krum.keep={self.keep}: choose 1..{n}, the number of clients")

    def mix(self, round: Round) -> Mixing:
        scores_N = krum_scores(squared_distances(whole_gram(round.updates)), self.attackers)
        row_N = torch.zeros(round.n, dtype=torch.float64, device=scores_N.device)
        row_N[scores_N.argsort(stable=True)[: self.keep]] = 1
        return Mixing(weights_NN=round.rows(row_N.expand(round.n, round.n)), diagnostics={"krum_scores": scores_N})
