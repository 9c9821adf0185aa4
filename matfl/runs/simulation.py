"""All clients of one run in this process, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from matfl.client import training as local
from matfl.config.run_config import RunConfig
from matfl.core.records import MetricRow
from matfl.data import Split, partition
from matfl.models.network import Model, build
from matfl.runs.clients import client_round, personal_model
from matfl.server.server import Collection, Owner, Server, ServerState
from matfl.tasks.joint import head_prefixes
from matfl.tasks.task import Pair

__all__ = ["Progress", "Simulation", "Splits"]

Splits = dict[str, dict[str, Split]]
"""Domain name -> {'train': ..., 'val': ...}."""
Phase = Literal["train", "mix", "evaluate", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run is; handed to the `progress` callback after every step."""

    round: int
    """1-based round under way."""
    rounds: int
    phase: Phase
    done: int
    """Steps of the phase that are over, of `of`."""
    of: int
    loss: float
    """Mean training loss of the round's clients so far."""


class Simulation:
    """The clients share one module per head shape and swap states; what each keeps between rounds is in `memory`."""

    def __init__(
        self, config: RunConfig, device: torch.device, splits: Splits, progress: Callable[[Progress], None] | None
    ) -> None:
        self.config, self.device, self.splits = config, device, splits
        self.clients = partition(config, {name: both["train"] for name, both in splits.items()})
        self.memory: dict[int, dict[str, Tensor]] = {}
        """By client number."""
        self._report = progress or (lambda event: None)
        self._modules: dict[tuple[tuple[str, int], ...], Model] = {}

    def report(self, phase: Phase, round: int, done: int, of: int, loss: float) -> None:
        """Tell the `progress` callback."""
        self._report(Progress(round=round, rounds=self.config.rounds, phase=phase, done=done, of=of, loss=loss))

    def module(self, pair: Pair) -> Model:
        """The module for heads of these names and numbers of outputs, whatever state it holds."""
        shape = tuple(zip(head_prefixes(pair.name), (part.channels for part in pair.parts), strict=True))
        if shape not in self._modules:
            self._modules[shape] = build(self.config, pair).to(self.device)
        return self._modules[shape]

    def train(
        self, server: Server, state: ServerState, collection: Collection, spent: dict[str, float]
    ) -> list[MetricRow]:
        """Train the round's participants and add their replies; in a round that is evaluated, measure each as well."""
        before = collection.dispatch
        losses: list[float] = []
        measured: list[MetricRow] = []
        for done, index in enumerate(before.participants, 1):
            client = self.clients[index]
            model = self.module(client.pair)
            began = time.perf_counter()
            turn = client_round(
                model,
                server.dispatch(state, index),
                client,
                self.splits[client.pair.domain.name]["train"],
                self.config,
                method=server.method,
                round=before.number,
                message=server.method.message(before, index),
                memory=self.memory.get(index),
            )
            self.memory[index] = turn.memory
            spent["train"] += time.perf_counter() - began
            losses.append(turn.reply.loss)
            collection.add(turn.reply)
            sound = np.isfinite(turn.reply.loss) and all(t.isfinite().all() for t in model.parameters())
            if server.evaluates(before.number) and sound:
                began = time.perf_counter()
                measured += self._rows(before.number, model, client.pair, index, "local")
                spent["evaluate"] += time.perf_counter() - began
            self.report("train", before.number, done, len(before.participants), float(np.mean(losses)))
        return measured

    def evaluate(self, server: Server, state: ServerState, loss: float) -> list[MetricRow]:
        """Rows of kind 'global': every model that the server would dispatch now, or that its client would use."""
        rows: list[MetricRow] = []
        owners: tuple[Owner, ...] = server.evaluated
        for done, owner in enumerate(owners, 1):
            model = self.module(owner.pair)
            model.load_state_dict(dict(self._used(server, state, owner, model)))
            rows += self._rows(state.rounds_done, model, owner.pair, owner.client, "global")
            self.report("evaluate", state.rounds_done, done, len(owners), loss)
        return rows

    def _used(self, server: Server, state: ServerState, owner: Owner, model: Model) -> Mapping[str, Tensor]:
        dispatched = server.model(state, owner)
        if not server.method.personal:
            return dispatched
        client = self.clients[owner.client]
        split = self.splits[owner.pair.domain.name]["train"]
        memory = self.memory.get(owner.client)
        return personal_model(
            model,
            dispatched,
            client,
            split,
            self.config,
            method=server.method,
            round=state.rounds_done,
            memory=memory,
        )

    def _rows(self, round: int, model: Model, pair: Pair, client: int, kind: str) -> list[MetricRow]:
        meters = local.measure(model, self.splits[pair.domain.name]["val"], pair, self.config, device=self.device)
        return [
            MetricRow(round, pair.domain.name, part.label, client, kind, name, value)
            for part, meter in meters.items()
            for name, value in meter.compute().items()
        ]

    def pack(self) -> dict[str, Tensor]:
        """What the clients keep, for a checkpoint: 'client-NUMBER/memory.<name>'."""
        return {
            f"client-{index}/memory.{name}": tensor.clone()
            for index, memory in self.memory.items()
            for name, tensor in memory.items()
        }

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `pack` wrote; other tensors are passed over."""
        self.memory = {}
        for key, tensor in tensors.items():
            owner, _, name = key.rpartition("/")
            if name.startswith("memory."):
                index = int(owner.removeprefix("client-"))
                self.memory.setdefault(index, {})[name.removeprefix("memory.")] = tensor.to(self.device)
