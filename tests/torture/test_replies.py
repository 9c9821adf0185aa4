"""Hostile replies on the engine and on Flower: left out by name, and the round ends as if nothing had come."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny

from matfl.runs import engine
from matfl.runs.run import Run
from matfl.server.collection import Collection
from matfl.server.state import Reply

ROUNDS = 2
METHODS = ("fedavg", "matfl", "clustered", "local", "single_task")
State = dict[str, torch.Tensor]


def each(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    """Change the floating-point tensors whose name holds `part`."""
    return lambda state: {
        name: change(tensor.clone()) if part in name and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def one(state: State, value: float) -> State:
    """One number of one tensor, somewhere."""
    name = random.Random(value).choice([name for name, tensor in state.items() if tensor.is_floating_point()])
    changed = state[name].clone()
    changed.view(-1)[changed.numel() // 2] = value
    return {**state, name: changed}


STATES: dict[str, Callable[[State], State]] = {
    "NaN somewhere": lambda state: one(state, float("nan")),
    "infinity somewhere": lambda state: one(state, float("inf")),
    "3e38 somewhere": lambda state: one(state, 3e38),
    "1e12 somewhere": lambda state: one(state, -1e12),
    "model times 1e6": each("backbone", lambda t: t * 1e6),
    "model times 1e25": each("", lambda t: t * 1e25),
    "model of 3e38": each("", lambda t: torch.full_like(t, 3e38)),
    "head of 1e30": each("head", lambda t: torch.full_like(t, 1e30)),
    "head times 1e6": each("head", lambda t: 1e6 * (t + 1)),
    "variance of -1": each("running_var", lambda t: torch.full_like(t, -1)),
    "mean of 1e20": each("running_mean", lambda t: torch.full_like(t, 1e20)),
    "tensor missing": lambda state: dict(list(state.items())[1:]),
    "head missing": lambda state: {name: t for name, t in state.items() if not name.startswith("head.")},
    "nothing": lambda state: {},
    "unknown part": lambda state: {**state, "tail.weight": torch.ones(1)},
    "unknown tensor": lambda state: {**state, "backbone.more": torch.ones(1)},
    "no part": lambda state: {**state, "weight": torch.ones(1)},
    "another shape": each("backbone", lambda t: t[None]),
    "flattened": each("head", lambda t: t.flatten()[:1]),
}
NUMBERS: dict[str, Any] = {
    "loss": (float("nan"), float("inf"), float("-inf"), 1e308, -1e308),
    "images": (-5, 10**18, float("nan"), float("inf")),
    "seconds": (float("nan"), -1.0, 1e300, float("inf")),
}


def hostile(reply: Reply, kind: str) -> Reply:
    if kind in STATES:
        return replace(reply, state=STATES[kind](dict(reply.state)))
    name, value = kind.split("=")
    return replace(reply, **{name: float(value)})


KINDS = [*STATES, *(f"{name}={value}" for name, values in NUMBERS.items() for value in values)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], str]:
    """(round, client) -> the kind of reply that arrives instead of the client's."""
    chosen: dict[tuple[int, int], str] = {}
    add = Collection.add

    def adding(self: Collection, reply: Reply) -> str | None:
        kind = chosen.get((self.dispatch.number, reply.client))
        return add(self, hostile(reply, kind) if kind else reply)

    monkeypatch.setattr(Collection, "add", adding)
    return chosen


