"""SCAFFOLD: control variates that take the drift out of local training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.layout import Layout
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["Scaffold"]


@register
@dataclass(frozen=True, kw_only=True)
class Scaffold(Method):
    """Local steps follow gradient + c - c_i in the backbone; c_i+ is the mean of the round's raw gradients.

    The server averages as `fedavg` and moves c by (share of clients that replied) x mean of (c_i+ - c_i). The paper's
    second form, c_i+ = c_i - c + (start - end) / (steps lr), *is* that mean for the plain gradient steps which it
    assumes. Here steps are Adam's, whose lengths are no gradient's, so the mean is taken itself and the correction
    comes before the optimiser. Heads differ between tasks and have none.
    """

    name = "scaffold"
    title = "SCAFFOLD"
    description = (
        "plain averaging; gradients corrected by the difference of the clients' and the server's mean gradient"
    )
    source = "Karimireddy et al., SCAFFOLD, ICML 2020, algorithm 1, option II"
    family = "optimisation"

    def start(self, before: Dispatch) -> Tensors:
        return {"control": torch.zeros_like(before.models.theta_CP[0])}

    def message(self, before: Dispatch, client: int) -> Tensors:
        return {"control": before.state["control"]}

    def client(self, local: Local) -> Tensors:
        layout = Layout.of(local.model.backbone)
        server_P = local.message["control"].to(local.device)
        own_P = local.memory["control"].to(local.device) if "control" in local.memory else torch.zeros_like(server_P)
        shift = local.shift({f"backbone.{name}": part for name, part in layout.unflatten(server_P - own_P).items()})
        total_P, steps = torch.zeros_like(server_P), 0
        total = {f"backbone.{name}": part for name, part in layout.unflatten(total_P).items()}

        def correct(parameters: Mapping[str, Tensor]) -> None:
            nonlocal steps
            steps += 1
            for name, part in total.items():
                if (gradient := parameters[name].grad) is not None:
                    part.add_(gradient)
            shift(parameters)

        local.train(correct=correct)
        mean_P = total_P / steps
        local.memory["control"] = mean_P
        return {"change": mean_P - own_P}

    def reply_shapes(self, before: Dispatch, client: int) -> dict[str, tuple[int, ...]]:
        return {"change": (before.models.layout.P,)}

    def mix(self, round: Round) -> Mixing:
        control_P = round.state["control"].clone()
        for reply in round.replies:
            control_P += reply.message["change"].to(control_P) / len(round.client_tasks)
        return Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)), state={"control": control_P})
