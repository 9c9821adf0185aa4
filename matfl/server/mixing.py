"""The one step that applies any method: a linear map of the models and the clients' updates (paper, section 3.4).

    theta_CP  <-  models_CC @ theta_CP  +  A_CN @ updates_NP,     A_CN the mean of weights_NN over an owner's clients

A method decides the matrices (`Mixing`); groups of parameters may have weights of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from matfl.server.grouping import normalise
from matfl.server.hierarchy import add_by_sums, factors
from matfl.server.kernels import add_mixed, product_dtype, remix
from matfl.server.models import Models
from matfl.server.optimizers import ServerOptimizer
from matfl.server.updates import Updates
from matfl.tasks.joint import head_prefixes

__all__ = ["Mixing", "mix", "over_models", "owner_shares"]

Names = tuple[str, ...]
_PLAIN = ServerOptimizer()
_MANY = 256
"""Clients from which it may pay to sum updates in groups that are taken alike first."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What a method decided in one round.

    >>> import matfl, torch
    >>> matfl.Mixing(weights_NN=torch.eye(2)).record()["weights"]
    tensor([[1., 0.],
            [0., 1.]])
    """

    weights_NN: Tensor
    """Row i: how much of each client's update (and batch-norm statistics) client i takes. Rows of averages sum to 1."""
    models_CC: Tensor | None = None
    """Row c: how much of each model owner c starts from before updates are added; None is the identity."""
    groups: Mapping[Names, Tensor] = field(default_factory=dict)
    """Weights (N, N) of their own for some of the backbone's tensors, by those tensors' names (`Layout.stages`)."""
    columns: Callable[[Tensor], Tensor] | None = None
    """What each client takes of some columns (N, K) of the updates, in the place of weights_NN @ columns: for averages
    without fixed weights (a median). Batch-norm statistics pass through it as values. Not together with `groups`."""
    heads: Mapping[Names, Tensor] = field(default_factory=dict)
    """Weights (H, H) of head updates by the names of a head's tensors, which must have one shape wherever a weight is
    not 0; those not named, and all by default, are averaged within the task. H = N heads; where clients have several
    tasks they have several heads, which follow each other in the tasks' order."""
    state: Mapping[str, Tensor] | None = None
    """The method's new server state; None leaves it as it was."""
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    """Small tensors that explain the weights, over the clients that replied: similarity (L, N, N), votes (L, N, N),
    friends (N, N), or others of a method's own whose last axes are N or N x N."""

    def record(self) -> dict[str, Tensor]:
        """The weights and diagnostics on the CPU."""
        return {"weights": self.weights_NN.cpu()} | {name: value.cpu() for name, value in self.diagnostics.items()}


def over_models(mixing: Mixing, owners: Sequence[Hashable], of_clients: Sequence[Hashable]) -> Mixing:
    """The same weights over the backbones that clients trained, in the place of their updates.

    With A the mean of weights_NN over an owner's clients and S_NC naming the model that each client started from,
    models become A @ (S @ theta + updates) instead of theta + A @ updates. Both agree where a task takes only from
    clients that started as it did. A method that says itself what models start from is left as it is.

    Args:
        owners: whose models there are, in their order.
        of_clients: the owner of the model of each row of weights_NN.

    Raises ValueError where weights differ between tensors, there are none (a median), or a row of them is no average:
    a model would be scaled by its sum.
    """
    if mixing.models_CC is not None:
        return mixing
    sums_N = _checked(mixing.weights_NN, len(of_clients), "weights_NN").double().sum(1)
    if mixing.groups or mixing.columns or not torch.allclose(sums_N, torch.ones_like(sums_N), atol=1e-4):
        raise ValueError(
            "mixes='weights': this method has no one average for each client (it takes medians, weighs stages by "
            "themselves, or lengthens updates); leave mixes='updates'"
        )
    share_CN = owner_shares(owners, of_clients).to(mixing.weights_NN.device)
    starts_NC = (share_CN > 0).T.double()
    return replace(mixing, models_CC=share_CN @ mixing.weights_NN.double() @ starts_NC)


