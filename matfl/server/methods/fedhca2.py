"""FedHCA2: a shared conflict-averse step of the backbones, and attention between heads, both with learned weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.conflicts import conflict_averse
from matfl.models.network import build_head
from matfl.server.kernels import add_mixed, product_dtype
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing
from matfl.server.spans import cross_products, whole_gram
from matfl.tasks.joint import head_prefixes
from matfl.tasks.task import pairs

__all__ = ["FedHCA2", "attention", "descend"]


def attention(updates_ND: Tensor) -> Tensor:
    """Cross attention (N, N), float64, between the clients' updates of one layer: softmax(H H^T / sqrt(D)) by rows."""
    h_ND = updates_ND.double()
    return (h_ND @ h_ND.T / max(h_ND.shape[1], 1) ** 0.5).softmax(1)


def descend(weight: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float) -> tuple[Tensor, Tensor]:
    """One step of SGD with momentum on weights that stay within 0..1; NaN gradients leave theirs as they were.

    >>> descend(torch.tensor([0.1]), torch.tensor([1.0]), torch.tensor([-2.0]), lr=0.01, momentum=0.9)
    (tensor([0.1110]), tensor([-1.1000]))
    """
    known = ~gradient.isnan()
    velocity = torch.where(known, momentum * velocity + gradient, velocity)
    return torch.where(known, weight - lr * velocity, weight).clamp(0, 1), velocity


class _Heads(NamedTuple):
    """The round's head updates by layer, without the last one; a client of several tasks has several heads."""

    names: tuple[tuple[str, ...], ...]
    """Parameters of each layer."""
    updates: tuple[Tensor, ...]
    """(H, D) of each layer."""


def _heads_of(client_tasks: Sequence[str]) -> list[tuple[int, str]]:
    """(client, prefix of its tensors) of every head."""
    return [(client, prefix) for client, task in enumerate(client_tasks) for prefix in head_prefixes(task)]


@register
@dataclass(frozen=True, kw_only=True)
class FedHCA2(Method):
    """theta_i += mean of g over the clients of i's task + a_i U, U the CAGrad direction over all clients.

    Heads, layer by layer without the last: h_i += H_i + b_il softmax(H_i H^T / sqrt(D)) H, H the clients' head updates.
    The weights a_i and b_il (0..1) are the clients' own (b: their heads') and descend their losses: as the loss's
    gradient at the mixed model is about minus the update that follows, d loss / d a_i = -<next round's g_i, U>, and
    likewise for b_il. A client that misses a round keeps its weights. In the paper every client has a model; here
    clients of one task share one, which moves by the mean of their rows.
    """

    name = "fedhca2"
    title = "FedHCA2"
    description = "average within each task, a learned share of the conflict-averse direction, attention between heads"
    source = "Lu et al., FedHCA2: Towards Hetero-Client Federated Multi-Task Learning, CVPR 2024"
    family = "conflict"

    c: float = 0.4
    """Radius of CAGrad's ball, in units of the mean update; the direction is divided by 1 + c^2."""
    share: float = 0.1
    """First a_i and b_il."""
    lr: float = 0.01
    """Step of a_i and b_il."""
    momentum: float = 0.9
    """Of their descent."""

    def __post_init__(self) -> None:
        if not 0 <= self.c < float("inf"):
            raise ValueError(f"fedhca2.c={self.c}: choose 0 (the mean update) or more; the paper uses 0.4")
        for name in ("share", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"fedhca2.{name}={getattr(self, name)}: choose a number in 0..1")
        if not 0 <= self.lr < float("inf"):
            raise ValueError(f"fedhca2.lr={self.lr}: choose 0 (weights stay at fedhca2.share) or more")

    def start(self, before: Dispatch) -> Tensors:
        n, theta_P = len(before.client_tasks), before.models.theta_CP[0]
        layers, count = _layers(before.config), len(_heads_of(before.client_tasks))
        owner, head = next(iter(before.models.heads.items()), ("", {}))
        task = before.client_tasks[owner] if isinstance(owner, int) else str(owner)
        prefix = head_prefixes(task)[0]
        size = sum(head[prefix + name].numel() for names in layers for name in names if prefix + name in head)
        return {
            "a": torch.full((n,), self.share, dtype=torch.float64),
            "a_velocity": torch.zeros(n, dtype=torch.float64),
            "b": torch.full((count, len(layers)), self.share, dtype=torch.float64),
            "b_velocity": torch.zeros(count, len(layers), dtype=torch.float64),
            "direction": torch.zeros_like(theta_P),
            "heads": theta_P.new_zeros(count, size),
            "moved": torch.zeros(n),
        }

    def mix(self, round: Round) -> Mixing:
        updates, state = round.updates, dict(round.state)
        rows, everyones = list(updates.clients), _heads_of(round.client_tasks)
        of_heads = [row for row, (client, _) in enumerate(everyones) if client in rows]
        heads = _head_updates(round)
        # What the last round's shared directions did to the losses, as this round's updates tell.
        a_gradient = -cross_products(updates, state["direction"][None])[0]
        b_gradient = (
            _inner(heads, state["heads"][of_heads]) if heads.names else torch.full_like(state["b"][of_heads], torch.nan)
        )
        owners = [everyones[row][0] for row in of_heads]
        for name, raw, its, clients in (("a", a_gradient, rows, rows), ("b", b_gradient, of_heads, owners)):
            gradient = raw.to(state[name])
            gradient[~state["moved"][clients].bool().to(gradient.device)] = torch.nan
            weight, velocity = state[name].clone(), state[f"{name}_velocity"].clone()
            weight[its], velocity[its] = descend(
                weight[its], velocity[its], gradient, lr=self.lr, momentum=self.momentum
            )
            state |= {name: weight, f"{name}_velocity": velocity}
        common_N = conflict_averse(whole_gram(updates), self.c, rescale=True)
        a_N, b_HL = state["a"][rows].cpu(), state["b"][of_heads].cpu()
        weights_NN = round.rows(round.same(round.tasks)).cpu().double() + a_N[:, None] * common_N
        attentions = [attention(h_ND).cpu() for h_ND in heads.updates]
        moving = set(round.tasks)
        state |= {
            "direction": _combined(round, common_N),
            "heads": _attended(heads, attentions, state["heads"], of_heads),
            "moved": torch.tensor([float(task in moving) for task in round.client_tasks]).to(state["moved"]),
        }
        return Mixing(
            weights_NN=weights_NN.to(updates.device, product_dtype(updates.dtype)),
            heads={
                names: torch.eye(len(of_heads), dtype=torch.float64) + b_HL[:, layer, None] * attentions[layer]
                for layer, names in enumerate(heads.names)
            },
            state=state,
            diagnostics={"a": a_N},
        )


