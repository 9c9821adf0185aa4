"""Flower's strategy around `matfl.server.server.Server`: dispatch, gather, aggregate, evaluate, store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from matfl.core.records import MetricRow, RoundRow
from matfl.flower.arrays import Wire, from_arrays, size
from matfl.flower.exchange import Exchange, metric_rows
from matfl.flower.nodes import Nodes
from matfl.models.network import build_head
from matfl.runs import store
from matfl.runs.engine import add_diagnostics
from matfl.server.codecs import codec_of, expected, unpack
from matfl.server.layout import Layout
from matfl.server.server import Owner, Reply, Server, ServerState

__all__ = ["ManyTask"]

_log = logging.getLogger("flwr")


class ManyTask(Strategy):
    """One model a task (or a client), moved by any of `matfl.server.methods.METHODS`; every round is stored.

    The models are in `state`, not in the arrays that `Strategy.start` hands around: those stay empty, so that nothing
    is held twice. Rounds count on from `state.rounds_done`, whatever number Flower gives them.
    """

    def __init__(
        self, server: Server, state: ServerState, records: store.Records, nodes: Nodes, path: Path, run: str
    ) -> None:
        """`run` names this run to its clients, who keep what they remember under it."""
        self.run = run
        self.server, self.state, self.records, self.nodes, self.path = server, state, records, nodes, path
        heads = {pair: Layout.of(build_head(server.config, pair)) for pair in dict.fromkeys(server.client_pairs)}
        self.wires = {pair: Wire(parts={"backbone": server.layout, "head": head}) for pair, head in heads.items()}
        self._exchange = Exchange(nodes=nodes)
        self._asked: dict[int, Owner] = {}
        self._row = RoundRow()
        self._seconds: dict[str, float] = {}
        self._metrics: list[MetricRow] = []
        self._remember: list[int] = []
        self._diagnostics: dict[str, np.ndarray] = {}
        self._began = time.perf_counter()

    def summary(self) -> None:
        """Say what is run."""
        config = self.server.config
        _log.info(
            "matfl: %s with %d clients, rounds %d to %d, stored in %s",
            config.name,
            config.num_clients,
            self.state.next_round,
            config.rounds,
            self.path,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's participants that are connected, each with its task's model.

        Raises TimeoutError when fewer than `Settings.min_clients` are connected for too long.
        """
        self._seconds, self._metrics, self._remember = {}, [], []
        self._begin()
        self.nodes.wait(grid, self.nodes.settings.min_clients)
        self._spend("wait")
        chosen = self.server.participants(self.state.next_round)
        own = self.server.own_heads
        asked = {
            client: Owner(pair=self.server.client_pairs[client], client=client if own else -1)
            for client in chosen
            if client in self.nodes.clients
        }
        messages = self._messages("train", asked, self.state.next_round)
        self._exchange.failed = {client: "its node is not connected" for client in chosen if client not in asked}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the models by the replies in the order of the clients; whoever is left out is noted with the reason."""
        exchange = self._exchange
        exchange.take(replies)
        self._spend("train")
        wire = {"down": exchange.bytes, "up": 0}
        collection = self.server.begin(self.state, self.nodes.settings.spool(self.path))
        for client in list(exchange.found):
            content = exchange.found.pop(client)  # frees its arrays as they are read
            try:
                reply, rows = self._reply(client, content, wire)
            except (KeyError, TypeError, ValueError) as error:
                exchange.failed[client] = f"its reply cannot be used: {error}"
                continue
            collection.add(reply)
            self._metrics += rows
        after, record = collection.finish()
        excluded = {int(client): why for client, why in record.row["excluded"].items()} | exchange.failed
        for client, why in sorted(excluded.items()):
            _log.warning(
                "matfl: round %d without client %d (%s): %s",
                after.rounds_done,
                client,
                self.server.client_pairs[client],
                why,
            )
        settings = self.nodes.settings
        self._row = {
            **record.row,
            "excluded": {str(client): why for client, why in sorted(excluded.items())},
            "duplicates": exchange.duplicates,
            "wire": {**wire, "models": settings.models, "updates": settings.updates},
        }
        if self._remember:
            self._row["memory"] = sorted(self._remember)
        if own := sorted(self.nodes.own_data.intersection(record.row["participants"])):
            self._row["own_data"] = own
        self._diagnostics = record.diagnostics
        self.state = after
        self._spend("mix")
        return None, MetricRecord({"loss": record.loss, "clients": len(record.row["participants"])})

    def _messages(self, kind: str, asked: dict[int, Owner], round: int) -> list[Message]:
        rows = [*self.records.rounds, self._row] if kind == "evaluate" else self.records.rounds
        memory = {
            entry["client"]: row["round"] if entry["client"] in row.get("memory", ()) else 0
            for row in rows
            for entry in row["clients"]
        }
        return self._exchange.messages(
            kind, asked, self.server, self.state, self.wires, round=round, run=self.run, memory=memory
        )

    def _reply(self, client: int, content: RecordDict, wire: dict[str, int]) -> tuple[Reply, list[MetricRow]]:
        """A client's reply and its rows of kind 'local'."""
        model, result = content.get("model"), content.get("result")
        if not isinstance(model, ArrayRecord) or not isinstance(result, MetricRecord):
            raise ValueError("it lacks the records 'model' and 'result'")
        loss, images, seconds, steps = (
            float(cast(float, result[key])) for key in ("loss", "images", "seconds", "steps")
        )
        wire["up"] += size(model)
        extra = content.get("message")
        message: dict[str, Tensor] = {}
        if isinstance(extra, ArrayRecord):
            wire["up"] += size(extra)
            shapes = self.server.method.reply_shapes(self.server.round(self.state), client)
            message = from_arrays(extra, self.server.device, shapes=shapes)
        pair, precision = self.server.client_pairs[client], self.nodes.settings.updates
        start = self.server.dispatch(self.state, client)
        packed: int | None = None
        if codec := codec_of(self.server.config):
            forms = {name: shape for name, (shape, _) in expected(start, codec).items()}
            arrived = from_arrays(model, self.server.device, shapes=forms)
            state, packed = unpack(arrived, start, codec), sum(tensor.nbytes for tensor in arrived.values())
        else:
            state = self.wires[pair].decode(
                model, precision, start=None if precision == "fp32" else start, device=self.server.device
            )
        if result.get("memory"):
            self._remember.append(client)
        rows = []
        if "metrics" in content:
            rows = metric_rows(content, Owner(pair=pair, client=client), "local", round=self.state.next_round)
        integers = {name: tensor for name, tensor in start.items() if name not in state}
        reply = Reply(
            client=client,
            state={**state, **integers},
            loss=loss,
            images=_whole("images", images),
            seconds=seconds,
            steps=_whole("steps", steps),
            message=message,
            bytes=packed,
        )
        return reply, rows

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """In a round that is evaluated, each model to its client with the lowest number, one that took part if any."""
        self._begin()
        if not self._evaluates:
            return []
        self.nodes.look(grid)
        asked = {}
        for owner in self.server.evaluated:
            its = [
                client
                for client in self.nodes.clients
                if owner.client in (-1, client) and self.server.client_pairs[client] == owner.pair
            ]
            if its:
                asked[min(its, key=lambda client: (client not in self._row["participants"], client))] = owner
        self._asked = asked
        return self._messages("evaluate", asked, self.state.rounds_done)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note the metrics of the aggregated models, and store the round."""
        rows: list[MetricRow] = []
        if self._evaluates:
            self._exchange.take(replies)
            rows = self._evaluation()
            self._row["wire"]["evaluate"] = self._exchange.bytes
        self._spend("evaluate")
        self.records.metrics += self._metrics + rows
        self.records.rounds.append({**self._row, "seconds": {k: round(v, 4) for k, v in self._seconds.items()}})
        add_diagnostics(self.records, self._diagnostics)
        store.save_round(self.path, self.server.config, self.server.pack(self.state), self.records)
        if not rows:
            return None
        return MetricRecord(
            {
                f"{domain}/{task} {metric}" + (f" of client {client}" if client >= 0 else ""): value
                for _, domain, task, client, _, metric, value in rows
            }
        )

    def _evaluation(self) -> list[MetricRow]:
        """Rows of kind 'global', in the order of `Server.evaluated`; models without any are noted."""
        rows: list[MetricRow] = []
        by_owner = {owner: client for client, owner in self._asked.items()}
        missing = {}
        for owner in self.server.evaluated:
            client = by_owner.get(owner)
            try:
                if client is None:
                    raise ValueError("none of its clients is connected")
                if client in self._exchange.failed:
                    raise ValueError(f"client {client}: {self._exchange.failed[client]}")
                rows += metric_rows(self._exchange.found[client], owner, "global", round=self.state.rounds_done)
            except ValueError as error:
                missing[owner.pair.name if owner.client < 0 else f"client-{owner.client}"] = str(error)
        if missing:
            self._row["not_evaluated"] = missing
            _log.warning("matfl: round %d: models that were not evaluated: %s", self.state.rounds_done, missing)
        return rows

    @property
    def _evaluates(self) -> bool:
        return self.server.evaluates(self.state.rounds_done)

    def _begin(self) -> None:
        self._exchange = Exchange(nodes=self.nodes)
        self._began = time.perf_counter()

    def _spend(self, phase: str) -> None:
        """Book the time since the last booking."""
        now = time.perf_counter()
        self._seconds[phase], self._began = now - self._began, now


def _whole(name: str, value: float) -> int:
    if not value.is_integer():
        raise ValueError(f"{name}={value:g} is no whole number")
    return int(value)
