"""Rounds of made-up updates of the real network's size, for the benches of the server."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.models.backbone import voting_layers
from matfl.models.resnet import ResNet
from matfl.server.methods import Round
from matfl.server.models import Models
from matfl.server.updates import Layout, Updates

__all__ = ["CONFIG", "TASKS", "fill_update", "layout_of", "models_of", "round_of", "tasks_of", "updates_of"]

TASKS = 9
CONFIG = RunConfig()


def layout_of(width: int) -> Layout:
    """ResNet18's, `width` channels in its first stage."""
    with torch.device("meta"):
        backbone = ResNet(width=width)
    return Layout.of(backbone, voting=voting_layers(backbone, CONFIG.voting_layers))


def tasks_of(clients: int) -> tuple[str, ...]:
    """Each client's task, by turns."""
    return tuple(f"task{client % TASKS}" for client in range(clients))


def models_of(layout: Layout, device: torch.device | str, *, clients: int = 0) -> Models:
    """One model a task, or, for a number of clients, one a client."""
    owners = tuple(range(clients)) if clients else tasks_of(TASKS)
    return Models(
        layout=layout,
        owners=owners,
        theta_CP=layout.empty(len(owners), device=device).fill_(0.1),
        buffers_CB=torch.ones(len(owners), layout.B, device=device),
    )


def fill_update(client: int, out: Tensor) -> Tensor:
    """Add to `out` a client's update: its task's direction, a little of everyone's, and its own noise."""
    for weight, *keys in ((0.5, "task", client % TASKS), (0.2, "all"), (1.0, "client", client)):
        noise = torch.empty(out.shape).normal_(0, 1e-3, generator=stream("bench", *keys))
        out.add_(noise.to(out), alpha=weight)
    return out


def updates_of(layout: Layout, clients: int, device: torch.device | str) -> Updates:
    """All clients' updates, in memory, without heads."""
    matrix_NP = layout.empty(clients, device=device).zero_()
    for client, row_P in enumerate(matrix_NP):
        fill_update(client, row_P)
    return Updates(
        layout=layout,
        clients=tuple(range(clients)),
        updates_NP=matrix_NP,
        heads=({},) * clients,
        buffers_NB=torch.ones(clients, layout.B, device=device),
    )


def round_of(models: Models, updates: Updates, **more: Any) -> Round:
    """The round of these updates; `more` are fields of `Round`."""
    tasks = tasks_of(len(updates))
    known = {
        "number": 1,
        "config": CONFIG,
        "client_tasks": tasks,
        "starts": tuple(
            models.row(client if client in models.owners else task) for client, task in zip(updates.clients, tasks)
        ),
    }
    return Round(models=models, updates=updates, tasks=tasks, **{**known, **more})
