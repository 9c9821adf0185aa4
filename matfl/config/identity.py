"""What makes two runs the same run: a schema number, and the parameters that differ from that schema's defaults.

A parameter that comes later enters `DEFAULTS` with the value under which runs behave as before, so that no stored run
is renamed by it. A default of `RunConfig` may change; an entry here never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["DEFAULTS", "SCHEMA", "identity"]

SCHEMA = 1
"""Grows only when the meaning of stored parameters changes; all stored runs then count as other runs."""

DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "method": "matfl",
        "parameters": {},
        "tasks": "paper9",
        "clients_per_task": 2,
        "k": 8,
        "voting_layers": 8,
        "rounds": 100,
        "local_epochs": 10,
        "batch_size": 10,
        "lr": 1e-4,
        "lr_decay": 0.99,
        "weight_decay": 1e-4,
        "participation": 1.0,
        "server_lr": 1.0,
        "server_optimizer": "none",
        "server_beta1": 0.9,
        "server_beta2": 0.99,
        "server_tau": 1e-3,
        "norm_bound": 100.0,
        "clip_norm": 0.0,
        "sketch": 0,
        "attack": "none",
        "attackers": 0,
        "attack_strength": 1.0,
        "codec": "none",
        "codec_share": 0.01,
        "dp_clip": 0.0,
        "dp_noise": 0.0,
        "late": 0.0,
        "mixes": "updates",
        "client_moments": "anew",
        "start": "imagenet",
        "head_start": "shared",
        "heads": "task",
        "loss_weights": "none",
        "balance": "sum",
        "backbone": "resnet18",
        "width": 64,
        "head_channels": 256,
        "aspp_rates": [12, 24, 36],
        "size": 0,
        "images_train": 0,
        "images_val": 0,
        "images_per_client": 0,
        "evaluate_every": 10,
        "precision": "auto",
        "edge_protocol": "fedhca2",
        "seed": 0,
        "data_seed": 0,
        "output_stride": 8,
    }
)
"""Value of every parameter of schema 1 that a hash leaves out, in JSON's types."""


def identity(values: Mapping[str, Any], *, later: Mapping[str, Any]) -> dict[str, object]:
    """What a run's hash is made of: the schema, and the entries of a config's JSON form that differ from `DEFAULTS`.

    `later` gives the defaults of parameters that `DEFAULTS` lacks.
    """
    frozen = {**later, **DEFAULTS}
    return {"schema": SCHEMA} | {name: value for name, value in values.items() if value != frozen[name]}
