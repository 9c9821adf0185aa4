"""What passes between rounds and between client and server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from matfl.core.records import RoundRow
from matfl.server.methods.base import Result
from matfl.server.models import Models
from matfl.tasks.task import Pair

__all__ = ["Owner", "Reply", "RoundRecord", "ServerState"]


@dataclass(frozen=True, kw_only=True)
class Reply(Result):
    """What comes back from one client."""

    state: Mapping[str, Tensor]
    """Its trained model: 'backbone.*' and 'head.*'; copied by `Collection.add`."""
    bytes: int | None = None
    """What travelled of it, where a codec packed it; None: the model as it is."""


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything that the next round starts from."""

    rounds_done: int
    models: Models
    """Backbones and heads by owner: a pair's name, or a client's number where clients keep their own."""
    method: Mapping[str, Tensor] = field(default_factory=dict)
    """The method's own state."""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """m and v (C, P) of the server's optimiser, if it has them."""

    @property
    def next_round(self) -> int:
        """1-based number of the round that starts from here."""
        return self.rounds_done + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A model that is evaluated after aggregation."""

    pair: Pair
    client: int
    """The client whose own it is, or -1 for the pair's."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a round leaves to be stored."""

    row: RoundRow
    """For rounds.jsonl."""
    diagnostics: dict[str, np.ndarray]
    """For diagnostics.npz, over all N clients; those that did not take part have NaN, 0 or False."""

    @property
    def loss(self) -> float:
        """Mean training loss of the clients that took part; NaN where none did."""
        loss = self.row["loss"]
        return math.nan if loss is None else loss
