"""A batch of scenes as values, and its primitives as one table of tensors on the rendering device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matfl.scenes.draws import Floats
from matfl.scenes.parts import Primitives

__all__ = ["FAR", "TILE", "Scenes", "Table", "Tiles", "pack", "pick"]

TILE = 8
"""Side in pixels of the screen tiles in which primitives are culled."""
FAR = 1e5
"""Metres beyond which there is sky."""
_NEAR = 0.05


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """B scenes. Vectors are (B, 3) in metres or linear RGB; y is up."""

    primitives: Primitives
    """Closed convex primitives, in any order."""
    shell: Primitives
    """Six planes a scene, in the order floor, ceiling, -x, +x, -z, +z: the ground or room that encloses everything."""
    low: Floats
    high: Floats
    """Corners of the room; +-1e9 where there is none."""
    position: Floats
    basis: Floats
    """(B, 3, 3): rows right, up and forward."""
    tangent: Floats
    """(B,), of half the field of view."""
    light: Floats
    """Position of the one light; a sun is far away."""
    light_colour: Floats
    falloff: Floats
    """(B,), metres at which the light has halved; 1e9 for a sun."""
    ambient_up: Floats
    ambient_down: Floats
    """Light on surfaces that face up and down."""
    zenith: Floats
    horizon: Floats
    cloud: Floats
    """Sky colours."""
    cover: Floats
    """(B,), share of clouds."""
    haze: Floats
    """(B,), 1 / metres at which the horizon's colour has taken half."""
    exposure: Floats
    grain: Floats
    """(B,), sensor noise, of full scale."""
    key: NDArray[np.uint64]
    """(B,), stream of the sensor noise and clouds."""

    def __len__(self) -> int:
        return len(self.position)

    def part(self, start: int, stop: int) -> Scenes:
        """Scenes start..stop-1 alone."""
        parts: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Primitives):
                kept = value.take((value.image >= start) & (value.image < stop))
                parts[field.name] = replace(kept, image=kept.image - start)
            else:
                parts[field.name] = value[start:stop]
        return Scenes(**parts)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Which primitives can be seen in which screen tiles: one row a (primitive, tile), in the primitives' order."""

    primitive: Tensor
    """(R,), row of the table."""
    tile: Tensor
    """(R,), image * tiles + tile."""
    across: Tensor
    down: Tensor
    """(R,), image * columns + the tile's column, and the same with its row."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Primitives sorted by kind, then the shell's planes: (3, P) or (P,), float32 or int64, on the device."""

    count: int
    """Primitives before the planes."""
    bounds: tuple[int, ...]
    """First row of each kind 0..4 among the first `count`, and `count`."""
    kind: Tensor
    image: Tensor
    to_local: Tensor
    """(9, P): rows of the matrix that takes world directions to local, scaled so that the primitive is a unit one."""
    ray: Tensor
    """(12, P): local camera position, and the local directions of the camera's right, up and forward."""
    to_light: Tensor
    """(3, P): local position of the light."""
    centre: Tensor
    radius: Tensor
    """Of the bounding sphere, metres."""
    length: Tensor
    texture: Tensor
    """(3, P), cycles of the pattern per local unit."""
    offset: Tensor
    frequency: Tensor
    colour: Tensor
    second: Tensor
    pattern: Tensor
    mottle: Tensor
    gloss: Tensor
    instance: Tensor
    label: Tensor
    part: Tensor
    salient: Tensor
    slots: Tensor
    """(B, M): rows of each image's primitives, -1 where there are fewer."""


def pick(column: Tensor, row: Tensor) -> Tensor:
    """column[row] for a column (P,); several times faster than indexing on a CPU."""
    return column.index_select(0, row.reshape(-1)).view(row.shape)


