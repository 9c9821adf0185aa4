"""IFCA: several backbones, of which each client takes the one that suits it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from matfl.config.run_config import RunConfig
from matfl.server.grouping import normalise
from matfl.server.layout import Layout
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing
from matfl.server.spans import of_models

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["IFCA"]


@register
@dataclass(frozen=True, kw_only=True)
class IFCA(Method):
    """Client i trains the backbone k of least loss on its images under its own head; k becomes the mean of its takers'.

    As in the paper's weight-sharing form, the layers that differ between clients, here the heads, stay with them. The
    paper starts its models at random; here each is the common start with noise, so that pre-training is kept and no two
    are alike. A client's model is its choice's; one that does not take part in a round keeps the one that it had.
    """

    name = "ifca"
    title = "IFCA"
    description = "several backbones; each client trains the one of least loss, which becomes its takers' mean"
    source = "Ghosh et al., An Efficient Framework for Clustered Federated Learning, NeurIPS 2020, algorithm 1"
    family = "grouping"
    scope = "client"

    clusters: int = 2
    """Number of backbones. Every client is sent all of them and tries each, so the default is the fewest."""
    noise: float = 0.05
    """Standard deviation of the first backbones round the start, over each tensor's own root mean square. Small enough
    to keep what pre-training knows, far above rounding, so that losses differ."""

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"ifca.clusters={self.clusters}: must be at least 1")
        if not 0 < self.noise < float("inf"):
            raise ValueError(f"ifca.noise={self.noise}: choose a positive number; equal backbones are never told apart")

    def check(self, config: RunConfig) -> None:
        if self.clusters > config.num_clients:
            raise ValueError(
                f"ifca.clusters={self.clusters}: choose 1..{config.num_clients}, the number of clients; a backbone "
                "that no client can take learns nothing"
            )

    def start(self, before: Dispatch) -> Tensors:
        models, layout = before.models, before.models.layout
        theta_KP = models.theta_CP[:1].repeat(self.clusters, 1)
        for k, row_P in enumerate(theta_KP):
            generator = before.generator("noise", k)
            for tensor in layout.unflatten(row_P).values():
                scale = self.noise * float(tensor.square().mean().sqrt())
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor), alpha=scale)
        return {
            "parameters": theta_KP,
            "buffers": models.buffers_CB[:1].repeat(self.clusters, 1),
            "choice": torch.full((len(before.client_tasks),), -1),
        }

    def message(self, before: Dispatch, client: int) -> Tensors:
        return {name: before.state[name] for name in ("parameters", "buffers")}

    def client(self, local: Local) -> Tensors:
        layout = Layout.of(local.model.backbone)
        offered = [
            {f"backbone.{name}": tensor for name, tensor in layout.unflatten(row_P, row_B).items()}
            for row_P, row_B in zip(local.message["parameters"], local.message["buffers"])
        ]
        losses = torch.tensor([local.loss(backbone) for backbone in offered], dtype=torch.float64)
        choice = int(losses.nan_to_num(torch.inf).argmin())
        local.train(start={**local.state, **offered[choice]})
        return {"choice": torch.tensor([choice]), "losses": losses}

    def reply_shapes(self, before: Dispatch, client: int) -> dict[str, tuple[int, ...]]:
        return {"choice": (1,), "losses": (self.clusters,)}

    def problem(self, before: Dispatch, message: Tensors) -> str | None:
        choice = float(message["choice"])
        known = choice.is_integer() and 0 <= choice < self.clusters
        return None if known else f"message 'choice' is {choice:g}, and the backbones are 0..{self.clusters - 1}"

    def mix(self, round: Round) -> Mixing:
        choices = [int(reply.message["choice"]) for reply in round.replies]
        together_NN = normalise(round.same(choices).double())
        theta_KP, buffers_KB = round.state["parameters"].clone(), round.state["buffers"].clone()
        taken = sorted(set(choices))
        if taken:
            weights_TN = torch.stack([together_NN[choices.index(k)] for k in taken])
            theta_KP[taken] = round.trained(weights_TN).to(theta_KP)
            buffers_KB[taken] = (weights_TN.to(round.updates.buffers_NB) @ round.updates.buffers_NB).to(buffers_KB)
        chosen_N = round.state["choice"].clone()
        chosen_N[list(round.updates.clients)] = torch.tensor(choices, dtype=chosen_N.dtype, device=chosen_N.device)
        mixing = of_models(round, together_NN)
        return Mixing(
            weights_NN=mixing.weights_NN,
            models_CC=mixing.models_CC,
            state={"parameters": theta_KP, "buffers": buffers_KB, "choice": chosen_N},
            diagnostics={"clusters": torch.tensor(choices)},
        )
