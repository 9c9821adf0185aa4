"""Ray casting of convex primitives, tile by tile: nearest hits of the camera's rays, and shadows.

Only sums, products, quotients, square roots and comparisons are used (all correctly rounded by IEEE 754), never a
matrix product or a library function: so a pixel does not depend on its batch, and hardly on its device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matfl.scenes.parts import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE
from matfl.scenes.scene import FAR, TILE, Scenes, Table, Tiles

__all__ = ["Hits", "intersect", "pixel_axes", "primary", "shadowed"]

Vector = tuple[Tensor, Tensor, Tensor]
_PIXELS = TILE * TILE
_BLOCK = 768
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


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product, summed in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _ball(origin: Vector, ray: Vector) -> tuple[Tensor, Tensor, Tensor]:
    """Where a ray is nearest to the origin, half its way inside the unit ball, and its squared clearance (>= 0: hit).

    The clearance comes from the nearest point and not from b^2 - ac, which loses all digits of small far things.
    """
    scale = 1 / dot(ray, ray)
    nearest = -dot(origin, ray) * scale
    foot = tuple(o + nearest * d for o, d in zip(origin, ray))
    clear = 1 - dot(foot, foot)  # type: ignore[arg-type]
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


def pixel_axes(scenes: Scenes, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Camera-plane coordinates of pixel columns and rows, (B, columns padded to whole tiles) each, at distance 1."""
    padded = -(-size // TILE) * TILE
    tangent = torch.from_numpy(scenes.tangent).to(torch.float32).to(device)[:, None]
    steps = (torch.arange(padded, device=device, dtype=torch.float32) * 2 + (1 - size)) * torch.tensor(
        1 / size, device=device
    )
    return steps * tangent, -steps * tangent


def _tiled(x: Tensor, y: Tensor) -> Vector:
    """Pixel coordinates tile by tile, and ones: (B, T * 64) from (B, columns) each."""
    b, n = x.shape
    tiles = n // TILE
    across = x.view(b, 1, tiles, 1, TILE).expand(b, tiles, tiles, TILE, TILE).reshape(b, -1)
    down = y.view(b, tiles, 1, TILE, 1).expand(b, tiles, tiles, TILE, TILE).reshape(b, -1)
    return across, down, torch.ones_like(across)


def primary(scenes: Scenes, table: Table, tiles: Tiles, size: int) -> Hits:
    """The nearest surface of every pixel."""
    device = table.centre.device
    b = len(scenes)
    x, y = pixel_axes(scenes, size, device)
    per_image = (x.shape[1] // TILE) ** 2
    nearest = _nearest(table, tiles, x, y, b * per_image)

    vectors = {name: torch.from_numpy(getattr(scenes, name)).to(torch.float32).to(device) for name in
               ("position", "basis", "low", "high")}  # fmt: skip
    px, py, _ = _tiled(x, y)
    basis, position = vectors["basis"], vectors["position"]
    ray: Vector = tuple(basis[:, 0, k, None] * px + basis[:, 1, k, None] * py + basis[:, 2, k, None] for k in range(3))  # type: ignore[assignment]
    depth, face = torch.full_like(px, torch.inf), torch.zeros_like(px, dtype=torch.int64)
    for axis, first in ((1, 0), (0, 2), (2, 4)):
        positive = ray[axis] > 0
        wall = torch.where(positive, vectors["high"][:, axis, None], vectors["low"][:, axis, None])
        distance = (wall - position[:, axis, None]) / ray[axis]
        closer = distance < depth
        depth = torch.where(closer, distance, depth)
        face = torch.where(closer, positive.to(torch.int64) + first, face)
    row = face + (table.count + 6 * torch.arange(b, device=device))[:, None]

    # Nearest primitives come packed as (depth bits, row); finite positive floats sort like their bits.
    found = (nearest >> 32).to(torch.int32).view(torch.float32).view(b, -1)
    closer = found < depth
    depth, row = torch.where(closer, found, depth), torch.where(closer, (nearest & 0xFFFFFFFF).view(b, -1), row)
    sky = depth > FAR
    safe = torch.where(sky, 1.0, depth)
    row = torch.where(sky, table.count, row)
    point: Vector = tuple(position[:, k, None] + safe * ray[k] for k in range(3))  # type: ignore[assignment]
    local, normal = _surface(table, row, point)
    normal = tuple(torch.where(sky, 0.0, n) for n in normal)  # type: ignore[assignment]
    return Hits(depth=torch.where(sky, torch.inf, depth), row=row, sky=sky, point=point, local=local, normal=normal,
                direction=ray)  # fmt: skip


def _blocks(table: Table, primitive: Tensor) -> list[tuple[int, slice]]:
    """Runs of equal kind in `primitive`, whose rows ascend, cut to cache size: (kind, slice)."""
    limits = torch.tensor(table.bounds, device=primitive.device)
    edges = torch.searchsorted(primitive, limits).tolist()
    step = _BLOCK if primitive.device.type == "cpu" else _BLOCK_ACCELERATOR
    return [(kind, slice(start, min(start + step, edges[kind + 1]))) for kind in range(PLANE + 1, 5)
            for start in range(edges[kind], edges[kind + 1], step)]  # fmt: skip


def _nearest(table: Table, tiles: Tiles, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Packed nearest hits (tiles, 64) of all primitives."""
    device = x.device
    sky = torch.tensor(torch.inf).view(torch.int32).item()
    nearest = torch.full((count, _PIXELS), sky << 32, dtype=torch.int64, device=device)
    image = table.image[tiles.primitive]
    inside = torch.arange(TILE, device=device)
    for kind, block in _blocks(table, tiles.primitive):
        primitive = tiles.primitive[block]
        rays = table.ray[:, primitive]
        px = x[image[block, None], tiles.corner_x[block, None] * TILE + inside][:, None, :]
        py = y[image[block, None], tiles.corner_y[block, None] * TILE + inside][:, :, None]
        origin: Vector = tuple(rays[k, :, None, None] for k in range(3))  # type: ignore[assignment]
        ray: Vector = tuple((rays[9 + k, :, None, None] + rays[3 + k, :, None, None] * px)
                            + rays[6 + k, :, None, None] * py for k in range(3))  # type: ignore[assignment]  # fmt: skip
        t = intersect(kind, origin, ray, table.length[primitive][:, None, None]).view(-1, _PIXELS)
        packed = (t.contiguous().view(torch.int32).to(torch.int64) << 32) + primitive[:, None]
        nearest.scatter_reduce_(0, tiles.tile[block, None].expand(-1, _PIXELS), packed, "amin")
    return nearest


def _surface(table: Table, row: Tensor, point: Vector) -> tuple[Vector, Vector]:
    """Local position and world unit normal of points on the primitives `row`."""
    offset = tuple(p - table.centre[k][row] for k, p in enumerate(point))
    matrix = [table.to_local[k][row] for k in range(9)]
    local: Vector = tuple(dot(tuple(matrix[3 * k : 3 * k + 3]), offset) for k in range(3))  # type: ignore[arg-type, assignment]
    kind, length = table.kind[row], table.length[row]
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
    world = tuple(matrix[k] * nx + matrix[3 + k] * ny + matrix[6 + k] * nz for k in range(3))
    scale = 1 / torch.sqrt(dot(world, world))  # type: ignore[arg-type]
    return local, tuple(n * scale for n in world)  # type: ignore[return-value]


def shadowed(scenes: Scenes, table: Table, hits: Hits, lit: Tensor) -> Tensor:
    """Which of the pixels `lit` (B, T * 64) see something between them and the light."""
    device = lit.device
    b = len(scenes)
    light = torch.from_numpy(scenes.light).to(torch.float32).to(device)
    lift = 0.003 + 0.002 * hits.depth.clamp(max=1000)
    start: Vector = tuple(p + lift * n for p, n in zip(hits.point, hits.normal))  # type: ignore[assignment]
    # Points beyond 60 m do not show shadows at this resolution; leaving them out keeps the tiles' bounds small.
    lit = lit & (hits.depth < 60)
    grouped = lit.view(b, -1, _PIXELS)
    low = [torch.where(grouped, s.view(b, -1, _PIXELS), torch.inf).amin(2) for s in start]
    high = [torch.where(grouped, s.view(b, -1, _PIXELS), -torch.inf).amax(2) for s in start]
    used = grouped.any(2)
    # A shadow ray of a tile stays within the tile's bounding radius of the segment from its centre to the light.
    centre = [torch.where(used, (a + c) * 0.5, 0.0) for a, c in zip(low, high)]
    reach = [torch.where(used, (c - a) * 0.5, 0.0) for a, c in zip(low, high)]
    radius = torch.sqrt(reach[0] * reach[0] + reach[1] * reach[1] + reach[2] * reach[2])
    slots = table.slots.clamp(min=0)
    to_light = [light[:, k, None] - centre[k] for k in range(3)]
    apart = [table.centre[k][slots][:, None, :] - centre[k][..., None] for k in range(3)]
    squared = to_light[0] * to_light[0] + to_light[1] * to_light[1] + to_light[2] * to_light[2]
    along = apart[0] * to_light[0][..., None] + apart[1] * to_light[1][..., None] + apart[2] * to_light[2][..., None]
    along = (along / squared.clamp(min=1e-6)[..., None]).clamp(0, 1)
    gap = [apart[k] - along * to_light[k][..., None] for k in range(3)]
    limit = (table.radius[slots][:, None, :] + radius[..., None]) * 1.001 + 0.001
    touches = gap[0] * gap[0] + gap[1] * gap[1] + gap[2] * gap[2] <= limit * limit
    touches &= used[..., None] & (table.slots >= 0)[:, None, :]

    image, tile, slot = touches.nonzero(as_tuple=True)
    primitive, order = torch.sort(slots[image, slot], stable=True)
    place = (image * used.shape[1] + tile)[order]
    start_rows = torch.stack([s.view(-1, _PIXELS) for s in start])
    dark = torch.zeros(b * used.shape[1], _PIXELS, dtype=torch.int32, device=device)
    for kind, block in _blocks(table, primitive):
        rows, where = primitive[block], place[block]
        matrix = table.to_local[:, rows, None]
        offset: Vector = tuple(start_rows[k][where] - table.centre[k][rows, None] for k in range(3))  # type: ignore[assignment]
        origin: Vector = tuple(dot(tuple(matrix[3 * k : 3 * k + 3]), offset) for k in range(3))  # type: ignore[arg-type, assignment]
        ray: Vector = tuple(table.to_light[k][rows, None] - origin[k] for k in range(3))  # type: ignore[assignment]
        blocked = intersect(kind, origin, ray, table.length[rows, None]) < 1
        dark.index_add_(0, where, blocked.to(torch.int32))
    return (dark.view(b, -1) > 0) & lit
