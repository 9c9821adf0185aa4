"""A plug-in as a user writes it: a method with parameters, server state, messages, memory and personal models."""

PLUGIN = '''
from dataclasses import dataclass

import torch

from matfl.server.methods import Method, Mixing, register


@register
@dataclass(frozen=True, kw_only=True)
class Remembering(Method):
    """FedAvg with a control variate, in which a client also keeps a personal head and is heard by its held-out loss."""

    name, title, description = "remembering", "Remembering", "a test of everything"
    personal = True
    damping: float = 0.5
    pull: float = 0.1

    def __post_init__(self):
        if not 0 <= self.damping <= 1:
            raise ValueError(f"remembering.damping={self.damping}: choose a share in [0, 1]")

    def start(self, before):
        return {"drift": torch.zeros(before.models.layout.P), "heard": torch.zeros(len(before.client_tasks))}

    def message(self, before, client):
        drift = before.models.layout.unflatten(before.state["drift"])
        return {f"backbone.{name}": tensor for name, tensor in drift.items()} | {"number": torch.tensor(before.number)}

    def reply_shapes(self, before, client):
        return {"losses": (2,)}

    def client(self, local):
        assert int(local.message["number"]) == local.round
        local.hold_out(0.25)
        start = {**local.state, **local.memory} if local.memory else local.state
        local.train(start=start, only="head", epochs=1, correct=local.pull(self.pull))
        local.memory = local.snapshot("head")
        own = local.loss(held_out=True)
        drift = {name: tensor for name, tensor in local.message.items() if name != "number"}
        local.train(start=local.state, correct=local.shift(drift))
        return {"losses": torch.tensor([own, local.loss(held_out=True)])}

    def mix(self, round):
        clients = list(round.updates.clients)
        heard = round.state["heard"].clone()
        for client, reply in zip(clients, round.replies):
            heard[client] += float(reply.message["losses"].mean())
        drift = self.damping * round.state["drift"]
        if round.n:
            drift = drift + round.generator("noise").initial_seed() % 7 * 1e-9 * round.updates.updates_NP.mean(0)
        weights_N = heard[clients]
        return Mixing(
            weights_NN=round.rows(weights_N.expand(round.n, -1)),
            state={"drift": drift, "heard": heard},
            diagnostics={"heard": weights_N},
        )

    def model(self, local):
        return local.memory
'''
"""Text of the module."""
