"""What updates tell: the same updates grouped exactly, from sketches, from private sketches, and with attackers.

A `Signals` record holds what was measured on the real updates of some rounds of one MaT-FL run, not the updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.paper.studies.hostile import DEFENCES
from matfl.paper.studies.store import Arrays, Record
from matfl.runs.captured import captured
from matfl.runs.engine import data_version
from matfl.server.attacks import ATTACKS, attack, attackers
from matfl.server.grouping import cosine, friends, gram, similarity_weights, votes
from matfl.server.methods import METHODS, Round
from matfl.server.methods.sketched import cosines, private_sketch
from matfl.server.mixing import mix, owner_shares
from matfl.server.privacy import noise_for
from matfl.server.screening import clip_factors
from matfl.server.sketches import Sketcher, sketch, sketch_gram

__all__ = ["EPSILONS", "LENGTHS", "TABLES", "Signals", "frame"]

LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers a layer of the sketches."""
PRIVATE_LENGTHS = (4, 16, 64)
EPSILONS = (1.0, 4.0, 16.0, 64.0, 256.0, float("inf"))
"""What a client may spend on the sketches of all rounds."""
COUNTS = (1, 2, 4)
"""Hostile clients."""
STRENGTH = 10.0
TABLES = ("sketches", "private", "tasks", "attacks", "absent")
"""What a record holds."""
HASHES, DRAWS = 3, 2
"""Draws of signs and buckets and of noise; and of who attacks."""

SUBSETS = 10
"""Draws of who is away, and of who is late."""
PRESENT = (0.1, 0.25, 0.5)
"""Shares of the clients that are there."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The updates of one seed's run."""

    config: RunConfig
    rounds: tuple[int, ...]
    """Whose updates are looked at; attacks are tried in the last."""
    kind = "signals"
    alone = False

    def spec(self) -> dict[str, Any]:
        """Everything that decides the numbers."""
        return {
            "config": self.config.identity,
            "rounds": list(self.rounds),
            "lengths": list(LENGTHS),
            "private": [list(PRIVATE_LENGTHS), [str(e) for e in EPSILONS]],
            "attacks": [list(ATTACKS), list(COUNTS), STRENGTH],
            "present": list(PRESENT),
            "draws": [HASHES, DRAWS, SUBSETS],
            "noise": "drawn anew for every seed",
            "data": data_version(self.config),
        }

    def units(self) -> tuple[str, ...]:
        """One: its rounds follow from each other."""
        return ("rounds",)

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Rows of the tables, by table."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        before: tuple[int, Tensor] | None = None
        for round in captured(self.config, self.rounds, device=device):
            found["absent"] += _absent(round, before[1] if before and before[0] == round.number - 1 else None)
            before = round.number, round.updates.updates_NP.clone()  # type: ignore[union-attr]
            found["sketches"] += _sketched(round)
            rows, told = _private(round, releases=self.config.rounds)
            found["private"] += rows
            found["tasks"] += told
            if round.number == max(self.rounds):
                found["attacks"] += _hostile(round)
        return {"seed": self.config.seed, "tables": found}, {}

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """The one unit's."""
        return parts[0]


def frame(records: Sequence[Record], table: str) -> Any:
    """One of the `TABLES` of all seeds, with the column seed."""
    import pandas as pd

    rows = [{"seed": record.values["seed"], **row} for record in records for row in record.values["tables"][table]]
    return pd.DataFrame(rows)


# --- exact against sketched -------------------------------------------------------------------------------------------


def _decided(similar_LNN: Tensor, k: int) -> dict[str, Tensor]:
    ballots = votes(similar_LNN, k)
    chosen = friends(ballots, k, similarity=similar_LNN)
    return {"votes": ballots, "friends": chosen, "weights": similarity_weights(similar_LNN, chosen)}


def _off(n: int) -> Tensor:
    return ~torch.eye(n, dtype=torch.bool)


def _partners(round: Round) -> Tensor:
    return round.same(round.tasks) & _off(round.n)


def _share(chosen_NN: Tensor, of_NN: Tensor) -> float:
    """Share of `of_NN` that is chosen."""
    return float((chosen_NN & of_NN).sum() / of_NN.sum().clamp(min=1))


