"""FedAMP: each client's model is pulled towards a cloud model of its own, which listens to clients with like models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.methods.base import Method, Round, Tensors, register
from matfl.server.mixing import Mixing
from matfl.server.spans import models_cosine, models_gram, of_models, squared_distances

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["FedAMP", "HeurFedAMP", "attention", "heuristic_attention"]

_PAPER = "Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI 2021"


def attention(distances_NN: Tensor, *, alpha: float, sigma: float) -> Tensor:
    """FedAMP's xi (N, N) from squared distances of models: alpha A'(norm(w_i - w_j)^2) off the diagonal, and the rest,
    1 minus a row's sum, on it; A(x) = 1 - exp(-x / sigma), so A'(x) = exp(-x / sigma) / sigma."""
    xi_NN = (alpha / sigma * torch.exp(-distances_NN / sigma)).fill_diagonal_(0)
    return xi_NN + torch.diag(1 - xi_NN.sum(1))


def heuristic_attention(cosine_NN: Tensor, *, sigma: float, own: float) -> Tensor:
    """HeurFedAMP's xi (N, N): `own` on the diagonal, else (1 - own) softmax_j of sigma cos(w_i, w_j) over j != i."""
    n = len(cosine_NN)
    if n == 1:
        return torch.ones_like(cosine_NN)
    others_NN = (sigma * cosine_NN).masked_fill(torch.eye(n, dtype=torch.bool, device=cosine_NN.device), -torch.inf)
    return (1 - own) * others_NN.softmax(1) + own * torch.eye(n, dtype=cosine_NN.dtype, device=cosine_NN.device)


@dataclass(frozen=True, kw_only=True)
class _Pulled(Method):
    """Clients start at their cloud model u_i and minimise loss + pull/2 norm(w - u_i)^2 over the backbone."""

    family = "personal"
    scope = "client"

    pull: float = 0.01
    """lambda / alpha_k of the paper: how strongly local training is pulled to the cloud model (as `fedprox.mu`)."""

    def __post_init__(self) -> None:
        if not 0 <= self.pull < float("inf"):
            raise ValueError(f"{self.name}.pull={self.pull}: choose a number of at least 0")

    def client(self, local: Local) -> Tensors:
        local.train(correct=local.pull(self.pull, towards=local.snapshot("backbone")) if self.pull else None)
        return {}


@register
@dataclass(frozen=True, kw_only=True)
class FedAMP(_Pulled):
    """u_i = sum_j xi_ij w_j, xi_ij = alpha_k A'(norm(w_i - w_j)^2), A(x) = 1 - exp(-x / sigma_k), xi_ii the rest.

    The paper's alpha_k and sigma_k are numbers of the size of squared distances between models, which depend on the
    network, so they are given in units of them: sigma_k = sigma x the mean squared distance of the round's models, and
    alpha_k = alpha sigma_k / (N - 1), with which the others together weigh `alpha` where all models are equal.
    """

    name = "fedamp"
    title = "FedAMP"
    description = "a model a client, mixed from models in proportion to exp(-squared distance)"
    source = f"{_PAPER}, algorithm 1"

    alpha: float = 0.5
    """What all other clients together can weigh at most, 0 (none) to 1; at a half nobody is outvoted by the others."""
    sigma: float = 1.0
    """Squared distance, over the round's mean one, at which a client's weight has fallen to 1/e."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"fedamp.alpha={self.alpha}: choose 0 (own model only) to 1")
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"fedamp.sigma={self.sigma}: choose a positive number of mean squared distances")

    def mix(self, round: Round) -> Mixing:
        distances_NN, others = squared_distances(models_gram(round)), max(round.n - 1, 1)
        mean = float(distances_NN.sum()) / max(round.n * others, 1)
        sigma = self.sigma * mean if mean > 0 else 1.0  # equal models listen to each other as much as they may
        xi_NN = attention(distances_NN, alpha=self.alpha * sigma / others, sigma=sigma)
        return of_models(round, xi_NN)


@register
@dataclass(frozen=True, kw_only=True)
class HeurFedAMP(_Pulled):
    """u_i = sum_j xi_ij w_j, xi_ij = (1 - xi_ii) softmax over j != i of sigma cos(w_i, w_j), xi_ii = own."""

    name = "heurfedamp"
    title = "HeurFedAMP"
    description = "a model a client, mixed from models by a softmax of their cosines"
    source = f"{_PAPER} (the heuristic form)"

    own: float = 0.5
    """xi_ii, the weight of a client's own model."""
    sigma: float = 100.0
    """Sharpness of the softmax. Models that began as one differ in cosine by hundredths, which this makes count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.own <= 1:
            raise ValueError(f"heurfedamp.own={self.own}: choose a weight in 0..1")
        if not 0 <= self.sigma < float("inf"):
            raise ValueError(f"heurfedamp.sigma={self.sigma}: choose 0 (all others alike) or more")

    def mix(self, round: Round) -> Mixing:
        return of_models(round, heuristic_attention(models_cosine(round), sigma=self.sigma, own=self.own))
