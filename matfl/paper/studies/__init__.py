"""One module a table or figure of the paper: which runs it needs (`plan`), the numbers it draws, its claims.

`STUDIES` names them by notebook; `matfl.paper.reproduce` computes the union of their plans and executes the notebooks.
"""

from __future__ import annotations

from collections.abc import Callable

from matfl.paper.studies import (
    benchmark,
    captions,
    clients_per_task,
    constants,
    cost_and_scale,
    grouping_frequency,
    how_matfl_decides,
    k_sweep,
    layer_voting,
    methods,
    our_best,
    paper_measures,
    photographs,
    predictions,
    printed,
    scale_privacy_attacks,
    scorecard,
    server_step,
    update_tsne,
    why,
)
from matfl.paper.studies.base import SIZES, Plan, Sizes
from matfl.paper.studies.session import Report, Session

__all__ = [
    "SIZES",
    "STUDIES",
    "Plan",
    "Report",
    "Session",
    "Sizes",
    "benchmark",
    "captions",
    "clients_per_task",
    "constants",
    "cost_and_scale",
    "grouping_frequency",
    "how_matfl_decides",
    "k_sweep",
    "layer_voting",
    "methods",
    "our_best",
    "paper_measures",
    "photographs",
    "predictions",
    "printed",
    "scale_privacy_attacks",
    "scorecard",
    "server_step",
    "update_tsne",
    "why",
]

STUDIES: dict[str, Callable[..., Plan]] = {
    "00_benchmark": benchmark.plan,
    "01_update_tsne": update_tsne.plan,
    "02_methods": methods.plan,
    "03_clients_per_task": clients_per_task.plan,
    "04_k_sweep": k_sweep.plan,
    "05_grouping_frequency": grouping_frequency.plan,
    "06_layer_voting": layer_voting.plan,
    "07_cost_and_scale": cost_and_scale.plan,
    "08_server_step": server_step.plan,
    "09_why": why.plan,
    "10_scale_privacy_attacks": scale_privacy_attacks.plan,
    "11_our_best": our_best.plan,
    "how_matfl_decides": how_matfl_decides.plan,
    "index": scorecard.plan,
}
"""Notebook -> its plan, which takes those of the notebook's parameters that decide what is computed."""
