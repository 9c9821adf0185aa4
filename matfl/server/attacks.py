"""Simulated hostile clients: what they send in the place of their updates, so that methods can be tried against them.

g is an attacker's own honest update, s `RunConfig.attack_strength`; unit(x) = x / norm(x). Attackers know the round's
honest updates where that helps them, and act together: the worst case, not the likely one.

    flip     -s g
    scale     s g
    noise     g + s norm(g) unit(random)          a draw of its own each client and round
    replace   s norm(g) unit(random)              one direction for all attackers and rounds
    copy      s norm(g) unit(mean of the honest)
    votes     in voting layers the direction of most cosine with the honest (the mean of their unit vectors), as long as
              g there; everywhere else -s norm(g) unit(mean of the honest): chosen for what votes, harmful where nobody
              looks
    lie       the honest update of another task of its domain, under the name of its own (`matfl.runs.hostile`)

Only the backbone's parameters are attacked. A task's heads and batch-norm statistics are averages of its own clients
alone, whatever the method, so there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import derive, stream
from matfl.server.kernels import product_dtype
from matfl.server.updates import Updates
from matfl.tasks.task import pairs

__all__ = ["ATTACKS", "Scene", "attack", "attackers"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an attacker knows in a round, and how strong it is."""

    strength: float
    honest_HP: Tensor
    """The round's honest updates, none where all clients are hostile."""
    voting: Sequence[slice]
    """Columns of the layers that vote."""
    seed: int
    round: int

    def towards(self, own_P: Tensor, direction_P: Tensor) -> Tensor:
        """`direction_P`, `strength` times as long as `own_P`; 0 where it has no direction."""
        return _unit(direction_P) * (self.strength * torch.linalg.vector_norm(own_P))

    def random(self, like_P: Tensor, *keys: int | str) -> Tensor:
        """Standard normal numbers that depend on the seed and `keys` alone."""
        draw = stream(self.seed, "attack", *keys)
        return torch.randn(like_P.shape, generator=draw, dtype=like_P.dtype).to(like_P.device)

    def mean(self) -> Tensor:
        """(P,) the mean of the honest updates; 0 where there is none."""
        return self.honest_HP.sum(0) / max(len(self.honest_HP), 1)


def _unit(vector: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(vector)
    return vector / norm if norm > 0 else torch.zeros_like(vector)


def _flip(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    return -scene.strength * own_P


def _scale(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    return scene.strength * own_P


def _noise(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    return own_P + scene.towards(own_P, scene.random(own_P, "noise", scene.round, client))


def _replace(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    return scene.towards(own_P, scene.random(own_P, "target"))


def _copy(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    return scene.towards(own_P, scene.mean())


def _votes(own_P: Tensor, client: int, scene: Scene) -> Tensor:
    sent_P = -scene.towards(own_P, scene.mean())
    for columns in scene.voting:
        liked = sum((_unit(row) for row in scene.honest_HP[:, columns]), torch.zeros_like(own_P[columns]))
        sent_P[columns] = _unit(liked) * torch.linalg.vector_norm(own_P[columns])
    return sent_P


ATTACKS: Mapping[str, Callable[[Tensor, int, Scene], Tensor]] = {
    "flip": _flip,
    "scale": _scale,
    "noise": _noise,
    "replace": _replace,
    "copy": _copy,
    "votes": _votes,
}
"""Name -> what an attacker sends, from its own update (P,), its number and the scene. 'lie' trains and is not here."""


def attackers(config: RunConfig) -> tuple[int, ...]:
    """The hostile clients of a run, ascending: drawn from its seed, of as many different tasks as there are."""
    tasks = [pair.name for pair in pairs(config.tasks) for _ in range(config.clients_per_task)]
    order = np.random.default_rng(derive(config.seed, "attackers")).permutation(len(tasks)).tolist()
    before = {
        client: sum(tasks[other] == tasks[client] for other in order[:place]) for place, client in enumerate(order)
    }
    return tuple(sorted(sorted(order, key=before.__getitem__)[: config.attackers]))


def attack(
    updates: Updates, hostile: Collection[int], kind: str, *, strength: float = 1.0, seed: int = 0, round: int = 1
) -> Updates:
    """The round's replies with the updates of the `hostile` clients among them replaced; the others' are as they were.

    Raises ValueError for an unknown attack, or where the updates are in files.
    """
    if kind not in ATTACKS:
        raise ValueError(f"attack={kind!r}: choose from {', '.join(ATTACKS)}")
    matrix_NP = updates.updates_NP
    if not isinstance(matrix_NP, Tensor):
        raise ValueError(f"attack={kind!r}: simulated attacks need the round's updates in memory: set memory=0")
    rows = [row for row, client in enumerate(updates.clients) if client in hostile]
    kept = [row for row in range(len(updates)) if row not in rows]
    if not rows:
        return updates
    exact = product_dtype(updates.dtype)
    slots = [updates.layout.parameters[name] for name in updates.layout.voting]
    scene = Scene(
        strength=strength,
        honest_HP=matrix_NP[kept].to(exact),
        voting=[slice(slot.start, slot.stop) for slot in slots],
        seed=seed,
        round=round,
    )
    sent = {row: ATTACKS[kind](matrix_NP[row].to(exact), updates.clients[row], scene) for row in rows}
    changed_NP = matrix_NP.clone()
    for row, sent_P in sent.items():
        changed_NP[row] = sent_P
    return updates.holding(changed_NP)
