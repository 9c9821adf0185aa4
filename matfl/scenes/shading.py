"""Colour of the traced pixels: procedural textures, one light with shadows, sky, haze and sensor noise.

Arithmetic as in `matfl.scenes.tracing`: correctly rounded operations only.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from matfl.scenes.draws import stream_keys
from matfl.scenes.parts import PATTERNS
from matfl.scenes.scene import Scenes, Table, pick
from matfl.scenes.shadows import shadowed
from matfl.scenes.tracing import Hits, Vector, dot, on_device

__all__ = ["shade"]

_GRID = 32
"""Cells a side of the noise table, which repeats."""


@cache
def _noise_table(device: torch.device) -> Tensor:
    """Fractal noise (GRID**3 * 8) in [0, 1): each cell's eight corner values side by side, for one gather a cell."""
    total = np.zeros((_GRID,) * 3)
    for octave, cells in enumerate((4, 8, 16, 32)):
        lattice = (stream_keys(17, octave, np.arange(cells**3)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        lattice = lattice.reshape((cells,) * 3)
        step = _GRID // cells
        position = np.arange(_GRID) / step
        base = position.astype(np.int64)
        blend = position - base
        blend = blend * blend * (3 - 2 * blend)
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = -1
            low, high = np.take(lattice, base, axis), np.take(lattice, (base + 1) % cells, axis)
            lattice = low + blend.reshape(shape) * (high - low)
        total += lattice * 0.6**octave
    total = (total - total.min()) / (total.max() - total.min())
    corners = [np.roll(total, (-dx, -dy, -dz), (0, 1, 2)) for dx in (0, 1) for dy in (0, 1) for dz in (0, 1)]
    return torch.from_numpy(np.stack(corners).reshape(8, -1).astype(np.float32)).to(device)


def _noise(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Trilinear look-up of the noise table; coordinates in cells."""
    table = _noise_table(x.device)
    fx, fy, fz = torch.floor(x), torch.floor(y), torch.floor(z)
    mask = _GRID - 1
    cell = ((fx.to(torch.int64) & mask) * _GRID + (fy.to(torch.int64) & mask)) * _GRID + (fz.to(torch.int64) & mask)
    x, y, z = x - fx, y - fy, z - fz
    c = [pick(corner, cell) for corner in table]
    along_z = [c[2 * k] + z * (c[2 * k + 1] - c[2 * k]) for k in range(4)]
    low, high = along_z[0] + y * (along_z[1] - along_z[0]), along_z[2] + y * (along_z[3] - along_z[2])
    return low + x * (high - low)


def _pattern(pattern: Tensor, u: Tensor, v: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Share of a material's second colour, in [0, 1]; u, v, w in cycles."""
    fu, fv, fw = torch.floor(u), torch.floor(v), torch.floor(w)
    pu, pv, pw = u - fu, v - fv, w - fw
    checker = (fu + fv + fw) * 0.5
    checker = ((checker - torch.floor(checker)) > 0.25).float()
    du, dv, dw = pu - 0.5, pv - 0.5, pw - 0.5
    dots = (du * du + dv * dv + dw * dw < 0.12).float()
    half = fv * 0.5
    row = u + w + torch.where(half > torch.floor(half), 0.5, 0.0)
    row = row * 0.5
    bricks = ((pv < 0.14) | (row - torch.floor(row) < 0.07)).float()
    grid = ((pu < 0.1) | (pv < 0.1) | (pw < 0.1)).float()
    mix = torch.zeros_like(u)
    cloudy = ((noise - 0.35) * 4).clamp(0, 1)
    for name, value in (
        ("noise", cloudy),
        ("stripes", (pu < 0.5).float()),
        ("checker", checker),
        ("dots", dots),
        ("bricks", bricks),
        ("grid", grid),
    ):
        mix = torch.where(pattern == PATTERNS.index(name), value, mix)
    return mix


def _albedo(scenes: Scenes, table: Table, hits: Hits, size: int) -> Vector:
    """Linear reflectance of every pixel; meaningless in the sky."""
    row = hits.row
    u, v, w = (local * pick(table.texture[k], row) + pick(table.offset[k], row) for k, local in enumerate(hits.local))
    frequency = pick(table.frequency, row)
    # The look-up grid is finer than the pattern, so that even plain surfaces have grain of their own scale.
    noise = _noise(u * 3.0, v * 3.0, w * 3.0)
    footprint = on_device(scenes.tangent * 2 / size, row.device)[:, None]
    cycles = hits.depth.clamp(max=1e4) * footprint * frequency
    fade = (1.6 - 2 * cycles).clamp(0, 1)
    mix = 0.4 + (_pattern(pick(table.pattern, row), u, v, w, noise) - 0.4) * fade
    mottle = 1 + pick(table.mottle, row) * (noise - 0.5) * (1.6 - cycles).clamp(0, 1)
    first = [pick(table.colour[k], row) for k in range(3)]
    return tuple((c + (pick(table.second[k], row) - c) * mix) * mottle for k, c in enumerate(first))  # type: ignore[return-value]


def _grain(scenes: Scenes, pixels: int, device: torch.device) -> Tensor:
    """Noise (B, pixels) of mean 0 and deviation about 1: the sum of four bytes of a hash of (image, pixel)."""
    key = torch.from_numpy((scenes.key & np.uint64(0x7FFFFFFF)).astype(np.int64)).to(device)[:, None]
    # 31-bit words in 64-bit integers: products cannot overflow, and every device agrees.
    x = (torch.arange(pixels, device=device) * 0x9E3779B1 + key) & 0x7FFFFFFF
    for factor in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> 15)) * factor) & 0x7FFFFFFF
    x = x ^ (x >> 13)
    total = (x & 127) + ((x >> 7) & 127) + ((x >> 14) & 127) + ((x >> 21) & 127)
    return (total.float() - 254) * (1 / 74)