@torch.no_grad()
def mix(
    models: Models,
    updates: Updates,
    mixing: Mixing,
    tasks: Sequence[Hashable],
    *,
    scope: Literal["task", "client"] = "task",
    heads: Literal["task", "local"] = "task",
    step: ServerOptimizer = _PLAIN,
    moments: Mapping[str, Tensor] | None = None,
) -> None:
    """Apply a method's weights to the server's models, in place.

    Batch-norm statistics take the weights of the updates, clamped to be convex, as values; heads are averaged over an
    owner's clients unless the method mixes them. An owner none of whose clients replied keeps its model.

    Args:
        tasks: the task of each row of `updates`, among the owners of the models.
        scope: of the method; with "client" each client owns a backbone and a head, under its number.
        heads: "task" averages the heads of a task; "local" gives each client its own, under its number.
        step: what becomes of the change of the backbones' parameters.
        moments: the state of `step` (`ServerOptimizer.start`), changed in place.

    Raises ValueError when weights are not finite matrices of the right shape or a client's owner has no model.
    """
    n = len(updates)
    weights_NN = _checked(mixing.weights_NN, n, "weights_NN").to(updates.device, torch.float64)
    if len(tasks) != n:
        raise ValueError(f"{len(tasks)} tasks for {n} clients: name the task of each client that replied")
    backbone_owners = updates.clients if scope == "client" else tuple(tasks)
    head_owners = updates.clients if scope == "client" or heads == "local" else tuple(tasks)
    share_CN = owner_shares(models.owners, backbone_owners).to(weights_NN)
    if mixing.columns:
        if mixing.groups:
            raise ValueError("columns and groups: a method may give either, not both")
        weights_NN, updates = torch.eye(n).to(weights_NN), updates.through(mixing.columns)
    replied_C = share_CN.any(1)
    change_CC = _change(mixing.models_CC, replied_C)
    own_CC = torch.eye(len(replied_C)).to(weights_NN)
    for names, group_NN in _groups(mixing, weights_NN, updates):
        weights_CN = share_CN @ group_NN
        sums = factors(weights_CN.cpu().numpy()) if n >= _MANY else None
        for low, high in _spans(updates, names):
            if step.kind == "none" and change_CC is None and sums and sums.saves():
                for first, block_NK in updates.columns(low, high):
                    add_by_sums(models.theta_CP[:, first : first + block_NK.shape[1]], sums, block_NK, step.lr)
            elif step.kind == "none":
                for first, block_NK in updates.columns(low, high):
                    columns_CK = models.theta_CP[:, first : first + block_NK.shape[1]]
                    if change_CC is None:
                        add_mixed(columns_CK, step.lr * weights_CN, block_NK)
                    else:
                        starts_CC = own_CC + step.lr * change_CC
                        remix(columns_CK, starts_CC, step.lr * weights_CN, block_NK, columns=updates.layout.P)
            else:
                _move(models.theta_CP, change_CC, weights_CN, updates, (low, high), replied_C, step, moments or {})
        _set_buffers(models, (share_CN @ normalise(group_NN))[replied_C], replied_C, updates, names)
    before = {owner: models.heads.get(owner) for owner in dict.fromkeys(head_owners)}
    mixed = _mixed_heads(mixing.heads, updates, [before[owner] for owner in head_owners], tasks)
    for owner, old in before.items():
        mine = [row for row, its in enumerate(head_owners) if its == owner]
        heads_of = {updates.clients[row]: updates.heads[row] for row in mine}
        if any(heads_of.values()):
            models.heads[owner] = _mean_head(heads_of, old)
            for name in mixed[mine[0]]:
                models.heads[owner][name].copy_(torch.stack([mixed[row][name] for row in mine]).mean(0))


def owner_shares(owners: Sequence[Hashable], of_clients: Sequence[Hashable]) -> Tensor:
    """(C, N), float64: 1 / (number of an owner's clients) at its clients, else 0."""
    if unknown := [owner for owner in of_clients if owner not in owners]:
        raise ValueError(f"no model belongs to {unknown[0]!r}: the models' owners are {', '.join(map(str, owners))}")
    owns_CN = torch.tensor([[owner == other for other in of_clients] for owner in owners], dtype=torch.float64)
    owns_CN = owns_CN.view(len(owners), len(of_clients))
    return owns_CN / owns_CN.sum(1, keepdim=True).clamp(min=1)


def _checked(weights: Tensor, n: int, name: str, of: str = "client") -> Tensor:
    if tuple(weights.shape) != (n, n) or not weights.isfinite().all():
        raise ValueError(
            f"{name} of shape {tuple(weights.shape)}: a method must return finite weights of "
            f"shape ({n}, {n}), one row and column for each {of} that replied"
        )
    return weights


def _change(models_CC: Tensor | None, replied_C: Tensor) -> Tensor | None:
    """models_CC - 1, 0 in the rows of owners none of whose clients replied; None where it is 0."""
    if models_CC is None:
        return None
    own_CC = torch.eye(len(replied_C), dtype=torch.float64, device=replied_C.device)
    if models_CC.shape != own_CC.shape or not models_CC.isfinite().all():
        raise ValueError(
            f"models_CC of shape {tuple(models_CC.shape)}: a method must return finite weights of shape "
            f"{tuple(own_CC.shape)}, one row and column for each of the server's models"
        )
    return (models_CC.to(own_CC) - own_CC) * replied_C[:, None]


def _groups(mixing: Mixing, weights_NN: Tensor, updates: Updates) -> Iterator[tuple[frozenset[str] | None, Tensor]]:
    """(tensors, their weights) that together cover the backbone once; None for all of its tensors."""
    if not mixing.groups:
        yield None, weights_NN
        return
    left = {*updates.layout.parameters, *updates.layout.buffers}
    for names, group_NN in mixing.groups.items():
        if unknown := sorted(set(names) - left):
            raise ValueError(
                f"groups: {unknown[0]!r} is in two groups or no parameter or buffer of the backbone: name each tensor "
                "once (`Layout.stages` gives those of each stage)"
            )
        left -= set(names)
        yield frozenset(names), _checked(group_NN, len(updates), f"groups[{names[0]}, ...]").to(weights_NN)
    yield frozenset(left), weights_NN


