"""In which order long computations are made: what matters most is whole first, whenever they are cut off."""

from __future__ import annotations

from collections.abc import Mapping

from matfl.paper.studies.base import BASELINES, Plan
from matfl.paper.studies.session import merged

__all__ = ["FIRST", "ORDER", "by_importance"]

FIRST = "02_methods"
"""The study whose four main methods come before everything else, seed by seed."""

ORDER = (
    "02_methods",
    "08_server_step",
    "09_why",
    "11_our_best",
    "05_grouping_frequency",
    "04_k_sweep",
    "03_clients_per_task",
    "06_layer_voting",
    "00_benchmark",
    "01_update_tsne",
    "10_scale_privacy_attacks",
    "how_matfl_decides",
    "07_cost_and_scale",
    "index",
)
"""Then study by study; one that is not named here comes last."""


def by_importance(plans: Mapping[str, Plan]) -> Plan:
    """The union of the plans (study -> plan), each run and job once, the most important first."""
    main = [config for config in plans[FIRST].configs if config.method in BASELINES] if FIRST in plans else []
    first = Plan(configs=tuple(sorted(main, key=lambda config: config.seed)))
    ranked = sorted(plans, key=lambda study: ORDER.index(study) if study in ORDER else len(ORDER))
    return merged([first, *(plans[study] for study in ranked)])