@lru_cache(maxsize=8)
def _layers(config: RunConfig) -> tuple[tuple[str, ...], ...]:
    """The parameters of each layer of a head, without the last layer, which differs between tasks."""
    layers: dict[str, tuple[str, ...]] = {}
    for name, _ in build_head(config, pairs(config.tasks)[0].parts[0]).named_parameters():
        module = name.rpartition(".")[0]
        layers[module] = (*layers.get(module, ()), name)
    return tuple(layers.values())[:-1]


def _head_updates(round: Round) -> _Heads:
    if not round.n or not all(round.updates.heads):
        return _Heads((), ())
    layers = _layers(round.config)
    stacked = []
    for names in layers:
        of_heads = []
        for client, task, head in zip(round.updates.clients, round.tasks, round.updates.heads):
            start = round.models.heads[client if client in round.models.heads else task]
            for prefix in head_prefixes(str(task)):
                own = [prefix + name for name in names]
                of_heads.append(torch.cat([(head[name] - start[name]).flatten() for name in own]))
        stacked.append(torch.stack(of_heads))
    return _Heads(layers, tuple(stacked))


def _inner(heads: _Heads, before_HD: Tensor) -> Tensor:
    """-<this round's update, what was added by the last one's attention> (H, L), for each head and layer."""
    parts = before_HD.split([h_ND.shape[1] for h_ND in heads.updates], 1)
    return torch.stack([-(h_ND.double() * part_ND.double()).sum(1) for h_ND, part_ND in zip(heads.updates, parts)], 1)


def _attended(heads: _Heads, attentions: Sequence[Tensor], before_HD: Tensor, rows: list[int]) -> Tensor:
    """(H, D) of all heads: what each one's attention gathered this round; the others keep theirs."""
    after_HD = before_HD.clone()
    if heads.updates:
        gathered = [a_NN.to(h_ND) @ h_ND for a_NN, h_ND in zip(attentions, heads.updates)]
        after_HD[rows] = torch.cat(gathered, 1).to(after_HD)
    return after_HD


def _combined(round: Round, coefficients_N: Tensor) -> Tensor:
    """U (P,) of the coefficients; the one before where nobody replied."""
    if not round.n:
        return round.state["direction"]
    direction_P = torch.zeros_like(round.models.theta_CP[0])
    for first, block_NK in round.updates.columns():
        add_mixed(direction_P[None, first : first + block_NK.shape[1]], coefficients_N[None], block_NK)
    return direction_P