def _sketched(round: Round) -> list[dict[str, Any]]:
    """Error of cosines beside theory's, and how much of votes, friends and weights survives, a row a (length, hash)."""
    k, updates, off = min(round.config.k, round.n), round.updates, _off(round.n)
    exact = cosine(gram(updates, updates.layout.voting))
    before = _decided(exact, k)
    shortest = min(slot.stop - slot.start for slot in (updates.layout.parameters[n] for n in updates.layout.voting))
    rows = []
    for length in LENGTHS:
        for hash in range(HASHES if length <= shortest else 0):
            sketcher = Sketcher(length=length, seed=hash)
            estimated = cosine(sketch_gram(sketch(updates, updates.layout.voting, sketcher)))
            after = _decided(estimated, k)
            theory = ((1 + exact[:, off] ** 2) / length).mean().sqrt()
            counted = (before["votes"] > 0) & off
            rows.append(
                {
                    "round": round.number,
                    "length": length,
                    "hash": hash,
                    "error": float((estimated - exact)[:, off].square().mean().sqrt()),
                    "theory": float(theory),
                    "votes": float(((after["votes"] > 0) & counted).sum() / counted.sum()),
                    "friends": _share(after["friends"], before["friends"] & off),
                    "weights": float((after["weights"] - before["weights"]).abs().sum(1).mean()),
                    "partners": _share(after["friends"], _partners(round)),
                    "partners_exact": _share(before["friends"], _partners(round)),
                }
            )
    return rows


# --- private ----------------------------------------------------------------------------------------------------------