def _sky(scenes: Scenes, hits: Hits, length: Tensor) -> list[Tensor]:
    """Linear colour of the sky in every pixel's direction, whose length is given."""
    device = length.device
    zenith, horizon, cloud, cover = (
        on_device(part, device)[..., None] for part in (scenes.zenith, scenes.horizon, scenes.cloud, scenes.cover)
    )
    x, up, z = (part / length for part in hits.direction)
    overhead = up.clamp(min=0.02)
    drift = on_device((scenes.key >> np.uint64(40)) * 0.001, device)[:, None]
    cloudy = _noise(x / overhead * 1.7 + drift, z / overhead * 1.7, drift)
    cloudy = ((cloudy + cover - 1.0) * 3).clamp(0, 1) * (up * 6).clamp(0, 1)
    height = up.clamp(0, 1)
    height = height * (2 - height)
    clear = [horizon[:, k] + (zenith[:, k] - horizon[:, k]) * height for k in range(3)]
    return [c + (cloud[:, k] - c) * cloudy for k, c in enumerate(clear)]


def shade(scenes: Scenes, table: Table, hits: Hits, size: int) -> Tensor:
    """Pictures (B, 3, T * 64), uint8, tile by tile."""
    device = hits.depth.device

    def per_image(name: str) -> Tensor:
        return on_device(getattr(scenes, name), device)[..., None]

    light, falloff = per_image("light"), per_image("falloff")
    beam: Vector = tuple(light[:, k] - hits.point[k] for k in range(3))  # type: ignore[assignment]
    distance = torch.sqrt(dot(beam, beam))
    cosine = dot(beam, hits.normal) / distance
    visible = (cosine > 0) & ~hits.sky
    visible = visible & ~shadowed(scenes, table, hits, visible)
    fall = falloff / (falloff + distance)
    direct = torch.where(visible, cosine, 0.0) * fall
    albedo = _albedo(scenes, table, hits, size)
    skyward = hits.normal[1] * 0.5 + 0.5

    # Blinn's highlight: the half vector's cosine to the 32nd power, by squaring.
    length = torch.sqrt(dot(hits.direction, hits.direction))
    between: Vector = tuple(b / distance - d / length for b, d in zip(beam, hits.direction))  # type: ignore[assignment]
    shine = (dot(between, hits.normal) / torch.sqrt(dot(between, between)).clamp(min=1e-6)).clamp(min=0)
    for _ in range(5):
        shine = shine * shine
    shine = torch.where(visible, shine * pick(table.gloss, hits.row), 0.0) * fall

    air = _sky(scenes, hits, length) if bool(hits.sky.any()) else None
    ahead = torch.where(hits.sky, 0.0, hits.depth) * per_image("haze")
    fog = ahead / (1 + ahead)
    grain = _grain(scenes, hits.depth.shape[1], device) * per_image("grain")
    exposure = per_image("exposure")

    channels = []
    light_colour, low, high = per_image("light_colour"), per_image("ambient_down"), per_image("ambient_up")
    horizon = per_image("horizon")
    for k in range(3):
        ambient = low[:, k] + (high[:, k] - low[:, k]) * skyward
        linear = albedo[k] * (ambient + light_colour[:, k] * direct) + light_colour[:, k] * shine
        linear = linear + (horizon[:, k] - linear) * fog
        if air is not None:
            linear = torch.where(hits.sky, air[k], linear)
        linear = linear * exposure[:, k]
        # A square root stands for the display's gamma; a soft shoulder keeps highlights from clipping at once.
        value = torch.sqrt((linear * 1.25 / (linear * 0.25 + 1)).clamp(min=0))
        channels.append(((value + grain) * 255 + 0.5).clamp(0, 255))
    return torch.stack(channels, 1).to(torch.uint8)
