"""The methods as mixing weights, and the one step that applies any of them (paper, sections 3.2 and 3.4).

A method is a function from the round's updates to weights_NN, in whose row i client i says how much of each client's
update it takes. Task t's model then moves by the mean of its clients' rows: theta_CP += A_CN @ updates_NP. To add one:

    def nearest(updates, tasks, config):
        s_NN = similarity(updates, updates.layout.voting).mean(0)
        return Mixing(weights_NN=normalise(s_NN.where(s_NN >= s_NN.topk(2).values[:, 1:], 0)))

    register(Method(name="nearest", title="Nearest", description="the most similar client", source="me", mix=nearest))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.server.grouping import cosine, friends, gram, normalise, similarity, similarity_weights, votes
from matfl.server.kernels import add_mixed, product_dtype
from matfl.server.updates import Layout, Updates

__all__ = ["METHODS", "Method", "Mixing", "Models", "method", "mix", "register", "screen"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What a method decided in one round."""

    weights_NN: Tensor
    """Row i: how much of each client's update (and batch-norm statistics) client i takes; the row sums to 1."""
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    """Small tensors that explain the weights: similarity (L, N, N), votes (L, N, N), friends (N, N), clusters (N,)."""

    def record(self) -> dict[str, Tensor]:
        """The weights and diagnostics on the CPU."""
        return {"weights": self.weights_NN.cpu()} | {name: value.cpu() for name, value in self.diagnostics.items()}


Mixer = Callable[[Updates, Sequence[Hashable], RunConfig], Mixing]
"""(updates, the task of each row, config) -> Mixing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A way to aggregate, as a value."""

    name: str
    """As in `RunConfig.method`."""
    title: str
    """As written in tables and figures."""
    description: str
    """One line."""
    source: str
    """Where it comes from."""
    mix: Mixer
    """Called with any number of clients, also none."""
    proximal: bool = False
    """Whether clients train with the proximal term `RunConfig.mu`."""
    scope: Literal["task", "client"] = "task"
    """Whose models the server keeps: one a task, or one a client."""


METHODS: dict[str, Method] = {}
"""All methods by name, in the order of tables and figures."""


def register(method: Method) -> Method:
    """Add a method to `METHODS`, or replace one added before; the package's own names are a ValueError."""
    if method.name in _BUILT_IN:
        raise ValueError(f"{method.name!r} is one of the package's methods: choose another name")
    METHODS[method.name] = method
    return method


def method(name: str) -> Method:
    """The method called `name`; a ValueError lists the known ones."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: choose from {', '.join(METHODS)}, or register(Method(...)) it")
    return METHODS[name]


def _rows(updates: Updates, weights_NN: Tensor) -> Tensor:
    """Rows scaled to sum to 1, on the updates' device and in the precision of their products."""
    return normalise(weights_NN.to(updates.device, torch.float64)).to(product_dtype(updates.dtype))


