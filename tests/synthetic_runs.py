"""Made-up runs with the attributes that studies read; scores and friends follow simple rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from matfl.config.run_config import RunConfig
from matfl.tasks.task import TASKS, pairs


@dataclass(frozen=True)
class FakeRun:
    config: RunConfig
    metrics: pd.DataFrame
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=lambda: {"torch": "2.0"})


def scores(config: RunConfig, better: float, seed_shift: float = 0.0) -> dict[str, float]:
    """Main metric by pair: 0.5 or 20, improved by `better` percent."""
    found = {}
    for pair in pairs(config.tasks):
        task = TASKS[pair.task.name]
        base = (0.5 if task.higher_is_better else 20.0) * (1 + seed_shift)
        found[pair.name] = base * (1 + better / 100) if task.higher_is_better else base * (1 - better / 100)
    return found


def metrics(config: RunConfig, by_round: Mapping[int, Mapping[str, float]], clients: int = 1) -> pd.DataFrame:
    """One 'global' row a pair and round, and `clients` 'local' rows that are worse by a tenth of themselves."""
    rows = []
    for number, values in by_round.items():
        for name, value in values.items():
            domain, task = name.split("/")
            main = TASKS[task].main_metric
            worse = 0.9 if TASKS[task].higher_is_better else 1.1
            rows.append((number, domain, task, -1, "global", main, value))
            rows.append((number, domain, task, -1, "global", "other", 0.0))
            rows += [(number, domain, task, i, "local", main, worse * value) for i in range(clients)]
    return pd.DataFrame(rows, columns=["round", "domain", "task", "client", "kind", "metric", "value"])


def diagnostics(config: RunConfig, rounds: int = 3, *, perfect: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Friends: with `perfect` always the same-task clients first, then neighbours; otherwise random ones."""
    generator = np.random.default_rng(seed)
    names = [pair.name for pair in pairs(config.tasks) for _ in range(config.clients_per_task)]
    n, k, layers = len(names), config.k, config.voting_layers
    label = np.array(names)
    same = label[:, None] == label[None, :]
    similarity = np.empty((rounds, layers, n, n), np.float32)
    for r in range(rounds):
        noise = generator.uniform(0, 0.1, (n, n))
        for layer in range(layers):
            similarity[r, layer] = noise + 0.01 * generator.uniform(size=(n, n)) + (0.5 * same if perfect else 0)
            np.fill_diagonal(similarity[r, layer], 1)
    order = np.argsort(-similarity, axis=-1)
    votes = np.zeros_like(similarity, dtype=np.uint8)
    for place in range(k):
        np.put_along_axis(votes, order[..., place : place + 1], k - place, axis=-1)
    friends = np.zeros((rounds, n, n), bool)
    chosen = np.argsort(-votes.sum(1, dtype=int), axis=-1, kind="stable")[..., :k]
    np.put_along_axis(friends, chosen, True, axis=-1)
    weights = np.where(friends, similarity.mean(1), 0)
    weights /= weights.sum(-1, keepdims=True)
    # Partners' whole updates start alike and end opposite.
    course = np.linspace(0.3, -0.3, rounds)[:, None, None] if rounds > 1 else np.zeros((1, 1, 1))
    cosines = np.where(same[None], course, 0.02) + np.zeros((rounds, n, n))
    cosines[:, np.arange(n), np.arange(n)] = 1
    return {
        "norms": np.ones((rounds, n), np.float32),
        "cosines": cosines.astype(np.float16),
        "participants": np.ones((rounds, n), bool),
        "weights": weights.astype(np.float32),
        "friends": friends,
        "votes": votes,
        "similarity": similarity.astype(np.float16),
        "client_pairs": label,
        "layers": np.array([f"layer{i}" for i in range(layers)]),
    }


def fake_run(config: RunConfig, better: float = 0.0, **options: Any) -> FakeRun:
    """A run with `better` percent more than 0.5 (or less than 20) at its last of two evaluated rounds."""
    shift = 0.1 * config.seed
    last = scores(config, better, shift)
    first = scores(config, better - 30, shift)
    size = 1000 * config.num_clients
    spent = {"train": 1.0, "mix": 0.1, "evaluate": 0.2}
    rounds = [
        {"round": r + 1, "loss": 1 / (r + 1), "seconds": spent, "bytes_up": size, "bytes_down": size}
        for r in range(config.rounds)
    ]
    return FakeRun(
        config=config,
        metrics=metrics(config, {1: first, config.rounds: last}, config.clients_per_task),
        diagnostics=diagnostics(config, config.rounds, seed=config.seed, **options),
        rounds=rounds,
    )
