"""Shadow rays: from every lit pixel to the light, against the primitives that its screen tile could meet."""

from __future__ import annotations

import torch
from torch import Tensor

from matfl.scenes.scene import TILE, Scenes, Table, pick
from matfl.scenes.tracing import Hits, dot, intersect, kind_blocks, on_device, to_local

__all__ = ["shadowed"]

_PIXELS = TILE * TILE
_REACH = 60.0
"""Metres from the camera beyond which shadows are left out: they would be smaller than a pixel."""


def _candidates(scenes: Scenes, table: Table, start: Tensor, lit: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (primitive, tile) that may shadow; primitives ascend. start (3, tiles, 64), lit (tiles, 64)."""
    device, b = lit.device, len(scenes)
    low = torch.where(lit, start, torch.inf).amin(2)
    high = torch.where(lit, start, -torch.inf).amax(2)
    used = lit.any(1).view(b, -1)
    # The rays of a tile stay within its bounding radius of the segment from its centre to the light.
    centre, reach = ((part * 0.5).nan_to_num(0, 0, 0).view(3, b, -1, 1) for part in (high + low, high - low))
    radius = torch.sqrt(dot((reach[0], reach[1], reach[2]), (reach[0], reach[1], reach[2])))
    slots = table.slots.clamp(min=0)[:, None]
    apart = [pick(table.centre[k], slots) - centre[k] for k in range(3)]
    light = on_device(scenes.light, device)[:, :, None, None]
    toward = [light[:, k] - centre[k] for k in range(3)]
    squared = toward[0] * toward[0] + toward[1] * toward[1] + toward[2] * toward[2]
    along = apart[0] * toward[0] + apart[1] * toward[1] + apart[2] * toward[2]
    along = (along / squared.clamp(min=1e-6)).clamp(0, 1)
    gap = [a - along * t for a, t in zip(apart, toward)]
    limit = (pick(table.radius, slots) + radius) * 1.001 + 0.001
    touches = gap[0] * gap[0] + gap[1] * gap[1] + gap[2] * gap[2] <= limit * limit
    touches &= used[..., None] & (table.slots >= 0)[:, None]
    image, tile, slot = touches.nonzero(as_tuple=True)
    primitive, order = torch.sort(slots[image, 0, slot], stable=True)
    return primitive, (image * used.shape[1] + tile)[order]


def shadowed(scenes: Scenes, table: Table, hits: Hits, lit: Tensor) -> Tensor:
    """Which of the pixels `lit` (B, T * 64) have something between them and the light."""
    # Rays start a little above the surface, so that rounding does not make it shadow itself.
    lift = hits.depth.clamp(max=_REACH) * 0.002 + 0.003
    start = torch.stack([p + lift * n for p, n in zip(hits.point, hits.normal)]).view(3, -1, _PIXELS)
    lit = lit & (hits.depth < _REACH)
    primitive, tile = _candidates(scenes, table, start, lit.view(-1, _PIXELS))
    dark = torch.zeros(start.shape[1:], dtype=torch.int32, device=lit.device)
    for kind, block in kind_blocks(table, primitive):
        rows, place = primitive[block], tile[block]
        centre = table.centre.index_select(1, rows)[..., None]
        light = table.to_light.index_select(1, rows)[..., None]
        x, y, z = (start[k].index_select(0, place) - centre[k] for k in range(3))
        origin = to_local(list(table.to_local.index_select(1, rows)[..., None]), (x, y, z))
        ray = (light[0] - origin[0], light[1] - origin[1], light[2] - origin[2])
        blocked = intersect(kind, origin, ray, pick(table.length, rows)[:, None]) < 1
        dark.index_add_(0, place, blocked.to(torch.int32))
    return (dark.view(lit.shape) > 0) & lit