def _identity(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    return Mixing(weights_NN=_rows(updates, torch.eye(len(updates))))


def _average(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    return Mixing(weights_NN=_rows(updates, torch.ones(len(updates), len(updates))))


def _same(labels: Sequence[Hashable]) -> Tensor:
    """bool (N, N): which clients share a label."""
    return torch.tensor([[a == b for b in labels] for a in labels], dtype=torch.bool).view(len(labels), len(labels))


def _single_task(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    return Mixing(weights_NN=_rows(updates, _same(tasks)))


def _grouped(updates: Updates, config: RunConfig) -> dict[str, Tensor]:
    similarity_LNN = similarity(updates, updates.layout.voting)
    k = max(1, min(config.k, len(updates)))
    votes_LNN = votes(similarity_LNN, k)
    friends_NN = friends(votes_LNN, k, similarity=similarity_LNN)
    return {"similarity": similarity_LNN, "votes": votes_LNN, "friends": friends_NN}


def _matfl(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    groups = _grouped(updates, config)
    return Mixing(weights_NN=similarity_weights(groups["similarity"], groups["friends"]), diagnostics=groups)


def _matfl_uniform(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    groups = _grouped(updates, config)
    return Mixing(weights_NN=_rows(updates, groups["friends"]), diagnostics=groups)


def _similarity_only(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    similarity_LNN = similarity(updates, updates.layout.voting)
    return Mixing(weights_NN=similarity_weights(similarity_LNN), diagnostics={"similarity": similarity_LNN})


def _layers_and_whole(updates: Updates) -> tuple[dict[str, Tensor], Tensor]:
    """The similarity of each voting layer as a diagnostic, and (N, N) the cosine of all of them taken as one vector."""
    gram_LNN = gram(updates, updates.layout.voting)
    return {"similarity": cosine(gram_LNN).to(product_dtype(updates.dtype))}, cosine(gram_LNN.sum(0))


def _clustered(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    layers, cosine_NN = _layers_and_whole(updates)
    labels = list(range(len(updates)))
    if len(labels) > config.clusters:
        tree = linkage(squareform(1 - cosine_NN.cpu().numpy(), checks=False), method="average")
        labels = cut_tree(tree, n_clusters=[config.clusters])[:, 0].tolist()
    return Mixing(weights_NN=_rows(updates, _same(labels)), diagnostics={**layers, "clusters": torch.tensor(labels)})


def _soft_grouping(updates: Updates, tasks: Sequence[Hashable], config: RunConfig) -> Mixing:
    layers, cosine_NN = _layers_and_whole(updates)
    weights_NN = torch.where(cosine_NN >= config.threshold, cosine_NN, 0)
    return Mixing(weights_NN=_rows(updates, weights_NN), diagnostics=layers)


_BUILT_IN: frozenset[str] = frozenset()
_PAPER = "Many-Task Federated Learning"
for _method in (
    Method(
        name="local",
        title="Local only",
        description="each client keeps its own model",
        source="no communication",
        mix=_identity,
        scope="client",
    ),
    Method(
        name="single_task",
        title="Single-Task FL",
        description="average within each task",
        source=f"{_PAPER}, equation 2",
        mix=_single_task,
    ),
    Method(
        name="fedavg",
        title="Plain Many-Task FL",
        description="average over all clients of all tasks",
        source=f"FedAvg; {_PAPER}, equation 3",
        mix=_average,
    ),
    Method(
        name="fedprox",
        title="FedProx",
        description="fedavg with a proximal term in local training",
        source=f"FedProx; {_PAPER}, equation 4",
        mix=_average,
        proximal=True,
    ),
    Method(
        name="matfl",
        title="MaT-FL",
        description="dynamic grouping, friends weighted by similarity",
        source=f"{_PAPER}, section 3.4, algorithm 1",
        mix=_matfl,
    ),
    Method(
        name="matfl_uniform",
        title="MaT-FL, uniform",
        description="dynamic grouping, friends weighted equally",
        source=f"{_PAPER}, step 1 of algorithm 1 alone",
        mix=_matfl_uniform,
    ),
    Method(
        name="similarity_only",
        title="Similarity only",
        description="all clients weighted by similarity",
        source=f"{_PAPER}, step 2 of algorithm 1 alone",
        mix=_similarity_only,
    ),
    Method(
        name="clustered",
        title="Clustered FL",
        description="average within clusters (cosine, average linkage)",
        source="the authors' published code",
        mix=_clustered,
    ),
    Method(
        name="soft_grouping",
        title="Soft grouping",
        description="all clients weighted by cosine above a threshold",
        source="the authors' published code",
        mix=_soft_grouping,
    ),
):
    register(_method)
_BUILT_IN = frozenset(METHODS)


@dataclass(frozen=True, kw_only=True)
class Models:
    """The server's models: row c is the backbone of `owners[c]`, a task or (scope "client") a client's number."""

    layout: Layout
    owners: tuple[Hashable, ...]
    theta_CP: Tensor
    """Parameters, float32 or float64."""
    buffers_CB: Tensor
    """Floating-point buffers (batch-norm statistics)."""
    heads: dict[Hashable, dict[str, Tensor]] = field(default_factory=dict)
    """Head of each task, or of each client where clients keep their own."""

    def __post_init__(self) -> None:
        c = len(self.owners)
        expected = {"theta_CP": (c, self.layout.P), "buffers_CB": (c, self.layout.B)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, but {c} models of this backbone need {shape}"
                )
        if len(set(self.owners)) != c:
            raise ValueError(f"owners={self.owners}: give each owner once")

    @classmethod
    def start(
        cls,
        layout: Layout,
        backbone: Mapping[str, Tensor],
        owners: Sequence[Hashable],
        heads: Mapping[Hashable, Mapping[str, Tensor]],
    ) -> Models:
        """All owners with the same backbone, in float32 on its device, and the given heads (copied)."""
        row_P, row_B = layout.flatten(backbone), layout.flatten_buffers(backbone)
        theta_CP = layout.empty(len(owners), device=row_P.device)
        return cls(
            layout=layout,
            owners=tuple(owners),
            theta_CP=theta_CP.copy_(row_P),
            buffers_CB=row_B.float().repeat(len(owners), 1),
            heads={owner: {name: t.clone() for name, t in head.items()} for owner, head in heads.items()},
        )

    def backbone(self, owner: Hashable) -> dict[str, Tensor]:
        """Parameters and floating-point buffers of an owner's backbone by name: views."""
        row = self.owners.index(owner)
        return self.layout.unflatten(self.theta_CP[row], self.buffers_CB[row])


@torch.no_grad()
def mix(
    models: Models,
    updates: Updates,
    mixing: Mixing,
    tasks: Sequence[Hashable],
    *,
    scope: Literal["task", "client"] = "task",
    heads: Literal["task", "local"] = "task",
) -> None:
    """Apply a method's weights to the server's models, in place.

    theta_CP += A_CN @ updates_NP with A_CN the mean of the rows of an owner's clients; batch-norm statistics take the
    same weights, clamped to be convex, as values; heads are averaged over an owner's clients. An owner none of whose
    clients replied keeps its model.

    Args:
        tasks: the task of each row of `updates`, among the owners of the models.
        scope: of the method; with "client" each client owns a backbone and a head, under its number.
        heads: "task" averages the heads of a task; "local" gives each client its own, under its number.

    Raises ValueError when the weights are not a finite (N, N) matrix or a client's owner has no model.
    """
    n = len(updates)
    weights_NN = mixing.weights_NN.to(updates.device, torch.float64)
    if tuple(weights_NN.shape) != (n, n) or not weights_NN.isfinite().all():
        raise ValueError(
            f"weights_NN of shape {tuple(weights_NN.shape)}: a method must return finite weights of "
            f"shape ({n}, {n}), one row and column for each client that replied"
        )
    if len(tasks) != n:
        raise ValueError(f"{len(tasks)} tasks for {n} clients: name the task of each client that replied")
    backbone_owners = updates.clients if scope == "client" else tuple(tasks)
    head_owners = updates.clients if scope == "client" or heads == "local" else tuple(tasks)
    share_CN = _shares(models.owners, backbone_owners).to(weights_NN)
    weights_CN = share_CN @ weights_NN
    for first, block_NK in updates.columns():
        add_mixed(models.theta_CP[:, first : first + block_NK.shape[1]], weights_CN, block_NK)
    replied_C = share_CN.any(1)
    values_CN = (share_CN @ normalise(weights_NN))[replied_C].to(updates.buffers_NB)
    models.buffers_CB[replied_C] = (values_CN @ updates.buffers_NB).to(models.buffers_CB)
    for owner in dict.fromkeys(head_owners):
        heads_of = {c: head for c, head, its in zip(updates.clients, updates.heads, head_owners) if its == owner}
        if any(heads_of.values()):
            models.heads[owner] = _mean_head(heads_of, models.heads.get(owner))


def _shares(owners: Sequence[Hashable], of_clients: Sequence[Hashable]) -> Tensor:
    """(C, N): 1 / (number of an owner's clients) at its clients, else 0."""
    if unknown := [owner for owner in of_clients if owner not in owners]:
        raise ValueError(f"no model belongs to {unknown[0]!r}: the models' owners are {', '.join(map(str, owners))}")
    owns_CN = torch.tensor([[owner == other for other in of_clients] for owner in owners], dtype=torch.float64)
    owns_CN = owns_CN.view(len(owners), len(of_clients))
    return owns_CN / owns_CN.sum(1, keepdim=True).clamp(min=1)


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


def screen(updates: Updates, *, expected: Sequence[int] = ()) -> tuple[Updates, dict[int, str]]:
    """(the updates that can be mixed, the clients left out and why); clients with a zero update are kept, in `.zero`.

    Left out are the `expected` clients that did not reply, those whose file could not be read, and those with NaN or
    infinity in the update, a buffer or the head. Reads all updates once.
    """
    dropped = {client: "no reply" for client in expected if client not in updates.clients} | dict(updates.unreadable)
    zero = dict.fromkeys(updates.clients)
    for first, block_NK in updates.columns():
        for client, row_K in zip(updates.clients, block_NK):
            low, high = (float(extreme) for extreme in row_K.aminmax())
            if low or high:
                zero.pop(client, None)
            if not (math.isfinite(low) and math.isfinite(high)) and client not in dropped:
                column = first + int((~row_K.isfinite()).nonzero()[0])
                name = next(name for name, slot in updates.layout.parameters.items() if column < slot.stop)
                dropped[client] = f"NaN or infinity in the update of {name!r}"
    for client, row_B, head in zip(updates.clients, updates.buffers_NB, updates.heads):
        named = updates.layout.unflatten_buffers(row_B) | {f"head.{name}": tensor for name, tensor in head.items()}
        for name, tensor in named.items():
            if not tensor.sum(dtype=torch.float64).isfinite():
                dropped.setdefault(client, f"NaN or infinity in {name!r}")
    kept = updates.select([row for row, client in enumerate(updates.clients) if client not in dropped])
    return replace(kept, zero=tuple(client for client in kept.clients if client in zero)), dropped
