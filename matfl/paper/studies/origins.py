"""Whether runs that a study compares were made by the same arithmetic: code, pictures, start and rounding.

Clients that train alike from the same start on the same images have the same loss in round 1, whatever the server does
afterwards. So runs that differ in nothing but the server's part and do not begin with the same loss come from different
machines, starts or versions, and part of their difference is that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from matfl.config.run_config import RunConfig
from matfl.server.methods import METHODS
from matfl.server.methods.base import Method

if TYPE_CHECKING:
    from matfl.paper.studies.store import Record
    from matfl.runs.run import Run

__all__ = ["mixed_arithmetic", "mixed_origins"]

SERVERS_PART = frozenset({"preset", "method", "parameters", "k", "voting_layers", "rounds", "evaluate_every"})
"""Fields of a config that no client's first round depends on, beside `server_...`."""


def mixed_origins(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that should begin with the same loss and do not, each with one run for every loss met.

    Runs of one method are compared with each other, and with those of other methods whose clients train plainly.
    """
    begun: dict[tuple[object, ...], dict[float | None, Run]] = {}
    for run in runs:
        begun.setdefault(_clients_part(run.config), {}).setdefault(run.rounds[0]["loss"], run)
    return [list(losses.values()) for losses in begun.values() if len(losses) > 1]


def mixed_arithmetic(records: Sequence[Record]) -> dict[str, list[str]]:
    """Kind of record -> the arithmetics that its records say they come from, where these are several.

    Older records do not say.
    """
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.path.name.rpartition("-")[0], set()).update(record.provenance.get("arithmetic", ()))
    return {kind: sorted(several) for kind, several in found.items() if len(several) > 1}


def _clients_part(config: RunConfig) -> tuple[object, ...]:
    """What decides the first round's loss."""
    method = METHODS.find(config.method)
    plain = type(method).client is Method.client
    shared = [
        (field.name, getattr(config, field.name))
        for field in fields(config)
        if field.name not in SERVERS_PART and not field.name.startswith("server_")
    ]
    return (*shared, method.heads, "" if plain else (config.method, str(config.parameters)))
