"""Ray casting of convex primitives, tile by tile: the nearest hits of the camera's rays.

Only sums, products, quotients, square roots and comparisons are used (all correctly rounded by IEEE 754), never a
matrix product or a library function: so a pixel does not depend on its batch, and hardly on its device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matfl.scenes.parts import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE
from matfl.scenes.scene import FAR, TILE, Scenes, Table, Tiles, pick

__all__ = ["Hits", "Vector", "dot", "intersect", "kind_blocks", "on_device", "primary", "to_local"]

Vector = tuple[Tensor, Tensor, Tensor]
"""x, y and z apart, which keeps every operation contiguous."""
_PIXELS = TILE * TILE
_BLOCK = 256
"""Rows traced at once: their temporaries stay in the processor's cache."""
_BLOCK_ACCELERATOR = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Nearest surface of every pixel, tile by tile: tensors (B, T * 64)."""

    depth: Tensor
    """Metres along the camera's axis; inf in the sky."""
    row: Tensor
    """Of the table (0 in the sky)."""
    sky: Tensor
    point: Vector
    """World position."""
    local: Vector
    """Position in the primitive's scaled frame."""
    normal: Vector
    """Unit normal in the world, towards the camera's side; zero in the sky."""
    direction: Vector
    """World direction of the pixel's ray, 1 along the camera's axis."""


def _vector(components: Iterable[Tensor]) -> Vector:
    x, y, z = components
    return x, y, z


def to_local(matrix: Sequence[Tensor], offset: Vector) -> Vector:
    """Product of a matrix, nine tensors by row, and a vector."""
    return _vector(dot((matrix[3 * k], matrix[3 * k + 1], matrix[3 * k + 2]), offset) for k in range(3))


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product, summed in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _ball(origin: Vector, ray: Vector) -> tuple[Tensor, Tensor, Tensor]:
    """Where a ray is nearest to the origin, half its way inside the unit ball, and its squared clearance (>= 0: hit).

    The clearance comes from the nearest point and not from b^2 - ac, which loses all digits of small far things.
    """
    scale = 1 / dot(ray, ray)
    nearest = -dot(origin, ray) * scale
    foot = _vector(o + nearest * d for o, d in zip(origin, ray))
    clear = 1 - dot(foot, foot)
    return nearest, torch.sqrt(clear.clamp(min=0) * scale), clear


