"""Task affinity by look-ahead, and groups of tasks that train one backbone each: TAG, and MAS (MuFL).

What a step on task i does to the loss of task j is measured by j's clients: the server sends them the backbone before
a round and, for each task, that backbone after the mean update of the task's clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.server.grouping import normalise
from matfl.server.kernels import add_mixed
from matfl.server.layout import Layout
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing, owner_shares
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["Mas", "Tag", "best_groups", "group_value"]

MOST_TASKS = 12
"""Beyond so many, finding the best groups takes more than seconds (3^C steps)."""


def group_value(affinity_CC: Tensor, group: Sequence[int]) -> float:
    """What a group is worth: for each of its tasks, the mean affinity of the others to it; 0 where it is alone."""
    if len(group) < 2:
        return 0.0
    inside = affinity_CC[list(group)][:, list(group)].double()
    return float((inside.sum() - inside.diagonal().sum()) / (len(group) - 1))


def best_groups(affinity_CC: Tensor, groups: int) -> list[int]:
    """The group (0, 1, ...) of each of C tasks, in the partition of the highest total value into so many groups.

    Exact, by dynamic programming over subsets: the best way to split a set into k is the best first group, which holds
    the set's first task, and the best way to split the rest into k - 1. Source: Fifty et al., Efficiently Identifying
    Task Groupings for Multi-Task Learning, NeurIPS 2021 (its network selection), with groups that do not overlap.

    Raises ValueError when the number of groups is not in 1..C or C is over `MOST_TASKS`.
    """
    c = len(affinity_CC)
    if not 1 <= groups <= c <= MOST_TASKS:
        raise ValueError(
            f"groups={groups} of {c} tasks: choose 1..{min(c, MOST_TASKS)}, with at most {MOST_TASKS} tasks"
        )
    value = np.array([group_value(affinity_CC, [i for i in range(c) if mask >> i & 1]) for mask in range(1 << c)])

    @cache
    def best(left: int, k: int) -> tuple[float, tuple[int, ...]]:
        if k == 1:
            return float(value[left]), (left,)
        first = left & -left
        rest = left ^ first
        found: tuple[float, tuple[int, ...]] = (-np.inf, ())
        others = rest
        while True:  # all subsets of the rest, from itself to the empty one
            remaining = rest ^ others
            if remaining.bit_count() >= k - 1:
                total, chosen = best(remaining, k - 1)
                if value[first | others] + total > found[0]:
                    found = (float(value[first | others]) + total, (first | others, *chosen))
            if not others:
                return found
            others = (others - 1) & rest

    masks = best((1 << c) - 1, groups)[1]
    return [next(g for g, mask in enumerate(masks) if mask >> i & 1) for i in range(c)]


@dataclass(frozen=True, kw_only=True)
class _Grouped(Method):
    """Plain averaging within groups of tasks; each group has one backbone."""

    family = "grouping"

    groups: int = 2
    """Number of groups of tasks, each with a backbone of its own."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"{self.name}.groups={self.groups}: must be at least 1")

    def check(self, config: RunConfig) -> None:
        tasks = len(set(pairs(config.tasks)))
        if tasks < 2:
            raise ValueError(
                f"method {self.name!r} groups tasks, but tasks={config.tasks!r} is a single one: name a second task, "
                "or choose method 'fedavg'"
            )
        if self.groups > tasks or tasks > MOST_TASKS:
            raise ValueError(
                f"{self.name}.groups={self.groups} with {tasks} tasks: choose 1..{tasks} groups, of at most "
                f"{MOST_TASKS} tasks"
            )

    def looks_ahead(self, number: int, config: RunConfig, grouped: bool) -> bool:
        """Whether the steps of round `number` (1-based) are tried by the clients of the next one."""
        raise NotImplementedError

    def regroups(self, number: int, config: RunConfig, grouped: bool) -> bool:
        """Whether groups are formed at the end of round `number`, of all that was measured since the last time."""
        raise NotImplementedError

    def start(self, before: Dispatch) -> Tensors:
        models, c = before.models, len(before.models.owners)
        return {
            "affinity": torch.zeros(c, c, dtype=torch.float64),
            "measured": torch.zeros(c, c, dtype=torch.float64),
            "groups": torch.zeros(c, dtype=torch.long),
            "grouped": torch.zeros(1),
            "stepped": torch.zeros(c),
            "base": models.theta_CP[:0].clone(),
            "base_buffers": models.buffers_CB[:0].clone(),
            "steps": models.theta_CP[:0].clone(),
        }

    def message(self, before: Dispatch, client: int) -> Tensors:
        if not len(before.state["steps"]):
            return {}
        row = before.models.row(before.client_tasks[client])
        return {
            "base": before.state["base"][row],
            "base_buffers": before.state["base_buffers"][row],
            "steps": before.state["steps"],
        }

    def client(self, local: Local) -> Tensors:
        sent: dict[str, Tensor] = {}
        if local.message:
            layout = Layout.of(local.model.backbone)
            base_P, base_B = local.message["base"], local.message["base_buffers"]

            def loss(row_P: Tensor) -> float:
                backbone = layout.unflatten(row_P, base_B)
                return local.loss({f"backbone.{name}": tensor for name, tensor in backbone.items()})

            losses = [loss(base_P), *(loss(base_P + step_P) for step_P in local.message["steps"])]
            sent = {"losses": torch.tensor(losses, dtype=torch.float64)}
        local.train()
        return sent

    def reply_shapes(self, before: Dispatch, client: int) -> dict[str, tuple[int, ...]]:
        return {"losses": (1 + len(before.models.owners),)} if len(before.state["steps"]) else {}

    def mix(self, round: Round) -> Mixing:
        owners, state = round.models.owners, dict(round.state)
        affinity_CC, measured_CC = state["affinity"].clone(), state["measured"].clone()
        for task, reply in zip(round.tasks, round.replies):
            if "losses" in reply.message:
                gain_C, known_C = _gains(reply.message["losses"].to(affinity_CC), state["stepped"].bool())
                affinity_CC[:, owners.index(task)] += gain_C
                measured_CC[:, owners.index(task)] += known_C
        grouped = bool(state["grouped"].any())
        if self.regroups(round.number, round.config, grouped) and measured_CC.any():
            mean_CC = torch.where(measured_CC > 0, affinity_CC / measured_CC.clamp(min=1), 0)
            state |= {"groups": torch.tensor(best_groups(mean_CC, self.groups)), "grouped": torch.ones(1)}
            affinity_CC, measured_CC = torch.zeros_like(affinity_CC), torch.zeros_like(measured_CC)
            grouped = True
        ahead = self.looks_ahead(round.number, round.config, grouped)
        labels = state["groups"].tolist()
        return Mixing(
            weights_NN=round.rows(round.same([labels[owners.index(task)] for task in round.tasks])),
            models_CC=normalise(round.same(labels).double()) if grouped else None,
            state=state | {"affinity": affinity_CC, "measured": measured_CC} | _look_ahead(round, ahead),
        )


