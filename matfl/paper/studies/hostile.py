"""Hostile clients: what they gain of honest clients' models under each method, and what that costs.

Trained: honest runs and the strongest attacks, four attackers, `STRENGTH` times as long as honest updates, every
method: delta_m against honest single-task FL of the same seed, for the tasks that have an attacker among their own
clients and for those that have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, AtLeast, Below, Claim, Part, Within
from matfl.paper.stats import estimate
from matfl.paper.studies.base import Plan, regime
from matfl.paper.studies.trials import gain, trial, trial_seeds
from matfl.server.attacks import attackers

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["DEFENCES", "claims", "label", "plan", "table", "weights"]

DEFENCES: Mapping[str, Mapping[str, object]] = {
    "single_task": {"method": "single_task"},
    "fedavg": {"method": "fedavg"},
    "matfl": {"method": "matfl"},
    "matfl, clipped": {"method": "matfl", "clip_norm": 1.0},
    "median": {"method": "median"},
    "krum": {"method": "krum", "krum.attackers": 4},
}
"""What is tried against the attacks, by the name in tables."""

TRAINED = ("flip", "copy", "votes")
ATTACKERS, STRENGTH = 4, 10.0


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """Every defence without attackers and against each of `TRAINED`."""
    configs: list[RunConfig] = []
    for seed in trial_seeds(preset, seeds):
        for changes in DEFENCES.values():
            configs.append(trial(preset, settings, seed=seed, **changes))
            count = min(ATTACKERS, configs[-1].num_clients - 1)
            configs += [
                trial(preset, settings, seed=seed, **changes, attack=kind, attackers=count, attack_strength=STRENGTH)
                for kind in TRAINED
            ]
    return Plan(configs=tuple(configs))
