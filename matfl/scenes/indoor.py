"""Indoor scenes, in the role of NYUD: a room with walls, floor and ceiling, and ten classes of furniture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from matfl.scenes import furniture
from matfl.scenes.draws import Draws, Floats, Keys
from matfl.scenes.layout import first_free, look_at, sensor, shell
from matfl.scenes.parts import Parts, Primitives, hsv, material, vector
from matfl.scenes.scene import Scenes

__all__ = ["CLASSES", "PIECES", "Piece", "build"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A template of furniture and what placing it needs; lengths in metres."""

    build: Callable[[Draws], Parts]
    radius: float
    """Of the footprint."""
    depth: float = 0.0
    """From the wall to the footprint's centre, for what stands against a wall; 0 for what stands free."""
    weight: float = 1.0
    """How often it is drawn."""


PIECES: dict[str, Piece] = {
    "bed": Piece(build=furniture.bed, radius=1.15, depth=1.05, weight=1.4),
    "sofa": Piece(build=furniture.sofa, radius=0.9, depth=0.45, weight=1.4),
    "chair": Piece(build=furniture.chair, radius=0.38, weight=1.6),
    "table": Piece(build=furniture.table, radius=0.7, weight=1.4),
    "cabinet": Piece(build=furniture.cabinet, radius=0.6, depth=0.3, weight=1.4),
    "shelf": Piece(build=furniture.shelf, radius=0.5, depth=0.18, weight=1.2),
    "lamp": Piece(build=furniture.floor_lamp, radius=0.25),
    "plant": Piece(build=furniture.plant, radius=0.35, weight=1.2),
    "picture": Piece(build=furniture.picture, radius=0.0, weight=0.0),
    "box": Piece(build=furniture.box, radius=0.35, weight=1.2),
}
CLASSES = ("wall", "floor", "ceiling", *PIECES)
"""Values of semseg; every pixel has a class."""

_SLOTS = 10
_PICTURES = 3
_TRIES = 8
_FACES = tuple(range(_SLOTS + _PICTURES + 1, _SLOTS + _PICTURES + 7))


def _furnish(draws: Draws, high: Floats, camera: Floats) -> list[Primitives]:
    """Up to ten pieces on the floor and three pictures. high (B, 3): the room spans 0..high, and in x -high..high."""
    b = len(draws)
    pieces = list(PIECES.values())
    radius = np.array([piece.radius for piece in pieces])
    depth = np.array([piece.depth for piece in pieces])
    wide, long = high[:, 0], high[:, 2]
    spot, radii = np.zeros((b, _SLOTS + 1, 2)), np.full((b, _SLOTS + 1), -1.0)
    # The camera keeps a free disc of its own.
    spot[:, 0], radii[:, 0] = camera[:, [0, 2]], 0.55
    busy = draws.uniform(0.6, 1.0)
    chosen = []
    for slot in range(1, _SLOTS + 1):
        which = draws.choice([piece.weight for piece in pieces])
        reach, back = radius[which], depth[which]
        attached = (back > 0)[:, None]
        side = draws.choice((1, 1, 2), _TRIES)
        margin = np.minimum(reach, wide * 0.9)[:, None]
        u, v = draws.uniform(0, 1, _TRIES), draws.uniform(0, 1, _TRIES)
        x = (2 * u - 1) * (wide[:, None] - margin)
        z = margin + v * np.maximum(long[:, None] - 2 * margin, 0)
        at_side = np.where(side == 0, -1.0, 1.0) * (wide[:, None] - back[:, None])
        x = np.where(attached & (side < 2), at_side, x)
        z = np.where(attached & (side == 2), long[:, None] - back[:, None], z)
        inside = (np.abs(x) + back[:, None] <= wide[:, None] + 1e-9) & (z + back[:, None] <= long[:, None] + 1e-9)
        candidates = np.stack([x, z], axis=-1)
        spot[:, slot], free = first_free(candidates, reach, inside, spot[:, :slot], radii[:, :slot])
        active = free & (draws.uniform() < busy)
        radii[:, slot] = np.where(active, reach, -1.0)
        # Which candidate was taken tells the wall: its side decides where the piece faces.
        taken = (candidates == spot[:, slot, None]).all(-1).argmax(1)
        wall = side[np.arange(b), taken]
        facing = np.where(wall == 0, np.pi / 2, np.where(wall == 1, -np.pi / 2, np.pi))
        yaw = np.where(attached[:, 0], facing, draws.uniform(-np.pi, np.pi))
        shift = np.where(attached[:, 0], back, 0.0)[:, None] * vector(np.sin(yaw), 0, np.cos(yaw))
        position = vector(spot[:, slot, 0], 0, spot[:, slot, 1]) - shift
        chosen.append((which, active, position, yaw, draws.uniform(0.9, 1.12)))
    kind, active, position, yaw, scale = (np.stack(column, axis=1) for column in zip(*chosen))
    groups = []
    for number, piece in enumerate(pieces):
        image, place = np.nonzero(active & (kind == number))
        if len(image):
            groups.append(
                piece.build(draws.child(1000 + place, image)).place(
                    image=image,
                    position=position[image, place],
                    yaw=yaw[image, place],
                    scale=scale[image, place],
                    instance=place + 1,
                    label=number + 3,
                )
            )
    for number in range(_PICTURES):
        wall, keep = draws.choice((1, 1, 2)), np.nonzero(draws.chance(0.6))[0]
        along, level = draws.uniform(0.15, 0.85), draws.uniform(1.3, 1.8)
        x = np.where(wall == 0, -wide, np.where(wall == 1, wide, (2 * along - 1) * wide))
        z = np.where(wall == 2, long, along * long)
        yaw = np.where(wall == 0, np.pi / 2, np.where(wall == 1, -np.pi / 2, np.pi))
        scale = draws.uniform(0.8, 1.3)
        if len(keep):
            # Each picture hangs a little further out than the last, so that two never share a plane.
            position = vector(x, level, z) + 0.015 * number * vector(np.sin(yaw), 0, np.cos(yaw))
            groups.append(
                furniture.picture(draws.child(2000 + number, keep)).place(
                    image=keep,
                    position=position[keep],
                    yaw=yaw[keep],
                    scale=scale[keep],
                    instance=_SLOTS + 1 + number + 0 * keep,
                    label=CLASSES.index("picture"),
                )
            )
    return groups


