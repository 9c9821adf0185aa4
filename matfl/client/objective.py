"""What a client's steps follow: the loss of its task, or the losses of several tasks, added or balanced.

A client of several tasks has one backbone, on which its tasks' gradients meet, and a head for each task. By default
their losses are added, with the config's weights. `RunConfig.balance` lets PCGrad or CAGrad join the gradients on the
backbone instead; a head follows its own task's loss in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.conflicts import conflict_averse, projected
from matfl.tasks.joint import Joint, Packed, Targets
from matfl.tasks.task import Pair

__all__ = ["Balance", "balance_of", "follow", "loss_weight", "losses", "total"]

Balance = Callable[[Tensor], Tensor]
"""Coefficients (T,) of T gradients, from their inner products (T, T); all 1 adds them up."""

RADIUS = 0.4
"""CAGrad's c, its paper's choice for dense predictions."""


def loss_weight(config: RunConfig, pair: Pair) -> float:
    """Factor on the task's loss: the field's with `loss_weights='field'`, else 1; of several tasks the mean."""
    return pair.task.loss_weight if config.loss_weights == "field" else 1.0


def losses(output: Tensor, target: Targets, pair: Pair, config: RunConfig) -> list[Tensor]:
    """The loss of each of a client's tasks, times its weight over the mean weight of the client's tasks.

    So that of a client of one task is its task's loss; times `loss_weight`, they are what training follows.
    """
    if not isinstance(pair.task, Joint):
        return [pair.task.loss(output, target)]  # type: ignore[arg-type]  # a target of one task
    assert isinstance(target, Packed)
    mean = loss_weight(config, pair)
    each = zip(pair.parts, pair.task.slices(output), target.parts, strict=True)
    return [loss_weight(config, part) / mean * part.task.loss(own, its) for part, own, its in each]


def total(parts: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return reduce(add, parts)


def balance_of(config: RunConfig, pair: Pair, generator: torch.Generator) -> Balance | None:
    """How the config joins the gradients of the pair's tasks; None: losses are added. `generator` orders PCGrad's."""
    if config.balance == "sum" or len(pair.parts) == 1:
        return None
    return partial(_pcgrad, generator=generator) if config.balance == "pcgrad" else _cagrad


def _pcgrad(gram_TT: Tensor, *, generator: torch.Generator) -> Tensor:
    """The sum of the projected gradients, as in the paper: without conflicts the sum of the gradients."""
    return projected(gram_TT, generator=generator).sum(0)


def _cagrad(gram_TT: Tensor) -> Tensor:
    """T times the direction near the mean gradient, so that radius 0 is the sum of the gradients."""
    return len(gram_TT) * conflict_averse(gram_TT, RADIUS)


def follow(parts: Sequence[Tensor], parameters: Mapping[str, Tensor], balance: Balance | None) -> None:
    """Set the gradients of `parameters`, by the names of `Model`, for a step on these losses of a client's tasks.

    With `balance` the backbone gets the combination of the tasks' gradients that it says, which waits for the device;
    heads get their own task's. Gradients that are not finite are added up, for the loss to be found out.
    """
    shared = [tensor for name, tensor in parameters.items() if name.startswith("backbone.")]
    if balance is None or not shared:
        total(parts).backward()
        return
    own = [tensor for name, tensor in parameters.items() if not name.startswith("backbone.")]
    rows = []
    for number, loss in enumerate(parts, 1):
        gradients = torch.autograd.grad(loss, [*shared, *own], retain_graph=number < len(parts), allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, gradients)]
        rows.append(torch.cat([gradient.flatten() for gradient in filled]))
        for tensor, gradient in zip(own, gradients[len(shared) :]):
            if gradient is not None:
                tensor.grad = gradient
    rows_TP = torch.stack(rows)
    gram_TT = (rows_TP @ rows_TP.T).double().cpu()
    weights_T = balance(gram_TT) if gram_TT.isfinite().all() else torch.ones(len(parts))
    direction_P = weights_T.to(rows_TP) @ rows_TP
    for tensor, piece in zip(shared, direction_P.split([p.numel() for p in shared])):
        tensor.grad = piece.view_as(tensor).clone(memory_format=torch.preserve_format)