def _look_ahead(round: Round, wanted: bool) -> dict[str, Tensor]:
    """What the next round's clients are sent to try: the models before this round, and each task's mean update."""
    models = round.models
    if not wanted:
        nothing = models.theta_CP[:0].clone()
        return {"base": nothing, "base_buffers": models.buffers_CB[:0].clone(), "steps": nothing.clone()}
    share_CN = owner_shares(models.owners, round.tasks).to(round.updates.device)
    steps_CP = torch.zeros_like(models.theta_CP)
    for first, block_NK in round.updates.columns():
        add_mixed(steps_CP[:, first : first + block_NK.shape[1]], share_CN, block_NK)
    return {
        "base": models.theta_CP.clone(),
        "base_buffers": models.buffers_CB.clone(),
        "steps": steps_CP,
        "stepped": share_CN.any(1).to(steps_CP),
    }


def _gains(losses: Tensor, stepped_C: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - L(after a step on task i) / L(before) of each task i, which of them are known), 0 where unknown."""
    before, after_C = losses[0], losses[1:]
    known_C = stepped_C.to(losses.device) & after_C.isfinite() & (before > 0)
    return torch.where(known_C, 1 - after_C / before, 0.0), known_C.to(losses)


@register
@dataclass(frozen=True, kw_only=True)
class Tag(_Grouped):
    """Z_ij = 1 - L_j(theta after a step on i) / L_j(theta), measured every so many rounds; tasks in the best k groups.

    Until the first measurement is in, all tasks are one group. TAG itself measures while it trains all tasks together
    and then trains the groups from the start again; a federation's rounds are one budget, so its groups go on from
    where they are, and are formed anew at every measurement. At each regrouping a group's backbones are averaged.
    """

    name = "tag"
    title = "TAG"
    description = "plain averaging within the groups of tasks that help each other most by look-ahead"
    source = "Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, NeurIPS 2021"

    every: int = 10
    """Rounds from one measurement to the next. One costs a client a pass over its images for each task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 2:
            raise ValueError(
                f"tag.every={self.every}: choose 2 rounds or more; a measurement is answered a round later"
            )

    def looks_ahead(self, number: int, config: RunConfig, grouped: bool) -> bool:
        return number % self.every == 1

    def regroups(self, number: int, config: RunConfig, grouped: bool) -> bool:
        return number % self.every == 2 % self.every


@register
@dataclass(frozen=True, kw_only=True)
class Mas(_Grouped):
    """All tasks in one for the first rounds, Z_ij measured in each and averaged; then one split into the best k groups.

    Every group goes on from the backbone that all share. (MuFL is the same authors' earlier name.)
    """

    name = "mas"
    title = "MAS"
    description = "all tasks in one for some rounds, then split once by measured affinity"
    source = "Zhuang et al., MAS: Towards Resource-Efficient Federated Multiple-Task Learning, ICCV 2023; MuFL, 2022"

    together: int = 0
    """R_0, rounds in which all tasks train together; 0 is three tenths of all, the paper's 30 of 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.together < 0 or self.together == 1:
            raise ValueError(
                f"mas.together={self.together}: choose 2 rounds or more (a measurement is answered a round later), or "
                "0 for three tenths of all"
            )

    def check(self, config: RunConfig) -> None:
        super().check(config)
        if self.last(config) >= config.rounds:
            raise ValueError(
                f"mas.together={self.last(config)} of rounds={config.rounds}: leave at least one round after the split"
            )

    def last(self, config: RunConfig) -> int:
        """The last round in which all tasks train together, if anything has been measured by then."""
        return self.together or max(2, round(0.3 * config.rounds))

    def looks_ahead(self, number: int, config: RunConfig, grouped: bool) -> bool:
        return not grouped

    def regroups(self, number: int, config: RunConfig, grouped: bool) -> bool:
        return not grouped and number >= self.last(config)
