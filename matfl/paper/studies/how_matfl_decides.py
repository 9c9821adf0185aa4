"""Algorithm 1 by hand: four clients whose updates fit on a page, then the same steps on a stored round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from matfl.paper.claims import AtLeast, Below, Claim, Part
from matfl.paper.stats import exact
from matfl.paper.studies.base import Plan, base_config, setting
from matfl.server.grouping import friends, similarity_weights, votes
from matfl.server.mixing import Mixing, mix
from matfl.server.models import Models
from matfl.server.updates import Layout, Updates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matfl.runs.run import Run

__all__ = [
    "CLIENTS",
    "LAYERS",
    "PAIRS",
    "Round",
    "arrows_of",
    "claims",
    "example",
    "plan",
    "steps",
    "stored_round",
]

CLIENTS = ("A", "B", "C", "D")
"""Four clients: A and B share a task."""
PAIRS = ("outdoor/semseg", "outdoor/semseg", "outdoor/sal", "outdoor/normals")
"""Their tasks."""
LAYERS = ("layer 1", "layer 2", "layer 3")

_ANGLES = ((20, 45, 60, 200), (10, 95, 35, 170), (0, 25, 110, 250))
_LENGTHS = ((1.0, 0.8, 0.9, 0.7), (0.8, 1.0, 0.7, 0.9), (0.9, 0.9, 1.0, 0.8))


def example() -> Updates:
    """The updates of four clients in three layers of two numbers each."""
    shape = {name: torch.zeros(2) for name in LAYERS}
    layout = Layout.of(shape, parameters=LAYERS, voting=LAYERS)
    angle_LN, length_LN = torch.tensor(_ANGLES).deg2rad(), torch.tensor(_LENGTHS)
    rows_NP = torch.stack([length_LN * angle_LN.cos(), length_LN * angle_LN.sin()], -1).transpose(0, 1).reshape(4, 6)
    return Updates(
        layout=layout,
        clients=tuple(range(4)),
        updates_NP=rows_NP,
        buffers_NB=torch.zeros(4, 0),
        heads=({},) * 4,
    )


def arrows_of(updates: Updates) -> np.ndarray:
    """(layers, clients, 2): the example's updates layer by layer."""
    rows_NP = torch.cat([block_NK for _, block_NK in updates.columns()], 1)
    return rows_NP.view(len(updates), len(LAYERS), 2).transpose(0, 1).numpy()


def steps(updates: Updates, weights_NN: Tensor) -> pd.DataFrame:
    """What each task's model moves by in each layer when the library mixes the example's updates."""
    start = {name: torch.zeros(slot.shape) for name, slot in updates.layout.parameters.items()}
    models = Models.start(updates.layout, start, tuple(dict.fromkeys(PAIRS)), {})
    mix(models, updates, Mixing(weights_NN=weights_NN), PAIRS)
    columns = pd.MultiIndex.from_product([LAYERS, ("x", "y")])
    return pd.DataFrame(models.theta_CP.numpy(), index=list(models.owners), columns=columns).rename_axis("model of")


def plan(preset: str, *, seed: int = 0, settings: str = "") -> Plan:
    """One MaT-FL run with its votes."""
    base = base_config(preset, settings)
    config = setting(base, base.tasks, method="matfl", seed=seed)
    return Plan(configs=(config,), votes=(config,))


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a stored round decided, and the same computed anew from its similarities."""

    number: int
    """From 1."""
    pairs: tuple[str, ...]
    similarity_LNN: Tensor
    votes_LNN: Tensor
    friends_NN: Tensor
    weights_NN: Tensor
    stored_friends_NN: np.ndarray
    stored_weights_NN: np.ndarray


def decide(similarity_LNN: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Votes (L, N, N), friends (N, N) and weights (N, N) that follow from similarities at some K."""
    votes_LNN = votes(similarity_LNN, k)
    friends_NN = friends(votes_LNN, k, similarity=similarity_LNN)
    return votes_LNN, friends_NN, similarity_weights(similarity_LNN, friends_NN)


def stored_round(run: Run, number: int) -> Round:
    """Round `number` (from 1; 0: the middle one) of a run with votes.

    Raises ValueError when there is none, or when a client was missing.
    """
    stored = run.diagnostics
    rounds = len(stored["participants"])
    number = number or (rounds + 1) // 2
    if not 1 <= number <= rounds:
        raise ValueError(f"round={number}: choose 1..{rounds}, the rounds of {run.path.name}")
    if not stored["participants"][number - 1].all():
        raise ValueError(f"round={number}: a client did not take part; choose another round")
    similarity_LNN = torch.from_numpy(stored["similarity"][number - 1].astype(np.float32))
    votes_LNN, friends_NN, weights_NN = decide(similarity_LNN, run.config.k)
    return Round(
        number=number,
        pairs=tuple(stored["client_pairs"].tolist()),
        similarity_LNN=similarity_LNN,
        votes_LNN=votes_LNN,
        friends_NN=friends_NN,
        weights_NN=weights_NN,
        stored_friends_NN=stored["friends"][number - 1],
        stored_weights_NN=stored["weights"][number - 1],
    )


def claims(rounds: Sequence[Round]) -> list[Claim]:
    """That nothing but the similarities decides a round."""
    same = np.mean([(r.friends_NN.numpy() == r.stored_friends_NN).mean() for r in rounds])
    apart = max(float(np.abs(r.weights_NN.numpy() - r.stored_weights_NN).max()) for r in rounds)
    return [
        Claim(
            text="Friends and weights of a stored round follow from its similarities by these steps.",
            parts=(
                Part(statistic="share of choices that agree", value=exact(float(same)), rule=AtLeast(0.995), digits=3),
                Part(statistic="largest difference of a weight", value=exact(apart), rule=Below(0.01), digits=4),
            ),
            note="Similarities are stored with three digits.",
        )
    ]
