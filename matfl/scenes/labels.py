"""Label maps from the traced pixels: edges and saliency, and the order of pixels in pictures."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from matfl.scenes.scene import TILE

__all__ = ["edges", "raster", "saliency", "thin"]

_SALIENT_SHARE = 0.015
"""Least share of a picture's centre-weighted area that makes an object dominant."""


def raster(pixels: Tensor, size: int) -> Tensor:
    """Pictures (..., size, size) from pixels in tile order (..., T * 64)."""
    tiles = -(-size // TILE)
    lead = pixels.shape[:-1]
    grid = pixels.view(*lead, tiles, tiles, TILE, TILE).transpose(-3, -2).reshape(*lead, tiles * TILE, tiles * TILE)
    return grid[..., :size, :size].contiguous()


@cache
def _deletable(device: torch.device) -> Tensor:
    """(2, 256) bool: whether Guo and Hall's two passes delete a pixel with these neighbours.

    Bit k of the index is neighbour k: east, then counter-clockwise to south-east. Z. Guo and R. W. Hall, "Parallel
    thinning with two-subiteration algorithms", Communications of the ACM 32 (1989), algorithm A1.
    """
    table = np.zeros((2, 256), bool)
    for code in range(256):
        x = [bool(code >> k & 1) for k in range(8)]
        crossings = sum(not x[2 * k] and (x[2 * k + 1] or x[(2 * k + 2) % 8]) for k in range(4))
        pairs = (
            sum(x[2 * k] or x[2 * k + 1] for k in range(4)),
            sum(x[2 * k + 1] or x[(2 * k + 2) % 8] for k in range(4)),
        )
        simple = crossings == 1 and 2 <= min(pairs) <= 3
        table[0, code] = simple and not ((x[1] or x[2] or not x[7]) and x[0])
        table[1, code] = simple and not ((x[5] or x[6] or not x[3]) and x[4])
    return torch.from_numpy(table).to(device)


def thin(mask: Tensor) -> Tensor:
    """Skeletons of bool masks (B, H, W), by Guo and Hall's thinning to convergence."""
    deletable = _deletable(mask.device)
    b, h, w = mask.shape
    padded = torch.zeros(b, h + 2, w + 2, dtype=torch.uint8, device=mask.device)
    inner = padded[:, 1:-1, 1:-1]
    inner.copy_(mask)
    around = ((1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2))
    while True:
        changed = False
        for table in deletable:
            code = torch.zeros(b, h, w, dtype=torch.uint8, device=mask.device)
            for bit, (dy, dx) in enumerate(around):
                code |= padded[:, dy : dy + h, dx : dx + w] << bit
            remove = table.index_select(0, code.view(-1).int()).view(b, h, w) & inner.bool()
            changed = changed or bool(remove.any())
            inner.masked_fill_(remove, 0)
        if not changed:
            return inner.bool()


def edges(context: Tensor) -> Tensor:
    """Edge maps (B, H, W), 0/1 uint8, of region maps: the convention of PASCAL-Context in this field.

    A pixel is marked where the 4-neighbour Laplacian of the map (mirrored at the border) is not 0; what is marked is
    thinned to convergence.
    """
    value = context.to(torch.int32)
    padded = torch.cat([value[:, 1:2], value, value[:, -2:-1]], 1)
    wide = torch.cat([value[..., 1:2], value, value[..., -2:-1]], 2)
    laplacian = padded[:, 2:] + padded[:, :-2] + wide[..., 2:] + wide[..., :-2] - 4 * value
    return thin(laplacian != 0).to(torch.uint8)


def saliency(instance: Tensor, salient: Tensor) -> Tensor:
    """Mask (B, H, W), 0/1 uint8, of the dominant object, by one rule: the greatest centre-weighted visible area.

    instance: (B, H, W) identities >= 0; salient: the same shape, 1 where the object may be dominant. A pixel's weight
    falls from 1 in the centre to 0 in the corners, with the squared distance. Equal scores go to the lower identity;
    below 1.5 % of the picture's total weight nothing is salient.
    """
    b, size, _ = instance.shape
    step = torch.arange(size, device=instance.device) * 2 - (size - 1)
    weight = 2 * (size - 1) ** 2 - step[:, None] ** 2 - step**2
    names = int(instance.max()) + 1
    target = (instance.long() + names * torch.arange(b, device=instance.device)[:, None, None]).view(-1)
    score = torch.zeros(b * names, dtype=torch.int64, device=instance.device)
    score.scatter_add_(0, target, (weight * salient.long()).view(-1))
    score = score.view(b, names)
    best = score.amax(1)
    # argmax may return any of several maxima; the first is the one with none before it.
    index = torch.where(score == best[:, None], torch.arange(names, device=instance.device), names).amin(1)
    dominant = (instance == index[:, None, None]) & (salient != 0)
    return (dominant & (best >= _SALIENT_SHARE * int(weight.sum()))[:, None, None]).to(torch.uint8)
