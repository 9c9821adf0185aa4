"""Revisions of what turns the same pictures and settings into numbers, so that results of another one are told apart.

A revision grows when a defect is put right. Only the parts that a run uses are written down, in its provenance under
`data.arithmetic`; what is missing there is revision 1.

    edges 2         real edge maps are measured against the benchmarks' truth, OIS-F pools counts
    augmentation 2  rendered rooms keep their depths: no zoom
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matfl.config.run_config import RunConfig
from matfl.tasks.kinds import EdgeMap
from matfl.tasks.task import pairs, parts_of

__all__ = ["REVISIONS", "arithmetic", "differences", "without_arithmetic"]

REVISIONS = {"augmentation": 2, "edges": 2}
"""Today's."""


def arithmetic(config: RunConfig) -> dict[str, int]:
    """Today's revisions of the parts that a run of `config` uses; those at 1 are left out."""
    chosen = pairs(config.tasks)
    used = {
        "augmentation": any(pair.domain.augmentation == "fixed_camera" for pair in chosen),
        "edges": any(isinstance(part.task, EdgeMap) for part in parts_of(config.tasks)),
    }
    return {part: revision for part, revision in REVISIONS.items() if used[part] and revision > 1}


def without_arithmetic(version: Mapping[str, Any]) -> dict[str, Any]:
    """A `data_version` without its revisions: pictures and start alone."""
    return {name: value for name, value in version.items() if name != "arithmetic"}


def differences(stored: Mapping[str, Any], today: Mapping[str, Any]) -> list[str]:
    """In words, the parts whose revision differs between two `data_version`s: 'edges 1 (today 2)'."""
    then, now = stored.get("arithmetic", {}), today.get("arithmetic", {})
    return [
        f"{part} {then.get(part, 1)} (today {now.get(part, 1)})"
        for part in sorted({*then, *now})
        if then.get(part, 1) != now.get(part, 1)
    ]
