"""What the domains share: cameras, enclosing planes, the sky and sun, and putting objects where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matfl.scenes.draws import Draws, Floats
from matfl.scenes.parts import PLANE, Material, Primitives, hsv, vector

__all__ = ["daylight", "first_free", "look_at", "sensor", "shell"]


def look_at(position: Floats, target: Floats, roll: Floats) -> Floats:
    """Camera axes (B, 3, 3), rows right, up and forward, from two points (B, 3) and a roll in radians (B,)."""
    forward = target - position
    forward = forward / np.sqrt((forward**2).sum(-1, keepdims=True))
    right = np.cross(np.broadcast_to([0.0, 1.0, 0.0], forward.shape), forward)
    right = right / np.sqrt((right**2).sum(-1, keepdims=True))
    up = np.cross(forward, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([cos * right + sin * up, cos * up - sin * right, forward], axis=1)


def first_free(
    candidates: Floats,
    radius: Floats,
    allowed: NDArray[np.bool_],
    placed: Floats,
    radii: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """The first allowed candidate (B, T, 2) whose disc touches none of those placed, and whether there is one.

    radius (B,) of the new disc; placed (B, K, 2) with radii (B, K). What has a negative radius takes no room.
    """
    apart = ((candidates[:, :, None] - placed[:, None]) ** 2).sum(-1)
    reach = np.where((radii >= 0) & (radius[:, None] >= 0), radii + radius[:, None], 0.0)[:, None]
    free = allowed & (apart >= reach**2).all(-1)
    return candidates[np.arange(len(candidates)), free.argmax(1)], free.any(1)


def shell(
    draws: Draws,
    looks: Sequence[Material],
    *,
    low: Floats,
    high: Floats,
    yaw: ArrayLike,
    label: Sequence[int],
    instance: Sequence[int],
) -> Primitives:
    """The six planes of every scene, facing inwards, in the order floor, ceiling, -x, +x, -z, +z. low, high (B, 3)."""
    b = len(draws)
    yaw = np.broadcast_to(np.asarray(yaw, np.float64), (b,))
    east, north = vector(np.cos(yaw), 0, -np.sin(yaw)), vector(np.sin(yaw), 0, np.cos(yaw))
    x, y, z = (np.broadcast_to(axis, (b, 3)) for axis in np.eye(3))
    frames = [(east, north, y), (east, north, -y), (z, y, x), (z, y, -x), (x, y, z), (x, y, -z)]
    corners = [low, high, low, high, low, high]
    rows = {
        "image": np.repeat(np.arange(b), 6),
        "kind": np.full(6 * b, PLANE),
        "centre": np.stack(
            [np.where(np.abs(frame[2]) > 0.5, corner, 0.0) for frame, corner in zip(frames, corners)], 1
        ),
        "frame": np.stack([np.stack(frame, axis=1) for frame in frames], axis=1),
        "half": np.ones((6 * b, 3)),
        "length": np.zeros(6 * b),
        "instance": np.tile(instance, b),
        "label": np.tile(label, b),
        "part": np.zeros(6 * b, np.int64),
        "salient": np.zeros(6 * b, bool),
        "offset": draws.uniform(0, 16, 6, 3) * [1, 1, 0] + [0, 0, 0.5],
        **{f.name: np.stack([getattr(look, f.name) for look in looks], axis=1) for f in fields(Material)},
    }
    return Primitives(
        **{name: value.reshape(6 * b, *value.shape[2:]) if len(value) == b else value for name, value in rows.items()}
    )


def daylight(draws: Draws, around: Floats) -> dict[str, Any]:
    """Sun, sky, haze and ambient light of B scenes about the points `around` (B, 3), as fields of `Scenes`."""
    elevation, azimuth = np.deg2rad(draws.uniform(15, 80)), draws.uniform(0, 2 * np.pi)
    toward = vector(np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth))
    clear = draws.uniform(0.05, 1.0)[:, None]
    warm = hsv(draws.uniform(0.03, 0.15), draws.uniform(0, 0.45), 1.0)
    zenith = hsv(draws.uniform(0.5, 0.68), draws.uniform(0, 0.85), draws.uniform(0.2, 0.8))
    pale = hsv(draws.uniform(0.5, 0.65), draws.uniform(0, 0.3), draws.uniform(0.5, 1.0))
    dusk = hsv(draws.uniform(-0.06, 0.14) % 1, draws.uniform(0.2, 0.8), draws.uniform(0.5, 1.0))
    ambient = draws.uniform(0.22, 0.5)[:, None] * (1.4 - 0.6 * clear)
    none = np.full(len(draws), 1e9)
    return {
        "light": around + 300 * toward,
        "light_colour": warm * clear * draws.uniform(0.5, 1.2)[:, None],
        "falloff": none,
        "ambient_up": ambient * (0.4 + 0.6 * pale),
        "ambient_down": ambient * draws.uniform(0.35, 0.8)[:, None] * (0.6 + 0.4 * warm),
        "zenith": zenith,
        "horizon": np.where(draws.chance(0.25)[:, None], dusk, pale),
        "cloud": hsv(draws.uniform(0.55, 0.65), draws.uniform(0, 0.15), draws.uniform(0.45, 1.0)),
        "cover": draws.uniform(0.1, 0.9),
        "haze": 10 ** draws.uniform(-3.5, -1.6),
    }


def sensor(draws: Draws) -> dict[str, Any]:
    """Exposure, white balance and noise of B cameras, as fields of `Scenes`."""
    exposure = 2 ** draws.uniform(-0.7, 0.6)[:, None] * draws.uniform(0.85, 1.15, 3)
    return {"exposure": exposure, "grain": 0.04 * draws.uniform() ** 2 + 0.004, "key": draws.child(99).keys}
