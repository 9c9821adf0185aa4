"""Which node is which client: asked of every node that comes, before the first round and at any later time."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from matfl.data.start_bias import Sums, combine
from matfl.flower.settings import Settings, agreed_data, client_pairs

__all__ = ["Nodes", "reason"]

RETRY = 30.0
"""Seconds after which a node that was refused or failed is asked again: it may have been started anew."""

_log = logging.getLogger("flwr")


def reason(message: Message) -> str | None:
    """Why a reply holds no result: the client app's own words or Flower's error; None where it holds one."""
    if message.has_error():
        text = (message.error.reason or "no reason given").strip().splitlines()[-1]
        return f"failed with Flower's error code {message.error.code}: {text[:200]}"
    if isinstance(record := message.content.get("error"), ConfigRecord):
        return f"failed: {str(record.get('reason'))[:300]}"
    return None


@dataclass(kw_only=True)
class Nodes:
    """The federation's nodes; a node that comes late is found by the next `look`."""

    settings: Settings
    clients: dict[int, int] = field(default_factory=dict)
    """Client number -> id of its node, of those that are connected."""
    sums: dict[int, Sums] = field(default_factory=dict)
    """Client number -> sums over its labels (`matfl.data.start_bias.label_sums`)."""
    own_data: set[int] = field(default_factory=set)
    """Clients that train on all images of their own folder."""
    refused: dict[int, str] = field(default_factory=dict)
    """Node id -> why it is no client."""
    _pending: dict[str, int] = field(default_factory=dict)
    _asked: dict[int, float] = field(default_factory=dict)
    _replaced: dict[int, int] = field(default_factory=dict)
    """Node id -> the later node that is the same client, while both are connected."""

    def look(self, grid: Grid) -> None:
        """Ask new nodes who they are and take the answers that have come, without waiting for any."""
        there = set(grid.get_node_ids())
        self.clients = {client: node for client, node in self.clients.items() if node in there}
        self.refused = {node: why for node, why in self.refused.items() if node in there}
        self._pending = {message: node for message, node in self._pending.items() if node in there}
        self._replaced = {node: other for node, other in self._replaced.items() if {node, other} <= there}
        known = {*self.clients.values(), *self._pending.values(), *self._replaced}
        now = time.monotonic()
        new = [node for node in sorted(there - known) if now - self._asked.get(node, -RETRY) >= RETRY]
        if new:
            ask = RecordDict({"ask": ConfigRecord({"hash": self.settings.config.hash})})
            messages = [Message(ask, node, "query", ttl=self.settings.discovery_timeout + RETRY) for node in new]
            sent = set(grid.push_messages(messages))
            for message, node in zip(messages, new, strict=True):
                self._asked[node] = now
                if message.metadata.message_id in sent:
                    self._pending[message.metadata.message_id] = node
        if self._pending:
            for reply in grid.pull_messages(list(self._pending)):
                if reply.metadata.reply_to_message_id in self._pending:
                    self._take(self._pending.pop(reply.metadata.reply_to_message_id), reply)

    def _take(self, node: int, reply: Message) -> None:
        why = reason(reply) or self._introduce(node, cast(RecordDict, reply.content))
        if why:
            self.refused[node] = why
            _log.warning("matfl: node %d is no client: %s", node, why)

    def _introduce(self, node: int, content: RecordDict) -> str | None:
        """Note who a node is; why not, if it cannot be."""
        config = self.settings.config
        who, chosen = cast(dict[str, Any], content.get("who", {})), client_pairs(config)
        client = who.get("client")
        if not isinstance(client, int) or not 0 <= client < len(chosen) or who.get("task") != chosen[client].name:
            return f"it says that it is client {client!r} with task {who.get('task')!r}"
        if who.get("hash") != config.hash or who.get("data") != agreed_data(config, own_data=bool(who.get("own-data"))):
            return (
                f"it runs matfl {who.get('matfl')} with config {who.get('hash')} and data {who.get('data')}: "
                "install the server's matfl there"
            )
        if client in self.clients:
            before = self.clients[client]
            self._replaced[before] = node
            self.refused[before] = (
                f"node {node} came later as client {client} too; give each node a partition-id of "
                "its own, unless it was started anew"
            )
            _log.warning("matfl: node %d is no client: %s", before, self.refused[before])
        if isinstance(labels := content.get("labels"), MetricRecord):
            self.sums[client] = {task: tuple(map(float, cast(list[float], of))) for task, of in labels.items()}
        (self.own_data.add if who.get("own-data") else self.own_data.discard)(client)
        self.refused.pop(node, None)
        self.clients[client] = node
        _log.info("matfl: node %d is client %d (%s), %s images", node, client, who["task"], who.get("images"))
        return None

    def forget(self, client: int) -> None:
        """Ask the client's node again: it said that it is another one."""
        node = self.clients.pop(client, -1)
        self._asked.pop(node, None)
        self._replaced = {before: other for before, other in self._replaced.items() if other != node}

    def wait(self, grid: Grid, needed: int) -> None:
        """Look until `needed` clients are there.

        Raises TimeoutError after the discovery timeout, naming who is missing and who was refused why.
        """
        deadline = time.monotonic() + self.settings.discovery_timeout
        while True:
            self.look(grid)
            left = deadline - time.monotonic()
            if len(self.clients) >= needed:
                return
            if left <= 0:
                raise TimeoutError(self._too_few(needed))
            time.sleep(min(self.settings.poll_interval, left))

    def _too_few(self, needed: int) -> str:
        chosen = client_pairs(self.settings.config)
        missing = [f"{index} ({pair.name})" for index, pair in enumerate(chosen) if index not in self.clients]
        silent = f" {len(self._pending)} node(s) did not answer." if self._pending else ""
        refused = "".join(f" Node {node} was refused: {why}." for node, why in sorted(self.refused.items()))
        return (
            f"{len(self.clients)} of at least {needed} clients came within {self.settings.discovery_timeout:g} s."
            f"{silent}{refused} Missing: {', '.join(missing)}. Start their nodes (in simulation: num-supernodes), "
            "raise discovery-timeout, or lower min-clients-start (later: min-clients)"
        )

    def start_biases(self) -> dict[str, tuple[float, ...]]:
        """`matfl.data.start_bias.start_biases` over the clients that are there."""
        chosen = client_pairs(self.settings.config)
        return combine((chosen[client], sums) for client, sums in sorted(self.sums.items()))
