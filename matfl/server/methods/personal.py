"""Personalised federated learning on plain averaging: Ditto's second model, and FedPer's and FedRep's own heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from matfl.server.methods.base import Method, Round, Tensors, register
from matfl.server.mixing import Mixing

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["Ditto", "FedPer", "FedRep"]


@dataclass(frozen=True, kw_only=True)
class _Averaged(Method):
    """w_ij = 1 / N, as `fedavg`."""

    family = "personal"

    def mix(self, round: Round) -> Mixing:
        return Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)))


@register
@dataclass(frozen=True, kw_only=True)
class Ditto(_Averaged):
    """The shared models are `fedavg`'s; client i also trains v_i on loss + lambda/2 norm(v_i - w)^2 and uses that.

    w is the model that was dispatched in the same round; v_i starts as the first w and stays with its client.
    """

    name = "ditto"
    title = "Ditto"
    description = "plain averaging, and a model of each client's own that is pulled towards it"
    source = "Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, algorithm 1"
    personal = True

    strength: float = 0.1
    """lambda. 0 is local training; the larger, the nearer to the shared model. The paper chooses from 0.05, 0.1, 0.2
    and above; Adam's steps do not grow with the loss, so the lower end applies here."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"ditto.strength={self.strength}: choose 0 (local training) or more")

    def client(self, local: Local) -> Tensors:
        local.train()
        shared = local.snapshot()
        mine = {name: local.memory.get(name, tensor) for name, tensor in local.state.items()}
        local.train(start=mine, correct=local.pull(self.strength) if self.strength else None)
        local.memory.update(local.snapshot())
        local.model.load_state_dict(shared)
        return {}

    def model(self, local: Local) -> Tensors:
        return {name: local.memory.get(name, tensor) for name, tensor in local.state.items()}


@register
@dataclass(frozen=True, kw_only=True)
class FedPer(_Averaged):
    """Backbones are averaged over all clients; heads stay with their clients and are trained with them."""

    name = "fedper"
    title = "FedPer"
    description = "plain averaging of backbones; each client keeps its head"
    source = "Arivazhagan et al., Federated Learning with Personalization Layers, 2019"
    heads = "local"


@register
@dataclass(frozen=True, kw_only=True)
class FedRep(_Averaged):
    """As FedPer, but a client first trains its head on the frozen backbone, then the backbone under the frozen head."""

    name = "fedrep"
    title = "FedRep"
    description = "plain averaging of backbones; heads trained first, and kept"
    source = "Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021"
    heads = "local"

    head_epochs: int = 1
    """Passes over a client's images for the head; the backbone has `RunConfig.local_epochs`. The paper's heads are one
    layer and get most of the passes; DeepLab's has as many weights as the backbone, so one pass is the default."""

    def __post_init__(self) -> None:
        if self.head_epochs < 1:
            raise ValueError(
                f"fedrep.head_epochs={self.head_epochs}: must be at least 1; 'fedper' trains both together"
            )

    def client(self, local: Local) -> Tensors:
        local.train(only="head", epochs=self.head_epochs)
        local.train(only="backbone")
        return {}
