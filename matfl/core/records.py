"""The rows that runs are recorded in: one metric's value, one round."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

__all__ = ["ClientRow", "MetricRow", "RoundRow"]


class MetricRow(NamedTuple):
    """A row of metrics.csv."""

    round: int
    """Rounds that were done when it was measured."""
    domain: str
    task: str
    client: int
    """Whose model was measured; -1: the task's."""
    kind: Literal["global", "local"] | str
    """'global': a model as the server would dispatch it; 'local': a client's right after its training."""
    metric: str
    value: float


class ClientRow(TypedDict):
    """A client that replied in a round."""

    client: int
    loss: float | None
    """Mean training loss; None where it was not finite."""
    images: int
    seconds: float
    bytes: int
    """Sent each way."""


class RoundRow(TypedDict, total=False):
    """A line of rounds.jsonl. The first group of keys is always there."""

    round: int
    """1-based."""
    loss: float | None
    """Mean over the clients that took part."""
    participants: list[int]
    """Clients whose replies were mixed."""
    excluded: dict[str, str]
    """Client number -> why it was left out."""
    bytes_down: int
    bytes_up: int
    clients: list[ClientRow]
    seconds: dict[str, float]
    """By phase."""

    clipped: dict[str, float]
    """Client number -> factor that its update was shortened by."""
    attackers: list[int]
    """Asked clients that were simulated to be hostile."""
    duplicates: list[int]
    """Flower: clients that replied again."""
    wire: dict[str, int | str]
    """Flower: bytes and precisions of what travelled."""
    own_data: list[int]
    """Flower: participants that trained on all images of their own folder."""
    memory: list[int]
    """Flower: clients that keep something on their node's disk after this round."""
    not_evaluated: dict[str, str]
    """Flower: model -> why it was not measured."""