def weights(path: Path) -> dict[str, bytes]:
    tensors = load_file(path / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_on_the_engine(
    cache: Path, tmp_path: Path, spoil: dict[tuple[int, int], str], tally, trials, rng: np.random.Generator
) -> None:
    """A hostile reply among honest ones, on the engine."""
    silent: dict[tuple[str, int], dict[str, bytes]] = {}
    for trial in trials(len(KINDS)):
        kind, method = KINDS[trial % len(KINDS)], METHODS[int(rng.integers(len(METHODS)))]
        client = int(rng.integers(4))
        config = tiny(method=method, rounds=ROUNDS, evaluate_every=ROUNDS)

        def run(name: str, what: str) -> Path:
            spoil.clear()
            spoil[1, client] = what  # noqa: B023  (called at once)
            engine.run(config, tmp_path / name, cache_dir=cache, device="cpu")  # noqa: B023
            return tmp_path / name

        if (method, client) not in silent:
            silent[method, client] = weights(run(f"{method}-{client}", "loss=nan"))
        path = run(f"trial-{trial}", kind)
        first, second = Run(path).rounds
        assert list(first["excluded"]) == [str(client)], (kind, method, first)
        assert not second["excluded"]
        assert weights(path) == silent[method, client], (kind, method, client)
        tally["left out by name, no trace"] += 1


def test_on_flower(cache: Path, tmp_path: Path, tally, trials, rng: np.random.Generator) -> None:
    """A hostile reply among honest ones, on Flower."""
    pytest.importorskip("flwr")
    from flwr.app import Array, ArrayRecord
    from inprocess import InProcessGrid
    from test_flower import app_config, client_app, federation, nodes_of

    from matfl.flower.settings import Settings

    def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
        def spoilt(content: Any) -> None:
            content["model"][name] = Array(change(content["model"][name].numpy()))

        return spoilt

    def number(name: str, value: float) -> Callable[[Any], None]:
        def spoilt(content: Any) -> None:
            content["result"][name] = value

        return spoilt

    def without(name: str) -> Callable[[Any], None]:
        return lambda content: content.pop(name)

    kinds: dict[str, Callable[[Any], None]] = {
        "times 1e25": array("backbone", lambda a: a * np.float32(1e25)),
        "times 1e6": array("backbone", lambda a: a * np.float32(1e6)),
        "NaN": array("backbone", lambda a: a * np.float32("nan")),
        "head of 1e30": array("head", lambda a: np.full_like(a, 1e30)),
        "negative variances": array("backbone.buffers", lambda a: -np.abs(a) - 1),
        "shorter": array("backbone", lambda a: a[:-1]),
        "float64": array("backbone", lambda a: a.astype(np.float64)),
        "text": array("backbone", lambda a: np.array(["x"] * a.size)),
        "empty": array("head", lambda a: a[:0]),
        "no model": without("model"),
        "no result": without("result"),
        "another array": lambda content: content["model"].__setitem__("more", Array(np.ones(1, np.float32))),
        "another record": lambda content: content.__setitem__("model", ArrayRecord({"x": Array(np.ones(1))})),
        "loss 1e308": number("loss", 1e308),
        "images -5": number("images", -5),
        "seconds NaN": number("seconds", float("nan")),
    }
    monkey = pytest.MonkeyPatch()
    monkey.setattr("matfl.flower.nodes.RETRY", 0.0)
    config = tiny(method="matfl", rounds=ROUNDS, evaluate_every=ROUNDS)

    def federate(name: str, client: int, spoilt: Callable[[Any], None] | None) -> Run:
        def fault(kind: str, round: int, index: int, reply: Any) -> list[Any]:
            if kind == "train" and (round, index) == (1, client):
                if spoilt is None:
                    return []
                spoilt(reply.content)
            return [reply]

        keys = app_config(config, **{"runs-dir": str(tmp_path / name), "run-name": "run"})
        grid = InProcessGrid(client_app, keys, nodes_of(config, cache), fault=fault)
        return Run(federation(grid, Settings.of(keys)))

    silent: dict[int, dict[str, bytes]] = {}
    try:
        for trial in trials(len(kinds)):
            kind, client = list(kinds)[trial % len(kinds)], int(rng.integers(2))
            if client not in silent:
                silent[client] = weights(federate(f"silent-{client}", client, None).path)
            run = federate(f"trial-{trial}", client, kinds[kind])
            first, second = run.rounds
            assert list(first["excluded"]) == [str(client)], (kind, first)
            assert not second["excluded"]
            assert weights(run.path) == silent[client], kind
            tally["left out by name, no trace"] += 1
    finally:
        monkey.undo()
