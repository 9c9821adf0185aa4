"""Beyond the paper: algorithm 1 with stages, own weights, tasks or measured help in place of what it prescribes.

Defaults are reasoned, not tuned; each field says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.server.grouping import cosine, friends, gram, normalise, similarity_weights, votes
from matfl.server.kernels import product_dtype
from matfl.server.layout import Layout
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.methods.paper import grouped
from matfl.server.mixing import Mixing, owner_shares
from matfl.server.spans import cross_products, whole_gram

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["MatflGain", "MatflLayers", "MatflSelf", "MatflTask", "gain_weights", "own_weights", "stages"]


def stages(layout: Layout) -> dict[str, tuple[str, ...]]:
    """The backbone's tensors by stage, in order; what lies before the first stage or behind the last belongs to it.

    A stage is a numbered part: `layer1` to `layer4` of a ResNet (parts that hold numbered blocks), or, where a single
    part holds everything that is numbered, its children (`blocks.0`, `blocks.1`, ...).
    """
    numbered = {
        name.split(".")[0] for name in layout.parameters if name.split(".")[1:2] and name.split(".")[1].isdigit()
    }
    depth = 1 if len(numbered) > 1 else 2

    def stage(name: str) -> str | None:
        parts = name.split(".")
        return ".".join(parts[:depth]) if parts[0] in numbered else None

    found: dict[str, list[str]] = {key: [] for name in layout.parameters if (key := stage(name))} or {"all": []}
    for names in (layout.parameters, layout.buffers):
        current = next(iter(found))
        for name in names:
            current = stage(name) or current
            found[current].append(name)
    return {key: tuple(tensors) for key, tensors in found.items()}


def _votes_and_friends(similarity_LNN: Tensor, k: int) -> Tensor:
    k = max(1, min(k, similarity_LNN.shape[-1]))
    return friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)


@register
@dataclass(frozen=True, kw_only=True)
class MatflLayers(Method):
    """Algorithm 1 within each stage of the backbone: friends and weights are a stage's own.

    A stage's spatial convolutions vote, and its tensors are mixed by its own weights. `RunConfig.k` is K in the last
    stage and `first` in the first, evenly stepped between.
    """

    name = "matfl_layers"
    title = "MaT-FL by stages"
    description = "dynamic grouping within each stage of the backbone"
    source = "this package; algorithm 1 of the paper, by stages"
    family = "beyond"

    first: int = 0
    """K in the first stage; 0 is everybody. Early layers see edges and colours, which all tasks use, so they may share
    widely; similarity still weighs whom. Late layers serve one task, so they choose as narrowly as algorithm 1."""

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(f"matfl_layers.first={self.first}: choose a number of clients, or 0 for all")

    def check(self, config: RunConfig) -> None:
        if self.first > config.num_clients:
            raise ValueError(f"matfl_layers.first={self.first}: choose 1..{config.num_clients}, or 0 for all clients")

    def mix(self, round: Round) -> Mixing:
        by_stage = stages(round.updates.layout)
        narrow, wide = round.config.k, self.first or max(round.n, 1)
        groups: dict[tuple[str, ...], Tensor] = {}
        for index, names in enumerate(by_stage.values()):
            k = wide + (narrow - wide) * index / max(len(by_stage) - 1, 1)
            similar_LNN = cosine(gram(round.updates, _voting(round.updates.layout, names)))
            chosen_NN = _votes_and_friends(similar_LNN, int(k + 0.5))
            groups[names] = similarity_weights(similar_LNN, chosen_NN).to(product_dtype(round.updates.dtype))
        mean_NN = torch.stack(list(groups.values())).mean(0)
        return Mixing(weights_NN=mean_NN, groups=groups, diagnostics={"stages": torch.stack(list(groups.values()))})


def _voting(layout: Layout, names: tuple[str, ...]) -> tuple[str, ...]:
    """The spatial convolutions among some tensors; where there is none, its matrices; else all of its parameters."""
    shapes = {name: layout.parameters[name].shape for name in names if name in layout.parameters}
    spatial = [name for name, shape in shapes.items() if len(shape) == 4 and min(shape[2:]) > 1]
    return tuple(spatial or [name for name, shape in shapes.items() if len(shape) > 1] or shapes)


def own_weights(weights_NN: Tensor, own: float) -> Tensor:
    """`own` on the diagonal, and 1 - own shared out in proportion to a row's other entries; a row without any: 1."""
    others_NN = weights_NN.clone().fill_diagonal_(0)
    sums_N = others_NN.sum(1, keepdim=True)
    own_NN = torch.eye(len(weights_NN), dtype=weights_NN.dtype, device=weights_NN.device)
    return torch.where(sums_N > 0, own * own_NN + (1 - own) * others_NN / sums_N.where(sums_N > 0, 1), own_NN)


@register
@dataclass(frozen=True, kw_only=True)
class MatflSelf(Method):
    """Algorithm 1's friends; w_ii = own, and 1 - own goes to the other friends by similarity.

    Algorithm 1 has s_ii = 1 beside cosines of a few hundredths, so a client keeps nearly all of its own update however
    many friends it has (measured: 0.65 at first, 0.95 later).
    """

    name = "matfl_self"
    title = "MaT-FL, own weight"
    description = "dynamic grouping; the weight that a client keeps for itself is a parameter"
    source = "this package; equation 6 with s_ii a parameter"
    family = "beyond"
    sketched = True

    own: float = 0.5
    """The weight that a client keeps. A half: friends together count as much as oneself and never outvote one; with
    the one partner of N/C = 2 as the only friend it is single-task federated learning."""

    def __post_init__(self) -> None:
        if not 0 <= self.own <= 1:
            raise ValueError(f"matfl_self.own={self.own}: choose a weight in 0..1")

    def mix(self, round: Round) -> Mixing:
        groups = grouped(round)
        weights_NN = own_weights(similarity_weights(groups["similarity"], groups["friends"]).double(), self.own)
        return Mixing(weights_NN=weights_NN.to(groups["similarity"].dtype), diagnostics=groups)


