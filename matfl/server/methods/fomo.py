"""FedFomo: every client tries the models of others on images that it holds out, and takes of each what helps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.layout import Layout
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["FedFomo", "candidates", "first_order_weights"]


def first_order_weights(old: float, losses_M: Tensor, distances_M: Tensor) -> Tensor:
    """(M,), float64: max(0, (L(old) - L(theta_j)) / norm(theta_j - old)) scaled to sum to 1; all 0 where none helps."""
    gain_M = torch.where(distances_M > 0, (old - losses_M.double()) / distances_M.double(), 0).clamp(min=0)
    gain_M = gain_M.nan_to_num(0.0, 0.0, 0.0)
    return gain_M / gain_M.sum() if gain_M.sum() > 0 else gain_M


def candidates(affinity_N: Tensor, client: int, *, ask: int, explore: float, generator: torch.Generator) -> list[int]:
    """Whose models a client asks for, ascending: of the others, those with the highest affinity.

    Each of the `ask` places is drawn among those left with probability `explore` instead (the paper's epsilon-greedy
    choice). Equal affinities go to the lower number.
    """
    left = [j for j in range(len(affinity_N)) if j != client]
    chosen: list[int] = []
    for _ in range(min(ask, len(left))):
        if float(torch.rand((), generator=generator)) < explore:
            next_one = left[int(torch.randint(len(left), (), generator=generator))]
        else:
            next_one = max(left, key=lambda j: (float(affinity_N[j]), -j))
        chosen.append(next_one)
        left.remove(next_one)
    return sorted(chosen)


@register
@dataclass(frozen=True, kw_only=True)
class FedFomo(Method):
    """theta_i <- old_i + sum_j w_ij (theta_j - old_i) before client i trains; old_i is what it last trained from.

    w_ij = max(0, (L_i(old_i) - L_i(theta_j)) / norm(theta_j - old_i)) over its own and the received trained backbones,
    scaled to sum to 1, with losses under its own head on images that it never trains on. The server only keeps each
    client's last trained model, and adds the weights up to know whom a client asks next.
    """

    name = "fedfomo"
    title = "FedFomo"
    description = "a model a client, moved towards those of others that do better on its held-out images"
    source = "Zhang et al., Personalized Federated Learning with First Order Model Optimization, ICLR 2021"
    family = "personal"
    scope = "client"

    ask: int = 5
    """Models of others that a client is sent each round, at most all: each costs a backbone's bytes and one pass over
    the held-out images. Five of seventeen meet everybody within a few rounds."""
    explore: float = 0.3
    """Share of them that are drawn at random instead of by affinity (the paper's epsilon, which it lets decay)."""
    held_out: float = 0.2
    """Share of a client's images on which models are compared and which it does not train on (the paper's split)."""

    def __post_init__(self) -> None:
        if self.ask < 1:
            raise ValueError(f"fedfomo.ask={self.ask}: must be at least 1 model; with none it is method 'local'")
        if not 0 <= self.explore <= 1:
            raise ValueError(f"fedfomo.explore={self.explore}: choose a share in 0..1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"fedfomo.held_out={self.held_out}: choose a share of the images between 0 and 1")

    def start(self, before: Dispatch) -> Tensors:
        n = len(before.client_tasks)
        return {"affinity": torch.zeros(n, n, dtype=torch.float64)}

    def message(self, before: Dispatch, client: int) -> Tensors:
        if before.number == 1:
            return {}  # everybody has the same model
        chosen = candidates(
            before.state["affinity"][client],
            client,
            ask=self.ask,
            explore=self.explore,
            generator=before.generator("ask", client),
        )
        rows = [before.models.row(j) for j in chosen]
        return {
            "parameters": before.models.theta_CP[rows],
            "buffers": before.models.buffers_CB[rows],
            "clients": torch.tensor(chosen),
        }

    def client(self, local: Local) -> Tensors:
        local.hold_out(self.held_out)
        layout = Layout.of(local.model.backbone)
        mine_P, mine_B = layout.flatten(local.model.backbone), layout.flatten_buffers(local.model.backbone)
        weights_N = torch.zeros(local.config.num_clients, dtype=torch.float64)
        if local.message and "old.parameters" in local.memory:
            old_P = local.memory["old.parameters"].to(mine_P)
            others = {name: local.message[name].to(local.device) for name in ("parameters", "buffers")}
            theta_MP = torch.cat([mine_P[None], others["parameters"].to(mine_P)])
            buffers_MB = torch.cat([mine_B[None], others["buffers"].to(mine_B)])
            old_B = local.memory["old.buffers"].to(mine_B)
            losses = [self._loss(local, layout, *pair) for pair in zip(theta_MP, buffers_MB)]
            distances_M = torch.linalg.vector_norm(theta_MP - old_P, dim=1).cpu()
            before = self._loss(local, layout, old_P, old_B)
            weights_M = first_order_weights(before, torch.tensor(losses), distances_M)
            numbers = [local.client.index, *local.message["clients"].tolist()]
            weights_N[numbers] = weights_M
            share_M = weights_M.to(mine_P)
            mine_P = old_P + share_M @ (theta_MP - old_P)
            mine_B = share_M @ buffers_MB if weights_M.any() else old_B
        local.memory.update({"old.parameters": mine_P.cpu(), "old.buffers": mine_B.cpu()})
        local.train(start={**local.state, **_named(layout, mine_P, mine_B)})
        return {"weights": weights_N}

    def _loss(self, local: Local, layout: Layout, row_P: Tensor, row_B: Tensor) -> float:
        return local.loss(_named(layout, row_P, row_B), held_out=True)

    def reply_shapes(self, before: Dispatch, client: int) -> dict[str, tuple[int, ...]]:
        return {"weights": (len(before.client_tasks),)}

    def mix(self, round: Round) -> Mixing:
        affinity_NN = round.state["affinity"].clone()
        taken_NN = torch.zeros(round.n, round.n)
        for row, reply in enumerate(round.replies):
            weights_N = reply.message["weights"].to(affinity_NN)
            affinity_NN[reply.client] += weights_N
            taken_NN[row] = weights_N[list(round.updates.clients)]
        return Mixing(
            weights_NN=round.rows(torch.eye(round.n)),
            state={"affinity": affinity_NN},
            diagnostics={"fomo": taken_NN},
        )


def _named(layout: Layout, row_P: Tensor, row_B: Tensor) -> dict[str, Tensor]:
    return {f"backbone.{name}": tensor for name, tensor in layout.unflatten(row_P, row_B).items()}
