"""A client that lies about its task: it trains another one of its domain and sends that update under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.data import Client
from matfl.models.network import Model, build, start_heads
from matfl.server.attacks import attackers
from matfl.tasks.task import Pair, pairs

__all__ = ["disguise", "true_task", "undisguise"]

_HEAD = "lie."
"""Prefix of a liar's own head in what it keeps between rounds."""


def true_task(config: RunConfig, client: Client) -> Pair | None:
    """What a lying client trains in truth: the next task of its domain. None for an honest client.

    Raises ValueError where the domain has no other task in the run.
    """
    if config.attack != "lie" or client.index not in attackers(config):
        return None
    its = [pair for pair in pairs(config.tasks) if pair.domain == client.pair.domain]
    if len(its) < 2:
        raise ValueError(
            f"attack='lie': client {client.index} has no other task to train, {client.pair} is the only one of its "
            "domain in tasks; add one of that domain"
        )
    return its[(its.index(client.pair) + 1) % len(its)]


def disguise(
    config: RunConfig, client: Client, true: Pair, dispatched: Mapping[str, Tensor], memory: Mapping[str, Tensor]
) -> tuple[Model, dict[str, Tensor], Client]:
    """The model, its state and the client that train in truth: the dispatched backbone under a head of its own."""
    device = next(iter(dispatched.values())).device
    model = build(config, true).to(device)
    kept = {name.removeprefix(_HEAD): tensor for name, tensor in memory.items() if name.startswith(_HEAD)}
    head = kept or {f"head.{name}": tensor for name, tensor in start_heads(config, true).items()}
    backbone = {name: tensor for name, tensor in dispatched.items() if name.startswith("backbone.")}
    return model, {**backbone, **{name: t.to(device) for name, t in head.items()}}, replace(client, pair=true)


@torch.no_grad()
def undisguise(
    model: Model, trained: Mapping[str, Tensor], dispatched: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the state that is sent: the trained backbone under the head that was dispatched, what the liar keeps).

    `model`, of the task it says it trains, then holds what is sent.
    """
    sent = {name: trained[name] if name.startswith("backbone.") else tensor for name, tensor in dispatched.items()}
    model.load_state_dict(sent)
    kept = {f"{_HEAD}{name}": t.detach().clone() for name, t in trained.items() if name.startswith("head.")}
    return dict(model.state_dict()), kept