def pack(scenes: Scenes, size: int, device: torch.device) -> tuple[Table, Tiles]:
    """Sort, transform and round the scenes' primitives, and cull them against the tiles of `size`-pixel pictures."""
    primitives = scenes.primitives.take(np.argsort(scenes.primitives.kind, kind="stable"))
    count = len(primitives)
    every = Primitives.concatenate([primitives, scenes.shell])
    to_local = every.frame / every.half[:, :, None]
    basis, camera = scenes.basis[every.image], scenes.position[every.image]
    ray = np.concatenate(
        [
            np.einsum("pij,pj->pi", to_local, camera - every.centre)[:, None],
            np.matmul(basis, to_local.transpose(0, 2, 1)),
        ],
        axis=1,
    )
    light = np.einsum("pij,pj->pi", to_local, scenes.light[every.image] - every.centre)
    extent = every.half * (1 + every.length[:, None] * np.array([0.0, 1.0, 0.0]))
    radius = np.where(every.length > 0, extent[:, 1], np.sqrt((extent**2).sum(1)))

    order = np.argsort(primitives.image, kind="stable")
    each = np.bincount(primitives.image, minlength=len(scenes))
    rank = np.arange(count) - np.repeat(np.cumsum(each) - each, each)
    slots = np.full((len(scenes), max(1, each.max(initial=0))), -1)
    slots[primitives.image[order], rank] = order

    def real(array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.T, dtype=np.float32)).to(device)

    def whole(array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.T, dtype=np.int64)).to(device)

    table = Table(
        count=count,
        bounds=(*np.searchsorted(primitives.kind, np.arange(5)).tolist(), count),
        kind=whole(every.kind),
        image=whole(every.image),
        to_local=real(to_local.reshape(-1, 9)),
        ray=real(ray.reshape(-1, 12)),
        to_light=real(light),
        centre=real(every.centre),
        radius=real(radius),
        length=real(every.length),
        texture=real(every.half * every.frequency[:, None]),
        offset=real(every.offset),
        frequency=real(every.frequency),
        colour=real(every.colour),
        second=real(every.second),
        pattern=whole(every.pattern),
        mottle=real(every.mottle),
        gloss=real(every.gloss),
        instance=whole(every.instance),
        label=whole(every.label),
        part=whole(every.part),
        salient=whole(every.salient),
        slots=whole(slots.T),
    )
    columns = -(-size // TILE)
    first, last = _tile_range(primitives, extent[:count], scenes, size, columns)
    spans = np.maximum(last - first + 1, 0)
    rows = spans[:, 0] * spans[:, 1]
    primitive = np.repeat(np.arange(count), rows)
    place = np.arange(len(primitive)) - np.repeat(np.cumsum(rows) - rows, rows)
    x = first[primitive, 0] + place % spans[primitive, 0]
    y = first[primitive, 1] + place // spans[primitive, 0]
    base = primitives.image[primitive] * columns
    tile = (base + y) * columns + x
    return table, Tiles(primitive=whole(primitive), tile=whole(tile), across=whole(base + x), down=whole(base + y))


def _tile_range(
    primitives: Primitives, extent: Floats, scenes: Scenes, size: int, columns: int
) -> tuple[NDArray, NDArray]:
    """First and last tile (P, 2) that each primitive's bounding box can touch; the last is -1 behind the camera."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    basis = scenes.basis[primitives.image]
    centre = np.einsum("pij,pj->ip", basis, primitives.centre - scenes.position[primitives.image])
    axes = np.matmul(basis, (primitives.frame * extent[:, :, None]).transpose(0, 2, 1)).transpose(1, 2, 0)
    x, y, depth = (middle + signs @ arms for middle, arms in zip(centre, axes))
    ahead, partly = (depth > _NEAR).all(0), (depth > _NEAR).any(0)
    scale = size / 2 / np.maximum(depth, _NEAR) / scenes.tangent[primitives.image]
    low, high = np.empty((len(primitives), 2)), np.empty((len(primitives), 2))
    for axis, screen in enumerate((x * scale + size / 2, size / 2 - y * scale)):
        # A margin of a hundredth of a pixel covers the rounding of rays to float32.
        low[:, axis] = np.where(ahead, np.floor((screen.min(0) - 0.51) / TILE), 0)
        high[:, axis] = np.where(ahead, np.floor((screen.max(0) - 0.49) / TILE), columns - 1)
    low, high = np.clip(low, 0, columns), np.clip(high, -1, columns - 1)
    return low.astype(np.int64), np.where(partly[:, None], high, -1).astype(np.int64)