def _private(round: Round, *, releases: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(how well partners are found, how well tasks are told) from private sketches, a row a (length, epsilon, draw).

    Epsilon is what a client spends on `releases` sketches, one a round of the run.
    """
    k, updates, seed = min(round.config.k, round.n), round.updates, round.config.seed
    exact = _decided(cosine(gram(updates, updates.layout.voting)), k)
    rows, told = [], []
    for length in PRIVATE_LENGTHS:
        plain_LNd = sketch(updates, updates.layout.voting, Sketcher(length=length, seed=0))
        for epsilon in EPSILONS:
            noise = noise_for(epsilon, releases)
            for draw in range(HASHES):
                generator = stream(seed, "private signals", round.number, length, str(epsilon), draw)
                noisy_LNd = torch.stack(
                    [private_sketch(one, noise=noise, generator=generator) for one in plain_LNd.transpose(0, 1)], 1
                )
                after = _decided(cosines(noisy_LNd), k)
                case = {"round": round.number, "length": length, "epsilon": str(epsilon), "draw": draw}
                rows.append(
                    {
                        **case,
                        "noise": noise,
                        "partners": _share(after["friends"], _partners(round)),
                        "weights": float((after["weights"] - exact["weights"]).abs().sum(1).mean()),
                    }
                )
                told.append({**case, "accuracy": _told(noisy_LNd, list(round.tasks))})
    return rows, told


def _told(sketches_LNd: Tensor, tasks: Sequence[Any]) -> float:
    """Accuracy of the nearest mean: each client's task from the sketches of all others, whose tasks are known."""
    flat_NK = sketches_LNd.transpose(0, 1).flatten(1).double()
    names, right = list(dict.fromkeys(tasks)), 0
    for client, row_K in enumerate(flat_NK):
        scores = []
        for name in names:
            others = [n for n, its in enumerate(tasks) if its == name and n != client]
            mean_K = flat_NK[others].mean(0) if others else torch.zeros_like(row_K)
            scores.append(float(mean_K @ row_K / torch.linalg.vector_norm(mean_K).clamp(min=1e-30)))
        right += names[int(np.argmax(scores))] == tasks[client]
    return right / len(tasks)


# --- absent and late --------------------------------------------------------------------------------------------------


def _absent(round: Round, before_NP: Tensor | None) -> list[dict[str, Any]]:
    """Where a client's weight goes with everybody there, with few, alone in its task, and with half of them late.

    Columns: case, draw; own, partners, others (weights that sum to 1); fresh, late (share of a fresh client's partners
    of either kind that are its friends; the round before's updates are `before_NP`).
    """
    tasks, everyone = list(round.tasks), list(range(round.n))
    rows = [{"round": round.number, "case": "all, in time", "draw": 0, **_where(round, everyone, everyone)}]
    for number, name in enumerate(dict.fromkeys(tasks)):
        first = tasks.index(name)
        there = [n for n in everyone if n == first or tasks[n] != name]
        found = _where(round, there, [first])
        rows.append({"round": round.number, "case": "alone in its task", "draw": number, **found})
    for share in PRESENT:
        for draw in range(SUBSETS):
            generator = np.random.default_rng([round.number, draw])
            there = sorted(generator.choice(round.n, max(2, int(share * round.n + 0.5)), replace=False).tolist())
            rows.append({"round": round.number, "case": f"{share:.0%}", "draw": draw, **_where(round, there, there)})
    if before_NP is not None:
        rows += [
            {"round": round.number, "case": "half late", "draw": draw, **_late(round, before_NP, draw)}
            for draw in range(SUBSETS)
        ]
    return rows


def _where(round: Round, there: list[int], of: list[int]) -> dict[str, float]:
    """Mean weights of the clients `of` on themselves, on partners and on others, where the clients `there` reply."""
    updates = round.updates.select(there)
    found = _decided(cosine(gram(updates, updates.layout.voting)), min(round.config.k, len(there)))
    tasks = [round.tasks[n] for n in there]
    same_NN = round.same(tuple(tasks))
    rows = [there.index(n) for n in of]
    own = found["weights"].diagonal()[rows].mean()
    partners = (found["weights"] * (same_NN & _off(len(there))))[rows].sum(1).mean()
    return {"own": float(own), "partners": float(partners), "others": float(1 - own - partners)}


def _late(round: Round, before_NP: Tensor, draw: int) -> dict[str, float]:
    late_N = torch.zeros(round.n, dtype=torch.bool)
    late_N[np.random.default_rng([7, draw]).choice(round.n, round.n // 2, replace=False)] = True
    mixed_NP = torch.where(late_N[:, None], before_NP, round.updates.updates_NP)  # type: ignore[arg-type]
    updates = round.updates.holding(mixed_NP)
    found = _decided(cosine(gram(updates, updates.layout.voting)), min(round.config.k, round.n))
    partners_NN = _partners(round) & ~late_N[:, None]
    return {
        "fresh": _share(found["friends"], partners_NN & ~late_N),
        "late": _share(found["friends"], partners_NN & late_N),
    }


# --- hostile ----------------------------------------------------------------------------------------------------------

_ALL: Mapping[str, Mapping[str, Any]] = {
    **DEFENCES,
    "trimmed_mean": {"method": "trimmed_mean"},
}


def _step(round: Round, changes: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """(step (C, P) of the models' backbones, weights (N, N), friends or None) under a defence."""
    updates = round.updates
    if clip := changes.get("clip_norm"):
        norms = torch.linalg.vector_norm(updates.updates_NP, dim=1, dtype=torch.float64)  # type: ignore[arg-type]
        updates = updates.holding(updates.updates_NP.clone()).scaled(clip_factors(norms, clip))  # type: ignore[union-attr]
        round = replace(round, updates=updates)
    method = METHODS[changes["method"]]
    own = {name.partition(".")[2]: value for name, value in changes.items() if "." in name}
    mixing = replace(method, **own).mix(round) if own else method.mix(round)
    models = round.models.copy()
    models.theta_CP.zero_()
    bare = replace(models, heads={})
    mix(bare, replace(updates, heads=({},) * round.n), mixing, round.tasks)
    return bare.theta_CP, mixing.weights_NN, mixing.diagnostics.get("friends")


def _hostile(round: Round) -> list[dict[str, Any]]:
    """What attackers are given, and how far the tasks' steps are led astray, a row a (defence, attack, count, draw).

    `astray` is the distance between the step with the attackers and that of the honest clients alone, over the length
    of the latter: of tasks with an attacker of their own (`astray_attacked`) and of the others.
    """
    rows = []
    for count in COUNTS:
        for draw in range(DRAWS):
            hostile = attackers(
                replace(round.config, attack="flip", attackers=count, seed=round.config.seed + 1000 * draw)
            )
            honest = [n for n in range(round.n) if n not in hostile]
            alone = replace(
                round,
                updates=round.updates.select(honest),
                tasks=tuple(round.tasks[n] for n in honest),
                replies=tuple(round.replies[n] for n in honest),
                starts=tuple(round.starts[n] for n in honest),
            )
            owners = round.models.owners
            with_CN = owner_shares(owners, round.tasks) > 0
            hit_C = with_CN[:, list(hostile)].any(1)
            there_C = with_CN[:, honest].any(1)
            without = {name: _step(alone, changes)[0] for name, changes in _ALL.items()}
            for kind in ATTACKS:
                sent = attack(
                    round.updates, hostile, kind, strength=STRENGTH, seed=round.config.seed, round=round.number
                )
                under = replace(round, updates=sent)
                for name, changes in _ALL.items():
                    step_CP, weights_NN, chosen_NN = _step(under, changes)
                    away_C = torch.linalg.vector_norm(step_CP - without[name], dim=1)
                    away_C /= torch.linalg.vector_norm(without[name], dim=1).clamp(min=1e-30)
                    row = {
                        "defence": name,
                        "attack": kind,
                        "attackers": count,
                        "draw": draw,
                        "weight": float(weights_NN[honest][:, list(hostile)].sum(1).mean()),
                        "astray_attacked": float(away_C[hit_C & there_C].mean()),
                        "astray_others": float(away_C[~hit_C & there_C].mean()) if (~hit_C & there_C).any() else None,
                    }
                    if chosen_NN is not None:
                        row["chosen"] = float(chosen_NN[honest][:, list(hostile)].double().mean())
                    rows.append(row)
    return rows