def build(keys: Keys) -> Scenes:
    """Scenes of B streams."""
    draws = Draws(keys)
    b = len(keys)
    high = vector(draws.uniform(1.3, 3.2), draws.uniform(2.2, 3.4), draws.uniform(3.0, 7.5))
    low = high * [-1, 0, 0]
    position = vector(draws.uniform(-0.75, 0.75) * high[:, 0], draws.uniform(0.8, 2.0), draws.uniform(0.12, 0.6))
    target = vector(
        draws.uniform(-0.8, 0.8) * high[:, 0], draws.uniform(0.1, 1.3), high[:, 2] * draws.uniform(0.55, 1.0)
    )
    tangent = np.tan(np.deg2rad(draws.uniform(50, 85)) / 2)
    basis = look_at(position, target, np.deg2rad(draws.uniform(-7, 7)))

    plaster = material(
        draws, saturation=(0, 0.65), value=(0.3, 0.98), patterns=(4, 2, 2, 0.7, 0.7, 1, 0.7), frequency=(0.8, 5)
    )
    accent = material(draws, value=(0.2, 0.95), frequency=(0.8, 5)).where(draws.chance(0.25), plaster)
    floor = material(draws, value=(0.1, 0.8), patterns=(2, 3, 3, 3, 0.5, 2, 2), frequency=(0.8, 5), gloss=0.4)
    ceiling = material(
        draws, saturation=(0, 0.3), value=(0.5, 1.0), patterns=(4, 1, 0.5, 0.5, 0, 0, 1), frequency=(0.5, 2)
    )
    planes = shell(
        draws,
        [floor, ceiling, plaster, accent, plaster, plaster],
        low=low,
        high=high,
        yaw=np.where(draws.chance(0.6), 0.0, draws.uniform(0, np.pi)),
        label=[1, 2, 0, 0, 0, 0],
        instance=_FACES,
    )

    # The lamp hangs anywhere in the upper half of the room, or sits at the camera like a flash.
    lamp = vector(
        draws.uniform(-0.8, 0.8) * high[:, 0],
        high[:, 1] * draws.uniform(0.7, 0.95),
        high[:, 2] * draws.uniform(0.1, 0.9),
    )
    flash = position + vector(0.15, 0.25, 0.05)
    light = np.where(draws.chance(0.12)[:, None], np.minimum(flash, high - 0.1), lamp)
    warm = hsv(draws.uniform(0.03, 0.16), draws.uniform(0, 0.5), 1.0)
    cold = hsv(draws.uniform(0.5, 0.65), draws.uniform(0, 0.35), 1.0)
    ambient = draws.uniform(0.15, 0.5)[:, None]
    none = np.zeros((b, 3))
    return Scenes(
        primitives=Primitives.concatenate(_furnish(draws.child(1), high, position)),
        shell=planes,
        low=low,
        high=high,
        position=position,
        basis=basis,
        tangent=tangent,
        light=light,
        light_colour=np.where(draws.chance(0.65)[:, None], warm, cold) * draws.uniform(0.5, 1.8)[:, None],
        falloff=draws.uniform(1.5, 8.0),
        ambient_up=ambient * (0.6 + 0.4 * cold),
        ambient_down=ambient * draws.uniform(0.5, 0.9)[:, None] * (0.6 + 0.4 * warm),
        zenith=none,
        horizon=none,
        cloud=none,
        cover=np.zeros(b),
        haze=np.full(b, 1e-9),
        **sensor(draws.child(2)),
    )
