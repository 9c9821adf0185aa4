"""Which replies can be mixed: everyone else is left out of the round, with the reason.

Replies are validated like input, since one extreme number would reach every model: first their form (`form`), then
their numbers (`screen`), then how far they moved compared with the others (`too_far`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from matfl.server.models import Models
from matfl.server.updates import Updates

__all__ = ["LIMIT", "Moved", "clip_factors", "form", "moved", "screen", "too_far"]

LIMIT = 1e10
"""No parameter, statistic or message of a trained network is larger: sums over clients then stay finite in float32."""
_COUNT = 1e12
_SECONDS = 1e9


def form(
    numbers: Mapping[str, float],
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    message: Mapping[str, Tensor],
    message_shapes: Mapping[str, tuple[int, ...]],
) -> str | None:
    """What is wrong with the form of a reply, or None.

    Args:
        numbers: its 'loss', 'images', 'steps' and 'seconds'.
        state, expected: its model and the one that it was sent: names and shapes must agree.
        message, message_shapes: what else it sent, and what its method announced.
    """
    if not math.isfinite(numbers["loss"]):
        return "its loss is not finite"
    for name, value in numbers.items():
        low, high = {"loss": (-LIMIT, LIMIT), "seconds": (0, _SECONDS)}.get(name, (0, _COUNT))
        if not low <= value <= high:
            return f"{name}={value:g} is not between {low:g} and {high:g}"
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    return _differs("tensor", state, shapes) or _differs("message", message, message_shapes) or _numbers(message)


def _differs(what: str, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for name in shapes:
        if name not in found:
            return f"{what} {name!r} is missing"
        if tuple(found[name].shape) != tuple(shapes[name]):
            return f"{what} {name!r} has shape {tuple(found[name].shape)}, not {tuple(shapes[name])}"
    if unknown := [name for name in found if name not in shapes]:
        return f"{what} {unknown[0]!r} is unknown"
    return None


def _numbers(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the values of named tensors, or None; batch-norm variances must not be negative."""
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        low, high = (float(extreme) for extreme in tensor.aminmax())
        if why := _extreme(low, high):
            return f"{why} in {name!r}"
        if low < 0 and name.rpartition(".")[2] == "running_var":
            return f"a negative variance ({low:g}) in {name!r}"
    return None


def _extreme(low: float, high: float) -> str | None:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "NaN or infinity"
    if max(-low, high) > LIMIT:
        return f"a number of size {max(-low, high):.0e} (more than {LIMIT:.0e})"
    return None


def screen(updates: Updates, *, expected: Sequence[int] = ()) -> tuple[Updates, dict[int, str]]:
    """(the updates that can be mixed, the clients left out and why); clients with a zero update are kept, in `.zero`.

    Left out are the `expected` clients that did not reply, those whose file could not be read, and those with NaN,
    infinity, a number beyond `LIMIT` or a negative variance in the update, a buffer or the head. Reads all updates
    once.
    """
    dropped = {client: "no reply" for client in expected if client not in updates.clients} | dict(updates.unreadable)
    zero = dict.fromkeys(updates.clients)
    for first, block_NK in updates.columns():
        for client, row_K in zip(updates.clients, block_NK):
            low, high = (float(extreme) for extreme in row_K.aminmax())
            if low or high:
                zero.pop(client, None)
            if (why := _extreme(low, high)) and client not in dropped:
                column = first + int((~(row_K.abs() <= LIMIT)).nonzero()[0])
                name = next(name for name, slot in updates.layout.parameters.items() if column < slot.stop)
                dropped[client] = f"{why} in the update of {name!r}"
    for client, row_B, head in zip(updates.clients, updates.buffers_NB, updates.heads):
        named = updates.layout.unflatten_buffers(row_B) | {f"head.{name}": tensor for name, tensor in head.items()}
        if why := _numbers(named):
            dropped.setdefault(client, why)
    kept = updates.select([row for row, client in enumerate(updates.clients) if client not in dropped])
    return replace(kept, zero=tuple(client for client in kept.clients if client in zero)), dropped