def _slab(origin: Tensor, ray: Tensor, half: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Entry and exit of the slab |x| <= half. NaN for a ray within a face, which counts as a miss."""
    inverse = 1 / ray
    middle, reach = -origin * inverse, inverse.abs() * half
    return middle - reach, middle + reach


def intersect(kind: int, origin: Vector, ray: Vector, length: Tensor) -> Tensor:
    """Distance, in lengths of `ray`, at which rays enter the unit primitive of a kind; inf for a miss.

    origin, ray: three tensors each, broadcastable; local coordinates. length: of capsules, half length over radius.
    Rays that start inside miss.
    """
    if kind == ELLIPSOID:
        nearest, half, clear = _ball(origin, ray)
        near, hit = nearest - half, clear >= 0
    elif kind == BOX:
        near, far = _slab(origin[0], ray[0])
        for axis in (1, 2):
            enter, leave = _slab(origin[axis], ray[axis])
            near, far = torch.maximum(near, enter), torch.minimum(far, leave)
        hit = near <= far
    else:
        scale = 1 / (ray[0] * ray[0] + ray[2] * ray[2])
        nearest = -(origin[0] * ray[0] + origin[2] * ray[2]) * scale
        foot = (origin[0] + nearest * ray[0], origin[2] + nearest * ray[2])
        clear = 1 - foot[0] * foot[0] - foot[1] * foot[1]
        half = torch.sqrt(clear.clamp(min=0) * scale)
        if kind == CYLINDER:
            enter, leave = _slab(origin[1], ray[1])
            near, far = torch.maximum(nearest - half, enter), torch.minimum(nearest + half, leave)
            hit = (near <= far) & (clear >= 0)
        elif kind == CAPSULE:
            # The ray enters the infinite tube at height y; beyond the segment it can only enter the ball at that end.
            near = nearest - half
            height = origin[1] + near * ray[1]
            end = torch.maximum(torch.minimum(height, length), -length)
            centre, half_ball, clear_ball = _ball((origin[0], origin[1] - end, origin[2]), ray)
            side = height.abs() <= length
            near = torch.where(side, near, centre - half_ball)
            hit = (clear >= 0) & (side | (clear_ball >= 0))
        else:
            raise ValueError(f"kind={kind}: planes are traced as the shell of a scene")
    return torch.where(hit & (near > 0), near, torch.inf)


def on_device(array: NDArray, device: torch.device) -> Tensor:
    """A float32 copy."""
    return torch.from_numpy(array.astype(np.float32)).to(device)


def _pixel_axes(scenes: Scenes, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Camera-plane coordinates, at distance 1, of the pixels in each column and each row of tiles: (B, columns, 64)."""
    columns = -(-size // TILE)
    steps = (2 * np.arange(columns * TILE).reshape(columns, TILE) + 1 - size) / size
    steps = steps * scenes.tangent[:, None, None]
    return (on_device(np.tile(steps, TILE), device), on_device(-np.repeat(steps, TILE, axis=2), device))


def primary(scenes: Scenes, table: Table, tiles: Tiles, size: int) -> Hits:
    """The nearest surface of every pixel."""
    device = table.centre.device
    x, y = _pixel_axes(scenes, size, device)
    b, columns, _ = x.shape
    nearest = _nearest(table, tiles, x, y).view(b, -1)
    px = x[:, None].expand(b, columns, columns, _PIXELS).reshape(b, -1)
    py = y[:, :, None].expand(b, columns, columns, _PIXELS).reshape(b, -1)
    basis, position = on_device(scenes.basis, device)[..., None], on_device(scenes.position, device)[..., None]
    walls = on_device(scenes.low, device)[..., None], on_device(scenes.high, device)[..., None]
    ray: Vector = _vector(basis[:, 0, k] * px + basis[:, 1, k] * py + basis[:, 2, k] for k in range(3))
    depth, face = torch.full_like(px, torch.inf), torch.zeros_like(px, dtype=torch.int64)
    for axis, first in ((1, 0), (0, 2), (2, 4)):
        positive = ray[axis] > 0
        wall = torch.where(positive, walls[1][:, axis], walls[0][:, axis])
        distance = (wall - position[:, axis]) / ray[axis]
        # A ray along the wall never meets it; its quotient is infinite, of either sign, or no number.
        closer = (distance < depth) & (distance > 0)
        depth = torch.where(closer, distance, depth)
        face = torch.where(closer, positive.to(torch.int64) + first, face)
    row = face + (table.count + 6 * torch.arange(b, device=device))[:, None]

    # Nearest primitives come packed as (depth bits, row); finite positive floats sort like their bits.
    found = (nearest >> 32).to(torch.int32).view(torch.float32)
    closer = found < depth
    depth, row = torch.where(closer, found, depth), torch.where(closer, nearest & 0xFFFFFFFF, row)
    sky = depth > FAR
    safe = torch.where(sky, 1.0, depth)
    row = torch.where(sky, table.count, row)
    point = _vector(position[:, k] + safe * ray[k] for k in range(3))
    local, normal = _surface(table, row, point)
    normal = _vector(torch.where(sky, 0.0, n) for n in normal)
    return Hits(
        depth=torch.where(sky, torch.inf, depth),
        row=row,
        sky=sky,
        point=point,
        local=local,
        normal=normal,
        direction=ray,
    )


def kind_blocks(table: Table, primitive: Tensor) -> list[tuple[int, slice]]:
    """Runs of equal kind in `primitive`, whose rows ascend, cut to cache size: (kind, slice)."""
    limits = torch.tensor(table.bounds, device=primitive.device)
    edges = torch.searchsorted(primitive, limits).tolist()
    step = _BLOCK if primitive.device.type == "cpu" else _BLOCK_ACCELERATOR
    return [
        (kind, slice(start, min(start + step, edges[kind + 1])))
        for kind in range(PLANE + 1, 5)
        for start in range(edges[kind], edges[kind + 1], step)
    ]


def _nearest(table: Table, tiles: Tiles, x: Tensor, y: Tensor) -> Tensor:
    """Packed nearest hits (tiles, 64) of all primitives; x, y (B, columns, 64)."""
    sky = int(torch.tensor(torch.inf).view(torch.int32))
    nearest = torch.full((x.shape[0] * x.shape[1] ** 2, _PIXELS), sky << 32, dtype=torch.int64, device=x.device)
    for kind, block in kind_blocks(table, tiles.primitive):
        primitive = tiles.primitive[block]
        rays = table.ray.index_select(1, primitive)[..., None]
        px = x.view(-1, _PIXELS).index_select(0, tiles.across[block])
        py = y.view(-1, _PIXELS).index_select(0, tiles.down[block])
        ray = _vector(rays[9 + k] + rays[3 + k] * px + rays[6 + k] * py for k in range(3))
        t = intersect(kind, (rays[0], rays[1], rays[2]), ray, pick(table.length, primitive)[:, None])
        packed = (t.view(torch.int32).to(torch.int64) << 32) + primitive[:, None]
        nearest.scatter_reduce_(0, tiles.tile[block, None].expand(-1, _PIXELS), packed, "amin")
    return nearest


def _surface(table: Table, row: Tensor, point: Vector) -> tuple[Vector, Vector]:
    """Local position and world unit normal of points on the primitives `row`."""
    matrix = [pick(table.to_local[k], row) for k in range(9)]
    local = to_local(matrix, _vector(p - pick(table.centre[k], row) for k, p in enumerate(point)))
    kind, length = pick(table.kind, row), pick(table.length, row)
    x, y, z = local
    along = y - torch.maximum(torch.minimum(y, length), -length)
    ax, ay, az = x.abs(), y.abs(), z.abs()
    box, flat = kind == BOX, kind == PLANE
    tube = kind == CYLINDER
    lid = tube & (y * y > x * x + z * z)
    on_x = box & (ax >= ay) & (ax >= az)
    on_y = box & ~on_x & (ay >= az) | lid
    on_z = box & ~on_x & ~on_y | flat
    sharp = box | lid | flat
    zero = torch.zeros_like(x)
    nx = torch.where(on_x, torch.sign(x), torch.where(sharp, zero, x))
    ny = torch.where(on_y, torch.sign(y), torch.where(sharp | tube, zero, along))
    nz = torch.where(on_z, torch.where(flat, 1.0, torch.sign(z)), torch.where(sharp, zero, z))
    world = _vector(matrix[k] * nx + matrix[3 + k] * ny + matrix[6 + k] * nz for k in range(3))
    scale = 1 / torch.sqrt(dot(world, world))
    return local, _vector(n * scale for n in world)
