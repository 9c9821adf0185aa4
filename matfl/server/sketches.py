"""Updates as short sketches, from which similarities can be estimated when full updates are too many or too private.

A count sketch adds every element, with a random sign, to one of d random buckets (Charikar, Chen and Farach-Colton,
2002). It is linear, and the inner product of two sketches has the inner product of the vectors as its mean. With signs
and buckets independent,

    variance = (|a|^2 |b|^2 + <a, b>^2 - 2 sum_k a_k^2 b_k^2) / d,

so a cosine of long vectors is known to about sqrt((1 + cos^2) / d). Signs and buckets of a layer follow from (seed,
layer, d) alone: a client can compute its sketch itself, or a server can while an update streams in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from matfl.core.streams import derive
from matfl.server.updates import Updates

__all__ = ["ClientSketch", "Sketcher", "gathered", "sketch", "sketch_gram"]


@dataclass(frozen=True, kw_only=True)
class Sketcher:
    """How a layer is sketched; equal on all clients and the server."""

    length: int
    """d, numbers a layer."""
    seed: int = 0
    """Of signs and buckets. Whoever knows it can compare sketches with directions of a choice of their own."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length={self.length}: choose at least 1 number a layer")

    def of(self, rows_NK: Tensor, layer: str, *, first: int = 0) -> Tensor:
        """Sketches (N, d), float32 or better, of the columns `first` to `first + K` of a layer; parts add up."""
        bucket_K, sign_K = _hashes(self.seed, layer, self.length, first, rows_NK.shape[1])
        wide = rows_NK.to(torch.promote_types(rows_NK.dtype, torch.float32))
        out_Nd = torch.zeros((len(wide), self.length), dtype=wide.dtype, device=wide.device)
        return out_Nd.index_add_(1, bucket_K.to(wide.device), wide * sign_K.to(wide))

    def deviation(self, cosine: float) -> float:
        """Standard deviation of an estimated inner product of two unit vectors without dominant elements."""
        return math.sqrt((1 + cosine**2) / self.length)


@dataclass(frozen=True, kw_only=True)
class ClientSketch:
    """What a client sends in the place of its update, and how it was made."""

    values_Ld: Tensor
    """One row a voting layer."""
    layers: tuple[str, ...]
    sketcher: Sketcher


def gathered(sketches: Mapping[int, ClientSketch], layers: Sequence[str], sketcher: Sketcher) -> Tensor:
    """Clients' sketches (L, N, d) by ascending client.

    Raises ValueError naming the client whose sketch has another seed, length or layers: its numbers would look like
    any others, and mean nothing beside them.
    """
    for client, its in sorted(sketches.items()):
        shape = (len(layers), sketcher.length)
        for what, found, wanted in (
            ("seed", its.sketcher.seed, sketcher.seed),
            ("length", its.sketcher.length, sketcher.length),
            ("layers", its.layers, tuple(layers)),
            ("shape", tuple(its.values_Ld.shape), shape),
        ):
            if found != wanted:
                raise ValueError(
                    f"client {client}: its sketch has {what} {found}, the server's {wanted}: sketches compare only "
                    "where all make them alike; give the client the server's config"
                )
    return torch.stack([sketches[client].values_Ld for client in sorted(sketches)], 1)


@lru_cache(maxsize=64)
def _hashes(seed: int, layer: str, length: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Bucket and sign of `count` elements from `first` on: the same whatever the parts they come in."""
    mixed = _mix(np.arange(first, first + count, dtype=np.uint64) + np.uint64(derive(seed, "sketch", layer)))
    bucket_K = (mixed >> np.uint64(1)) % np.uint64(length)
    sign_K = 1 - 2 * (mixed & np.uint64(1)).astype(np.int8)
    return torch.from_numpy(bucket_K.astype(np.int64)), torch.from_numpy(sign_K)


def _mix(keys: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): uint64 keys to well-mixed bits."""
    with np.errstate(over="ignore"):
        keys = keys * np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def sketch(updates: Updates, layers: Sequence[str], sketcher: Sketcher) -> Tensor:
    """Sketches (L, N, d) of every client's voting layers; reads each layer's columns once, in pieces from files.

    Raises ValueError when a layer is not among the parameters.
    """
    if unknown := [name for name in layers if name not in updates.layout.parameters]:
        raise ValueError(f"layer {unknown[0]!r} is not a parameter of the backbone: name voting layers of its layout")
    sketches = []
    for layer in layers:
        slot = updates.layout.parameters[layer]
        total_Nd = torch.zeros((len(updates), sketcher.length), device=updates.device)
        for first, block_NK in updates.columns(slot.start, slot.stop):
            total_Nd = total_Nd + sketcher.of(block_NK, layer, first=first - slot.start)
        sketches.append(total_Nd)
    return torch.stack(sketches)


def sketch_gram(sketches_LNd: Tensor | Mapping[int, Tensor]) -> Tensor:
    """Estimated inner products (L, N, N), float64, for `matfl.server.grouping.cosine`.

    Given a mapping from client to (L, d), clients are taken in ascending order. Raises ValueError when sketches differ
    in shape: then they were made with another length or for other layers.
    """
    if isinstance(sketches_LNd, Mapping):
        shapes = {client: tuple(sketches_LNd[client].shape) for client in sorted(sketches_LNd)}
        usual = next(iter(shapes.values()), (0, 0))
        for client, shape in shapes.items():
            if shape != usual:
                raise ValueError(
                    f"client {client}: its sketch has shape {shape}, the others' {usual}: agree on the length and the "
                    "voting layers"
                )
        sketches_LNd = torch.stack([sketches_LNd[client] for client in shapes], 1)
    wide_LNd = sketches_LNd.double()
    return wide_LNd @ wide_LNd.transpose(1, 2)