class Moved(NamedTuple):
    """How far a part of each client's model moved in a round, float64 (N,)."""

    distance_N: Tensor
    start_N: Tensor
    """Norm of what it started from."""


def moved(updates: Updates, models: Models, starts: Sequence[int], head_owners: Sequence[object]) -> dict[str, Moved]:
    """Norms of the clients' changes to the backbone's parameters, the head's, and the batch-norm statistics."""
    squares_N, begun_C = (torch.zeros(size, dtype=torch.float64) for size in (len(updates), len(models.owners)))
    for first, block_NK in updates.columns():
        squares_N += torch.tensor([_square(row_K) for row_K in block_NK], dtype=torch.float64)
        begun_C += torch.tensor(
            [_square(row_K) for row_K in models.theta_CP[:, first : first + block_NK.shape[1]]], dtype=torch.float64
        )
    heads = [_head_moved(head, models.heads.get(owner)) for head, owner in zip(updates.heads, head_owners)]
    statistics = [
        (_square(row_B - models.buffers_CB[start]), _square(models.buffers_CB[start]))
        for row_B, start in zip(updates.buffers_NB, starts)
    ]
    parts = {
        "the backbone": list(zip(squares_N.tolist(), begun_C[list(starts)].tolist())),
        "the head": heads,
        "the batch-norm statistics": statistics,
    }
    return {
        name: Moved(*(torch.tensor(column, dtype=torch.float64).sqrt() for column in zip(*pairs)))
        for name, pairs in parts.items()
        if pairs
    }


def _square(row: Tensor) -> float:
    """Sum of squares; numbers within `LIMIT` stay within float32's range in it."""
    flat = row.flatten().float()
    return float(flat @ flat)


def _head_moved(head: Mapping[str, Tensor], start: Mapping[str, Tensor] | None) -> tuple[float, float]:
    """Squares of the change and of the start, over all floating-point tensors but the batch-norm statistics."""
    change = begun = 0.0
    for name, before in _learned(start or {}):
        if name in head:
            change += _square(head[name].to(before) - before)
            begun += _square(before)
    return change, begun


def _learned(head: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in head.items():
        if tensor.is_floating_point() and not name.rpartition(".")[2].startswith("running_"):
            yield name, tensor


def too_far(clients: Sequence[int], parts: Mapping[str, Moved], bound: float) -> dict[int, str]:
    """The clients that moved implausibly far, and why: a robust bound in multiples of the round's median.

    A client is left out when a part of its model moved farther than `bound` times the clients' (lower) median and
    farther than that part's own norm, or, in the parameters, farther than `bound` times that norm whatever the others
    did. Honest clients stay far below at the default of 100. `bound` 0 leaves nobody out.
    """
    found: dict[int, str] = {}
    for part, (distance_N, start_N) in parts.items():
        if not bound or not len(distance_N):
            continue
        median = float(distance_N.median())
        for client, distance, start in zip(clients, distance_N.tolist(), start_N.tolist()):
            if distance > bound * median and distance > start:
                limit = f"the median {median:.3g}"
            elif start and distance > bound * start and part != "the batch-norm statistics":
                limit = f"its norm {start:.3g}"
            else:
                continue
            found.setdefault(client, f"it moved {part} by {distance:.3g}, over norm_bound={bound:g} times {limit}")
    return found


def clip_factors(distance_N: Tensor, clip_norm: float) -> list[float]:
    """Factors in (0, 1] that shorten each update to at most `clip_norm` times the (lower) median norm; 0 is off."""
    if not clip_norm or not len(distance_N):
        return [1.0] * len(distance_N)
    most = clip_norm * float(distance_N.median())
    return [1.0 if distance <= most else most / distance for distance in distance_N.tolist()]