def _spans(updates: Updates, names: frozenset[str] | None) -> list[tuple[int, int]]:
    """The column ranges of some parameters, neighbours joined."""
    if names is None:
        return [(0, updates.layout.P)]
    spans: list[tuple[int, int]] = []
    for name, slot in updates.layout.parameters.items():
        if name in names and spans and spans[-1][1] == slot.start:
            spans[-1] = spans[-1][0], slot.stop
        elif name in names:
            spans.append((slot.start, slot.stop))
    return spans


def _move(
    theta_CP: Tensor,
    change_CC: Tensor | None,
    weights_CN: Tensor,
    updates: Updates,
    span: tuple[int, int],
    replied_C: Tensor,
    step: ServerOptimizer,
    moments: Mapping[str, Tensor],
) -> None:
    """Move a span of columns of the models whose clients replied by (models_CC - 1) @ theta + A @ updates."""
    for first, block_NK in updates.columns(*span):
        columns = slice(first, first + block_NK.shape[1])
        update_CK = torch.zeros_like(theta_CP[:, columns])
        add_mixed(update_CK, weights_CN, block_NK)
        if change_CC is not None:
            add_mixed(update_CK, change_CC, theta_CP[:, columns])
        theta_RK = theta_CP[replied_C, columns]
        held = {name: tensor[replied_C, columns] for name, tensor in moments.items()}
        step.move(theta_RK, update_CK[replied_C], held)
        theta_CP[replied_C, columns] = theta_RK
        for name, rows_RK in held.items():
            moments[name][replied_C, columns] = rows_RK


def _set_buffers(
    models: Models, values_CN: Tensor, replied_C: Tensor, updates: Updates, names: frozenset[str] | None
) -> None:
    values_CN = values_CN.to(updates.buffers_NB)
    if names is None:
        models.buffers_CB[replied_C] = (values_CN @ updates.buffers_NB).to(models.buffers_CB)
        return
    for name, slot in updates.layout.buffers.items():
        if name in names:
            columns = slice(slot.start, slot.stop)
            mixed_CK = (values_CN @ updates.buffers_NB[:, columns]).to(models.buffers_CB)
            models.buffers_CB[replied_C, columns] = mixed_CK


def _mean_head(heads: Mapping[int, Mapping[str, Tensor]], before: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Mean of one owner's heads by client, in float32 or better; integers stay as they were."""
    expected = before or next(iter(heads.values()))
    mean = {}
    for name, old in expected.items():
        for client, head in heads.items():
            if name not in head or head[name].shape != old.shape:
                found = f"has shape {tuple(head[name].shape)}" if name in head else "is missing"
                raise ValueError(
                    f"client {client}: tensor {name!r} of the head {found}, but its task's has shape "
                    f"{tuple(old.shape)}: the client trained another head"
                )
        mean[name] = old.clone()
        if old.is_floating_point():
            total = torch.zeros_like(old, dtype=product_dtype(old.dtype))
            for head in heads.values():
                total += head[name].to(total)
            mean[name].copy_(total / len(heads))
    return mean


def _mixed_heads(
    groups: Mapping[Names, Tensor],
    updates: Updates,
    starts: Sequence[Mapping[str, Tensor] | None],
    tasks: Sequence[Hashable],
) -> list[dict[str, Tensor]]:
    """Each client's head after mixing: its start plus the weighted head updates; only the tensors that groups name."""
    if groups and any(start is None for start in starts):
        raise ValueError("heads: the models hold no heads to mix updates of; give Models.heads one for each owner")
    heads = [(row, prefix) for row, task in enumerate(tasks) for prefix in head_prefixes(str(task))]
    befores = [starts[row] or {} for row, _ in heads]
    afters = [updates.heads[row] for row, _ in heads]
    mixed: list[dict[str, Tensor]] = [{} for _ in tasks]
    for names, weights in groups.items():
        weights_HH = _checked(weights, len(heads), f"heads[{', '.join(names[:1])}, ...]", "head").double().cpu()
        for name in names:
            own = [f"{prefix}{name}" for _, prefix in heads]
            shapes = [tuple(after[key].shape) if key in after else None for key, after in zip(own, afters)]
            for i, (row, _) in enumerate(heads):
                friends = [j for j in range(len(heads)) if weights_HH[i, j] != 0]
                if wrong := [j for j in friends if shapes[j] is None or shapes[j] != shapes[i]]:
                    raise ValueError(
                        f"heads: tensor {own[i]!r} has shape {shapes[i]} at client {updates.clients[row]} and "
                        f"{shapes[wrong[0]]} at client {updates.clients[heads[wrong[0]][0]]}: give them weight 0"
                    )
                start = befores[i][own[i]]
                total = start.double().clone()
                for j in friends:
                    its = befores[j][own[j]]
                    change = afters[j][own[j]].to(its).double() - its.double()
                    total += float(weights_HH[i, j]) * change
                mixed[row][own[i]] = total.to(start.dtype)
    return mixed
