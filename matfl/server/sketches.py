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

import numpy as np
import torch
from torch import Tensor

from matfl.core.streams import derive
from matfl.server.updates import Updates

__all__ = ["Sketcher", "sketch", "sketch_gram"]


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
        bucket_K, sign_K = self._hashes(layer, first, rows_NK.shape[1], rows_NK.device)
        wide = rows_NK.to(torch.promote_types(rows_NK.dtype, torch.float32))
        out_Nd = torch.zeros((len(wide), self.length), dtype=wide.dtype, device=wide.device)
        return out_Nd.index_add_(1, bucket_K, wide * sign_K.to(wide))

    def _hashes(self, layer: str, first: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Bucket and sign of `count` elements from `first` on: the same whatever the parts they come in."""
        mixed = _mix(np.arange(first, first + count, dtype=np.uint64) + np.uint64(derive(self.seed, "sketch", layer)))
        bucket_K = (mixed >> np.uint64(1)) % np.uint64(self.length)
        sign_K = 1 - 2 * (mixed & np.uint64(1)).astype(np.int64)
        return torch.from_numpy(bucket_K.astype(np.int64)).to(device), torch.from_numpy(sign_K).to(device)

    def deviation(self, cosine: float) -> float:
        """Standard deviation of an estimated inner product of two unit vectors without dominant elements."""
        return math.sqrt((1 + cosine**2) / self.length)


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
