"""Differential privacy of a client: what it changed is shortened and noised before it leaves, and what that costs.

A client's release is everything that it changed, weights of backbone and head and batch-norm statistics as one vector,
shortened to norm `clip` with Gaussian noise of standard deviation `noise` x `clip` on every number (the Gaussian
mechanism of DP-FedAvg, McMahan et al. 2018, applied before the release: grouping needs single updates, so there is no
sum to hide in). Two federations are neighbours when one client's release is replaced by none (a zero change) in
every round; against replacing its data by others twice the noise is needed. Losses and scores that clients report are
measurements of an experiment and are not covered.

The accounting is dp-accounting's (extra `matfl[private]`).
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from matfl.core.extras import require

__all__ = ["DELTA", "epsilon", "noise_for", "privatise"]

DELTA = 1e-5
"""Chance with which the promise may fail."""


def privatise(change_K: Tensor, *, clip: float, noise: float, generator: torch.Generator) -> Tensor:
    """A vector shortened to norm `clip`, plus Gaussian noise of standard deviation `noise` x `clip`."""
    norm = torch.linalg.vector_norm(change_K, dtype=torch.float64)
    bounded_K = change_K * (clip / norm.clamp(min=clip)).to(change_K)
    if noise:
        draw_K = torch.randn(change_K.shape, generator=generator, dtype=change_K.dtype)
        bounded_K = bounded_K + (noise * clip) * draw_K.to(change_K.device)
    return bounded_K


def epsilon(noise: float, releases: int, *, delta: float = DELTA) -> float:
    """What a client has spent after `releases` of the Gaussian mechanism; infinite without noise."""
    _check(delta=delta, releases=releases)
    if noise < 0:
        raise ValueError(f"noise={noise}: choose 0 (no privacy) or more")
    if releases == 0:
        return 0.0
    if noise == 0:
        return math.inf
    return float(_accountant().get_epsilon_gaussian(noise / math.sqrt(releases), delta))


def noise_for(epsilon: float, releases: int, *, delta: float = DELTA) -> float:
    """The least noise multiplier with which `releases` spend no more than `epsilon`."""
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: choose a positive number; 8 is weak, 1 is strong, infinity is no noise")
    _check(delta=delta, releases=releases)
    if math.isinf(epsilon) or releases == 0:
        return 0.0
    return float(_accountant().get_sigma_gaussian(epsilon, delta)) * math.sqrt(releases)


def _accountant() -> ModuleType:
    """Its exact curve of the Gaussian mechanism: T releases are one with noise / sqrt(T) (Dong, Roth and Su 2022)."""
    return require("dp_accounting", extra="private", what="the privacy accountant")


def _check(*, delta: float, releases: int) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: choose a chance above 0 and below 1, less than 1 over the number of clients")
    if releases < 0:
        raise ValueError(f"releases={releases}: choose 0 or more, the rounds that a client takes part in")
