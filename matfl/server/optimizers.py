"""Server optimisers: what becomes of the mixed update before it moves a model (Reddi et al. 2021, algorithm 2).

    none    theta += lr u
    avgm    m = beta1 m + u;                 theta += lr m                      FedAvgM (Hsu et al. 2019)
    adam    m = beta1 m + (1 - beta1) u;     theta += lr m / (sqrt(v) + tau)    FedAdam
            v = beta2 v + (1 - beta2) u^2
    yogi    as adam, with  v -= (1 - beta2) u^2 sign(v - u^2)                   FedYogi

u (C, P) is what a method's weights move each model's parameters by; batch-norm statistics and heads are averages of
values and take no step. As in the paper m starts at 0 and v at tau^2, without bias correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig

__all__ = ["ServerOptimizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptimizer:
    """The server's step. `lr` = 1 and `kind` 'none' is plain aggregation.

    >>> step = ServerOptimizer(kind="avgm", beta1=0.5)
    >>> theta_CP = torch.zeros(1, 2)
    >>> state = step.start(theta_CP)
    >>> for _ in range(2):
    ...     step.move(theta_CP, torch.ones(1, 2), state)
    >>> theta_CP
    tensor([[2.5000, 2.5000]])
    """

    kind: Literal["none", "avgm", "adam", "yogi"] = "none"
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    @classmethod
    def of(cls, config: RunConfig) -> ServerOptimizer:
        """The config's."""
        return cls(
            kind=config.server_optimizer,
            lr=config.server_lr,
            beta1=config.server_beta1,
            beta2=config.server_beta2,
            tau=config.server_tau,
        )

    def start(self, theta_CP: Tensor) -> dict[str, Tensor]:
        """The first m and v of models (C, P)."""
        if self.kind == "none":
            return {}
        state = {"m": torch.zeros_like(theta_CP, memory_format=torch.contiguous_format)}
        if self.kind != "avgm":
            state["v"] = torch.full_like(state["m"], self.tau**2)
        return state

    def move(self, theta_RK: Tensor, update_RK: Tensor, state: Mapping[str, Tensor]) -> None:
        """Move some rows and columns of models by their mixed update, in place; the same of m and v likewise."""
        if self.kind == "none":
            theta_RK.add_(update_RK, alpha=self.lr)
            return
        m_RK = state["m"]
        if self.kind == "avgm":
            theta_RK.add_(m_RK.mul_(self.beta1).add_(update_RK), alpha=self.lr)
            return
        v_RK = state["v"]
        m_RK.lerp_(update_RK, 1 - self.beta1)
        square_RK = update_RK.square()
        if self.kind == "adam":
            v_RK.lerp_(square_RK, 1 - self.beta2)
        else:
            v_RK.sub_(square_RK * (v_RK - square_RK).sign(), alpha=1 - self.beta2)
        theta_RK.addcdiv_(m_RK, v_RK.sqrt().add_(self.tau), value=self.lr)
