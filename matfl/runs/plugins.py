"""What a run takes from plug-ins: written into its provenance, carried to worker processes, missed by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matfl.config.parameters import METHODS
from matfl.config.run_config import RunConfig
from matfl.core.registry import Registry
from matfl.data.readers import READERS
from matfl.tasks.task import DOMAINS, TASKS, parts_of

__all__ = ["Carried", "adopt", "carried", "missing", "origins", "remedy"]

REGISTRIES: Mapping[str, Registry[Any]] = {registry.kind: registry for registry in (METHODS, TASKS, DOMAINS, READERS)}

Carried = tuple[str, Any, str]
"""(kind, entry, module that registered it)."""


def carried(config: RunConfig) -> list[Carried]:
    """The entries that a config needs and that are not the package's own, for a process that may not know them."""
    needed = [("method", config.method)]
    for pair in parts_of(config.tasks):
        needed += [("reader", pair.domain.reader), ("task", pair.task.name), ("domain", pair.domain.name)]
    found = []
    for kind, name in dict.fromkeys(needed):
        registry = REGISTRIES[kind]
        if name in registry and registry.foreign(name):
            found.append((kind, registry[name], registry.origin(name)))
    return found


def adopt(entries: Iterable[Carried]) -> None:
    """Register the entries that this process does not know, or not as they are now: a cell may have run again."""
    for kind, entry, origin in entries:
        if REGISTRIES[kind].get(entry.name) != entry:
            REGISTRIES[kind].adopt(entry, origin)


def origins(config: RunConfig) -> dict[str, str]:
    """'method nearest' -> the module that registered it, for everything of a config that is not the package's own."""
    return {f"{kind} {entry.name}": origin for kind, entry, origin in carried(config)}


def missing(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The part of a stored run's `origins` that nobody registered here."""
    absent = {}
    for what, origin in provenance.get("plugins", {}).items():
        kind, _, name = what.partition(" ")
        if kind not in REGISTRIES or name not in REGISTRIES[kind]:
            absent[what] = origin
    return absent


def remedy(absent: Mapping[str, str]) -> str:
    """One sentence on what a run misses."""
    what, module = next(iter(absent.items()))
    if module == "__main__":
        return f"{what} was registered by a notebook or script: register it there and go on from there"
    return f"{what} comes from plug-in {module}, which is not imported here: add `--import {module}`, or import it"
