"""What MaT-FL is compared with in the paper (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.methods.base import Method, Round, Tensors, method, register
from matfl.server.mixing import Mixing

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["FedProx", "fedavg", "local", "single_task"]

_PAPER = "Many-Task Federated Learning"


@method(
    title="Local only",
    description="each client keeps its own model",
    source="no communication",
    family="baseline",
    scope="client",
    sends=False,
)
def local(round: Round) -> Tensor:
    """weights = 1: nobody takes anything of anybody."""
    return round.rows(torch.eye(round.n))


@method(
    title="Single-Task FL",
    description="average within each task",
    source=f"{_PAPER}, equation 2",
    family="baseline",
)
def single_task(round: Round) -> Tensor:
    """w_ij = 1 / (clients of i's task) for clients j of that task, else 0."""
    return round.rows(round.same(round.tasks))


@method(
    title="Plain Many-Task FL",
    description="average over all clients of all tasks",
    source=f"FedAvg; {_PAPER}, equation 3",
    family="baseline",
)
def fedavg(round: Round) -> Tensor:
    """w_ij = 1 / N."""
    return round.rows(torch.ones(round.n, round.n))


@register
@dataclass(frozen=True, kw_only=True)
class FedProx(Method):
    """FedAvg whose clients minimise loss + mu/2 ||w - w_dispatched||^2 over all parameters."""

    name = "fedprox"
    title = "FedProx"
    description = "fedavg with a proximal term in local training"
    source = f"FedProx; {_PAPER}, equation 4"
    family = "baseline"

    mu: float = 0.01
    """Strength of the proximal term."""

    def __post_init__(self) -> None:
        if not 0 <= self.mu < float("inf"):
            raise ValueError(f"fedprox.mu={self.mu}: choose a number of at least 0")

    def mix(self, round: Round) -> Mixing:
        return Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)))

    def client(self, local: Local) -> Tensors:
        local.train(correct=local.pull(self.mu) if self.mu else None)
        return {}
