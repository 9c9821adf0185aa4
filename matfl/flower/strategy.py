"""Flower's strategy around `matfl.server.server.Server`: dispatch, gather, aggregate, evaluate, store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from matfl.flower.arrays import Wire, size
from matfl.flower.exchange import Exchange, metric_rows
from matfl.flower.nodes import Nodes
from matfl.models.network import build_head
from matfl.runs import store
from matfl.server.server import Owner, Reply, Server, ServerState
from matfl.server.updates import Layout

__all__ = ["ManyTask"]

_log = logging.getLogger("flwr")


class ManyTask(Strategy):
    """One model a task (or a client), moved by any of `matfl.server.aggregation.METHODS`; every round is stored.

    The models are in `state`, not in the arrays that `Strategy.start` hands around: those stay empty, so that nothing
    is held twice. Rounds count on from `state.round`, whatever number Flower gives them.
    """

    def __init__(self, server: Server, state: ServerState, records: store.Records, nodes: Nodes, path: Path) -> None:
        self.server, self.state, self.records, self.nodes, self.path = server, state, records, nodes, path
        heads = {pair: Layout.of(build_head(server.config, pair)) for pair in dict.fromkeys(server.client_pairs)}
        self.wires = {pair: Wire(parts={"backbone": server.layout, "head": head}) for pair, head in heads.items()}
        self._exchange = Exchange(nodes=nodes)
        self._asked: dict[int, Owner] = {}
        self._row: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self._metrics: list[tuple[Any, ...]] = []
        self._began = time.perf_counter()

    def summary(self) -> None:
        """Say what is run."""
        config = self.server.config
        _log.info(
            "matfl: %s with %d clients, rounds %d to %d, stored in %s",
            config.name,
            config.num_clients,
            self.state.round + 1,
            config.rounds,
            self.path,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's participants that are connected, each with its task's model.

        Raises TimeoutError when fewer than `Settings.min_clients` are connected for too long.
        """
        self._seconds, self._metrics = {}, []
        self._begin()
        self.nodes.wait(grid, self.nodes.settings.min_clients)
        self._spend("wait")
        chosen = self.server.participants(self.state.round)
        own = any(owner.client >= 0 for owner in self.server.evaluated)
        asked = {
            client: Owner(pair=self.server.client_pairs[client], client=client if own else -1)
            for client in chosen
            if client in self.nodes.clients
        }
        messages = self._exchange.messages("train", asked, self.server, self.state, self.wires, round=self.state.round)
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
        after, record = self.server.aggregate(self.state, self._replies(exchange, wire))
        excluded = {int(client): why for client, why in record.row["excluded"].items()} | exchange.failed
        for client, why in sorted(excluded.items()):
            _log.warning(
                "matfl: round %d without client %d (%s): %s", after.round, client, self.server.client_pairs[client], why
            )
        settings = self.nodes.settings
        self._row = {
            "round": after.round,
            **record.row,
            "excluded": {str(client): why for client, why in sorted(excluded.items())},
            "duplicates": exchange.duplicates,
            "wire": {**wire, "models": settings.models, "updates": settings.updates},
        }
        if own := sorted(self.nodes.own_data.intersection(record.row["participants"])):
            self._row["own_data"] = own
        for name, array in record.diagnostics.items():
            self.records.diagnostics.setdefault(name, []).append(array)
        self.state = after
        self._spend("mix")
        return None, MetricRecord({"loss": record.loss, "clients": len(record.row["participants"])})

    def _replies(self, exchange: Exchange, wire: dict[str, int]) -> Iterator[Reply]:
        """Replies as the server takes them, one at a time; the arrays of each are freed as they are read."""
        for client in list(exchange.found):
            content = exchange.found.pop(client)
            try:
                reply, rows = self._reply(client, content, wire)
            except (KeyError, TypeError, ValueError) as error:
                exchange.failed[client] = f"its reply cannot be used: {error}"
                continue
            self._metrics += rows
            yield reply

    def _reply(self, client: int, content: RecordDict, wire: dict[str, int]) -> tuple[Reply, list[tuple[Any, ...]]]:
        """A client's reply and its rows of kind 'local'."""
        model, result = content.get("model"), content.get("result")
        if not isinstance(model, ArrayRecord) or not isinstance(result, MetricRecord):
            raise ValueError("it lacks the records 'model' and 'result'")
        loss, images, seconds = (float(cast(float, result[key])) for key in ("loss", "images", "seconds"))
        wire["up"] += size(model)
        pair, precision = self.server.client_pairs[client], self.nodes.settings.updates
        start = self.server.dispatch(self.state, client)
        state = self.wires[pair].decode(
            model, precision, start=None if precision == "fp32" else start, device=self.server.device
        )
        rows = []
        if "metrics" in content:
            rows = metric_rows(content, Owner(pair=pair, client=client), "local", round=self.state.round + 1)
        integers = {name: tensor for name, tensor in start.items() if name not in state}
        return Reply(client=client, state={**state, **integers}, loss=loss, images=int(images), seconds=seconds), rows

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
        return self._exchange.messages(
            "evaluate", asked, self.server, self.state, self.wires, round=self.state.round - 1
        )

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note the metrics of the aggregated models, and store the round."""
        rows: list[tuple[Any, ...]] = []
        if self._evaluates:
            self._exchange.take(replies)
            rows = self._evaluation()
            self._row["wire"]["evaluate"] = self._exchange.bytes
        self._spend("evaluate")
        self.records.metrics += self._metrics + rows
        self.records.rounds.append({**self._row, "seconds": {k: round(v, 4) for k, v in self._seconds.items()}})
        store.save_round(self.path, self.server.config, self.server.pack(self.state), self.records)
        if not rows:
            return None
        return MetricRecord(
            {
                f"{domain}/{task} {metric}" + (f" of client {client}" if client >= 0 else ""): value
                for _, domain, task, client, _, metric, value in rows
            }
        )

    def _evaluation(self) -> list[tuple[Any, ...]]:
        """Rows of kind 'global', in the order of `Server.evaluated`; models without any are noted."""
        rows: list[tuple[Any, ...]] = []
        by_owner = {owner: client for client, owner in self._asked.items()}
        missing = {}
        for owner in self.server.evaluated:
            client = by_owner.get(owner)
            try:
                if client is None:
                    raise ValueError("none of its clients is connected")
                if client in self._exchange.failed:
                    raise ValueError(f"client {client}: {self._exchange.failed[client]}")
                rows += metric_rows(self._exchange.found[client], owner, "global", round=self.state.round)
            except ValueError as error:
                missing[owner.pair.name if owner.client < 0 else f"client-{owner.client}"] = str(error)
        if missing:
            self._row["not_evaluated"] = missing
            _log.warning("matfl: round %d: models that were not evaluated: %s", self.state.round, missing)
        return rows

    @property
    def _evaluates(self) -> bool:
        return self.server.evaluates(self.state.round - 1)

    def _begin(self) -> None:
        self._exchange = Exchange(nodes=self.nodes)
        self._began = time.perf_counter()

    def _spend(self, phase: str) -> None:
        """Book the time since the last booking."""
        now = time.perf_counter()
        self._seconds[phase], self._began = now - self._began, now
