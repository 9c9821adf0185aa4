"""What all tables say of their runs."""

from __future__ import annotations

from collections.abc import Sequence

from matfl.paper.studies.captions import conditions, seeds
from matfl.paper.studies.tables import RunLike

__all__ = ["CONSTANT", "count", "described"]

CONSTANT = "constant answer"
"""The row of the best answer that never looks at a picture."""


def described(runs: Sequence[RunLike]) -> str:
    """What numbers in cells are, of how many seeds, and what was run."""
    configs = [run.config for run in runs]
    return f"mean ± standard deviation, {seeds(configs)}. Run: {conditions(configs)}"


def count(runs: Sequence[RunLike]) -> str:
    """Of how many seeds."""
    return seeds(run.config for run in runs)
