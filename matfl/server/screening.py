"""Which replies can be mixed: everyone else is left out of the round, with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from matfl.server.updates import Updates

__all__ = ["screen"]


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