@register
@dataclass(frozen=True, kw_only=True)
class MatflTask(Method):
    """Algorithm 1 between tasks: each task's mean update votes, and its clients take their friends' means.

    Partners start from the average of their models, so whatever pulls each back to its own optimum is antiparallel; in
    the mean of a task's updates that cancels, as the noise of batches does in part, and what is left is the task's own
    direction. (Notebook 09 does not find that pull to be what makes partners' updates unlike.)
    """

    name = "matfl_task"
    title = "MaT-FL between tasks"
    description = "dynamic grouping of tasks by their mean updates"
    source = "this package; algorithm 1 on tasks' mean updates"
    family = "beyond"

    k: int = 0
    """K in tasks, itself included; 0 is `RunConfig.k` clients' worth of tasks, rounded up, so that at least as many
    clients are heard as by algorithm 1."""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"matfl_task.k={self.k}: choose a number of tasks, or 0 to follow RunConfig.k")

    def mix(self, round: Round) -> Mixing:
        present = tuple(dict.fromkeys(round.tasks))
        share_TN = owner_shares(present, round.tasks).to(round.updates.device)
        gram_LNN = gram(round.updates, round.updates.layout.voting)
        similar_LTT = cosine(share_TN @ gram_LNN @ share_TN.T)
        k = self.k or -(-round.config.k // round.config.clients_per_task)
        weights_TT = similarity_weights(similar_LTT, _votes_and_friends(similar_LTT, k))
        index_N = torch.tensor([present.index(task) for task in round.tasks], dtype=torch.long)
        weights_NN = (weights_TT @ share_TN)[index_N.to(share_TN.device)]
        similar_LNN = cosine(gram_LNN)
        precision = product_dtype(round.updates.dtype)
        tasks_NN = weights_TT[index_N][:, index_N]
        return Mixing(
            weights_NN=weights_NN.to(precision),
            diagnostics={"similarity": similar_LNN.to(precision), "between_tasks": tasks_NN},
        )


def gain_weights(gain_NN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(weights (N, N), friends (N, N)): the K highest positive gains of each row, scaled to sum to 1.

    Ties go to oneself and then to the lower index; a row without a positive gain keeps the client's own update.
    """
    n = len(gain_NN)
    k = max(1, min(k, n))
    eye_NN = torch.eye(n, dtype=torch.bool, device=gain_NN.device)
    own_first_NN = (
        torch.arange(n, device=gain_NN.device).expand(n, n).masked_fill(eye_NN, -1).argsort(dim=1, stable=True)
    )
    ranked_NN = gain_NN.gather(1, own_first_NN).sort(dim=1, descending=True, stable=True).indices
    chosen_NK = own_first_NN.gather(1, ranked_NN)[:, :k]
    friends_NN = torch.zeros_like(eye_NN).scatter_(1, chosen_NK, True) & (gain_NN > 0)
    return normalise(gain_NN * friends_NN), friends_NN


@register
@dataclass(frozen=True, kw_only=True)
class MatflGain(Method):
    """w_ij in proportion to the gain max(0, -<h_i, g_j> / norm(g_j)) among the K highest of row i.

    h_i is the gradient of client i's loss on images that it holds out, at the backbone it was sent: to first order,
    that loss falls by -<h_i, g_j> if g_j is added to the backbone, and the gain is the fall per length. A client's own
    update is measured like everybody's.
    """

    name = "matfl_gain"
    title = "MaT-FL by gain"
    description = "dynamic grouping by measured help on held-out images, to first order"
    source = "this package; the gain of FedFomo and TAG, to first order, in place of equation 5"
    family = "beyond"

    held_out: float = 0.2
    """Share of a client's images on which help is measured and which it does not train on, as in `fedfomo`: on images
    that it trained on, its own update would always seem to help most."""

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"matfl_gain.held_out={self.held_out}: choose a share of the images between 0 and 1")

    def client(self, local: Local) -> Tensors:
        local.hold_out(self.held_out)
        gradient = local.gradient(held_out=True)
        layout = Layout.of(local.model.backbone)
        gradient_P = layout.flatten({name.removeprefix("backbone."): tensor for name, tensor in gradient.items()})
        local.train()
        return {"gradient": gradient_P}

    def reply_shapes(self, before: Dispatch, client: int) -> dict[str, tuple[int, ...]]:
        return {"gradient": (before.models.layout.P,)}

    def mix(self, round: Round) -> Mixing:
        updates = round.updates
        if not round.n:
            return Mixing(weights_NN=round.rows(torch.ones(0, 0)))
        gradients_NP = torch.stack([reply.message["gradient"].to(updates.device) for reply in round.replies])
        norms_N = whole_gram(updates).diagonal().sqrt()
        fall_NN = -cross_products(updates, gradients_NP)
        gain_NN = torch.where(norms_N > 0, fall_NN / norms_N.where(norms_N > 0, 1), 0)
        weights_NN, friends_NN = gain_weights(gain_NN, round.config.k)
        precision = product_dtype(updates.dtype)
        return Mixing(
            weights_NN=weights_NN.to(precision),
            diagnostics={"gain": gain_NN.to(precision), "helped_by": friends_NN.to(precision)},
        )
