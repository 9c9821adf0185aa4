"""What the best answer scores that never looks at the picture: the level at which a task has learnt nothing.

Stored like any other result: a table shows it without rendering or decoding a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.config.run_config import RunConfig, override
from matfl.paper.studies.base import base_config, report_seeds, setting, sizes
from matfl.paper.studies.store import Arrays, Record
from matfl.server.methods import METHODS
from matfl.tasks.task import pairs, parts_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ConstantAnswers", "jobs", "levels"]


@dataclass(frozen=True, kw_only=True)
class ConstantAnswers:
    """The best constant answer's score of every pair on one seed's pictures (`training.constant_scores`)."""

    config: RunConfig

    kind = "constants"
    alone = False

    def spec(self) -> dict[str, Any]:
        """Everything that decides the scores; those of real pictures are at native size."""
        from matfl.runs.engine import data_version

        version = data_version(self.config)
        real = not all(p.domain.rendered for p in pairs(self.config.tasks))
        return {
            "config": self.config.identity,
            "data": {k: v for k, v in version.items() if k != "start"},
            **({"measured": "native"} if real else {}),
        }

    def units(self) -> list[str]:
        """The domains."""
        return list(dict.fromkeys(p.domain.name for p in pairs(self.config.tasks)))

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Score by pair of one domain."""
        from matfl.paper.studies.training import constant_scores

        return constant_scores(self.only(unit)), {}

    def only(self, domain: str) -> RunConfig:
        """The config with the tasks of one domain."""
        names = [p.name for p in pairs(self.config.tasks) if p.domain.name == domain]
        return override(self.config, tasks=",".join(names), k=1, balance="sum")

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Scores by pair."""
        found: Mapping[str, float] = {name: value for values, _ in parts for name, value in values.items()}
        return {"seed": self.config.seed, "constant": {p.name: found[p.name] for p in parts_of(self.config.tasks)}}, {}


def jobs(preset: str, *, seeds: int = 0, settings: str = "") -> tuple[ConstantAnswers, ...]:
    """One a report seed, whose pictures differ where they are rendered; of real images one in all.

    A method's own parameters among `settings` change no constant answer.
    """
    base, size = base_config(preset, settings, methods=tuple(METHODS)), sizes(preset)
    rendered = any(p.domain.rendered for p in pairs(base.tasks))
    count = (seeds or size.seeds) if rendered else 1
    alone = setting(base, base.tasks, method="single_task")
    return tuple(ConstantAnswers(config=setting(alone, base.tasks, seed=seed)) for seed in report_seeds(count))


def levels(records: Sequence[Record]) -> pd.DataFrame:
    """The mean over the seeds' pictures, a row a pair: columns pair, chance. Records of other kinds are passed over."""
    import pandas as pd

    kind = ConstantAnswers.kind
    found = [record.values["constant"] for record in records if record.path.name.partition("-")[0] == kind]
    names = dict.fromkeys(name for scores in found for name in scores)
    means = [{"pair": name, "chance": float(np.mean([scores[name] for scores in found]))} for name in names]
    return pd.DataFrame(means, columns=["pair", "chance"])
