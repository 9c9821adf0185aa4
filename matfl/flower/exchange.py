"""One exchange of messages: what is sent to each client, and what came back from whom."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from matfl.core.records import MetricRow
from matfl.flower.arrays import Wire, size, to_arrays
from matfl.flower.nodes import Nodes, reason
from matfl.server.server import Owner, Server, ServerState
from matfl.tasks.task import Pair

__all__ = ["Exchange", "metric_rows"]

_log = logging.getLogger("flwr")


@dataclass(kw_only=True)
class Exchange:
    """The messages of one phase of a round and the replies to them."""

    nodes: Nodes
    sent: dict[int, Any] = field(default_factory=dict)
    """Client number -> metadata of the message that it was sent."""
    bytes: int = 0
    """Of the arrays sent."""
    found: dict[int, RecordDict] = field(default_factory=dict)
    """Client number -> its first reply that holds a result, ascending."""
    failed: dict[int, str] = field(default_factory=dict)
    """Client number -> why there is none."""
    duplicates: list[int] = field(default_factory=list)
    """Clients that replied again; the first reply counts."""

    def messages(
        self,
        kind: str,
        asked: Mapping[int, Owner],
        server: Server,
        state: ServerState,
        wires: Mapping[Pair, Wire],
        *,
        round: int,
        run: str,
        memory: Mapping[int, int],
    ) -> list[Message]:
        """A message for each client with the model of `asked`; clients of one owner get the same arrays.

        Args:
            round: 1-based.
            run: what names this run to its clients.
            memory: the last round in which each client took part, whose memory it goes on with; 0 without.
        """
        settings = self.nodes.settings
        arrays: dict[Owner, ArrayRecord] = {}
        messages = []
        for client, owner in asked.items():
            if owner not in arrays:
                arrays[owner] = wires[owner.pair].encode(server.model(state, owner), settings.models)
            record = ArrayRecord()  # of its own, since whoever reads a message empties it
            for name, array in arrays[owner].items():
                record[name] = array
            content = RecordDict({"model": record})
            if kind == "train" and (extra := server.method.message(server.round(state), client)):
                content["message"] = to_arrays(extra)
                self.bytes += size(cast(ArrayRecord, content["message"]))
            self.bytes += size(record)
            ask = {
                "round": round,
                "client": client,
                "hash": server.config.hash,
                "run": run,
                "memory": memory.get(client, 0),
                "evaluate": server.evaluates(round),
                "models": settings.models,
                "updates": settings.updates,
            }
            content["ask"] = ConfigRecord(cast(Any, ask))
            message = Message(
                content, self.nodes.clients[client], kind, ttl=settings.round_timeout, group_id=str(round)
            )
            self.sent[client] = message.metadata
            messages.append(message)
        return messages

    def take(self, replies: Iterable[Message]) -> None:
        """Sort the replies by client, whatever their order."""
        by_message = {metadata.message_id: client for client, metadata in self.sent.items()}
        by_node = {metadata.dst_node_id: client for client, metadata in self.sent.items()}
        for reply in replies:
            client = by_message.get(reply.metadata.reply_to_message_id, by_node.get(reply.metadata.src_node_id))
            if client is None:
                _log.warning("matfl: dropped a reply of node %d, which was not asked", reply.metadata.src_node_id)
            elif client in self.found:
                self.duplicates.append(client)
            elif why := reason(reply):
                self.failed[client] = why
                if reply.has_content() and cast(ConfigRecord, reply.content["error"]).get("refusal"):
                    self.nodes.forget(client)
            else:
                self.found[client] = reply.content
        self.found = dict(sorted(self.found.items()))
        for client in self.sent:
            self.failed.setdefault(client, f"no reply within {self.nodes.settings.round_timeout:g} s")
        for client in self.found:
            self.failed.pop(client)


def metric_rows(content: RecordDict, owner: Owner, kind: str, *, round: int) -> list[MetricRow]:
    """A reply's metrics as rows of metrics.csv after `round` rounds. Raises ValueError when they have another form."""
    record = content.get("metrics")
    held: dict[str, Any] = dict(record) if isinstance(record, ConfigRecord) else {}
    tasks, names, values = (held.get(key, 0) for key in ("tasks", "names", "values"))
    lists = (tasks, names, values)
    sound = all(isinstance(given, list) for given in lists) and len(tasks) == len(names) == len(values)
    if not sound or not all(isinstance(n, str) for n in names) or not all(isinstance(v, float) for v in values):
        raise ValueError("its metrics are not tasks, names and values")
    if unknown := [task for task in tasks if task not in {part.label for part in owner.pair.parts}]:
        raise ValueError(f"its metrics are of task {unknown[0]!r}, which is none of {owner.pair.name}")
    return [
        MetricRow(round, owner.pair.domain.name, task, owner.client, kind, name, value)
        for task, name, value in zip(*lists)
    ]
