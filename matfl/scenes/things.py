"""Outdoor objects but people: animals, vehicles, plants, buildings and street furniture, each a template of parts."""

from __future__ import annotations

import numpy as np

from matfl.scenes.draws import Draws, Floats
from matfl.scenes.parts import Material, Parts, material, vector

__all__ = ["ball", "bench", "bin", "car", "dog", "horse", "house", "lamp", "plane", "rock", "sign", "tree"]


def _fur(draws: Draws) -> Material:
    return material(
        draws, hue=(0.02, 0.13), saturation=(0, 0.7), value=(0.05, 0.9), patterns=(3, 4, 1, 0, 1), gloss=0.1
    )


def _wood_or_metal(draws: Draws) -> Material:
    wood = material(draws, hue=(0.04, 0.12), saturation=(0.3, 0.8), patterns=(2, 2, 2), value=(0.15, 0.7))
    return wood.where(draws.chance(0.5), material(draws, gloss=0.8))


def _quadruped(
    draws: Draws, *, length: Floats, leg: Floats, girth: Floats, neck: Floats, head: Floats, ears: Floats, tail: Floats
) -> Parts:
    """Body, four legs, neck, head, snout, ears and tail; sizes in metres, head and tail along z."""
    parts, coat, dark = Parts(draws), _fur(draws), _fur(draws)
    belly = leg + girth * 0.6
    front, back = vector(0, belly, length / 2 - girth), vector(0, belly, girth - length / 2)
    parts.capsule(back, front, girth, coat)
    gait = draws.uniform(-0.35, 0.35)
    for side in (-1, 1):
        for end, sign in ((front, 1), (back, -1)):
            top = end + vector(side * girth * 0.6, -girth * 0.3, 0)
            foot = vector(top[:, 0], 0.15 * girth, top[:, 2] + side * sign * gait * leg)
            parts.capsule(top, foot, girth * 0.26, coat)
    poll = front + vector(0, girth * 0.5 + neck * 0.8, girth * 0.4 + neck * 0.6)
    parts.capsule(front + vector(0, girth * 0.2, girth * 0.3), poll, girth * 0.5, coat)
    parts.ellipsoid(poll + vector(0, 0, head * 0.3), vector(head * 0.45, head * 0.48, head * 0.55), coat)
    parts.capsule(
        poll + vector(0, -head * 0.1, head * 0.5), poll + vector(0, -head * 0.3, head * 1.1), head * 0.24, dark
    )
    for side in (-1, 1):
        parts.ellipsoid(poll + vector(side * head * 0.33, head * 0.45, 0), vector(head * 0.12, ears, head * 0.16), dark)
    rear = back + vector(0, girth * 0.4, -girth * 0.8)
    parts.capsule(
        rear,
        rear + vector(draws.uniform(-0.3, 0.3) * tail, draws.uniform(-0.9, 0.7) * tail, -tail * 0.6),
        girth * 0.17,
        dark,
    )
    return parts


def dog(draws: Draws) -> Parts:
    """A short-necked, short-legged animal with a thin tail, about 0.8 m long."""
    return _quadruped(
        draws,
        length=draws.uniform(0.65, 0.9),
        leg=draws.uniform(0.2, 0.36),
        girth=draws.uniform(0.1, 0.15),
        neck=draws.uniform(0.05, 0.12),
        head=draws.uniform(0.17, 0.24),
        ears=draws.uniform(0.05, 0.09),
        tail=draws.uniform(0.2, 0.4),
    )


def horse(draws: Draws) -> Parts:
    """A long-necked, long-legged animal, about 2 m long."""
    return _quadruped(
        draws,
        length=draws.uniform(1.7, 2.1),
        leg=draws.uniform(0.85, 1.1),
        girth=draws.uniform(0.25, 0.33),
        neck=draws.uniform(0.5, 0.75),
        head=draws.uniform(0.34, 0.42),
        ears=draws.uniform(0.08, 0.12),
        tail=draws.uniform(0.5, 0.8),
    )


def car(draws: Draws) -> Parts:
    """A saloon or van, about 4 m long."""
    parts = Parts(draws)
    paint = material(draws, patterns=(6, 1, 1), gloss=1.0, mottle=0.2)
    glass = material(draws, hue=(0.5, 0.65), saturation=(0, 0.4), value=(0.02, 0.3), patterns=(1,), gloss=1.0)
    rubber, lights = (
        material(draws, saturation=(0, 0.1), value=(0.02, 0.12), patterns=(1,)),
        material(draws, value=(0.6, 1)),
    )
    length, width = draws.uniform(1.7, 2.2), draws.uniform(0.75, 0.9)
    belt, roof = draws.uniform(0.35, 0.45), draws.uniform(0.25, 0.5)
    wheel = draws.uniform(0.28, 0.38)
    floor = wheel * 0.9
    parts.box(vector(0, floor + belt / 2, 0), vector(width, belt / 2, length), paint)
    cabin = draws.uniform(0.45, 0.75) * length
    shift = draws.uniform(-0.25, 0.05) * length
    parts.box(vector(0, floor + belt + roof / 2, shift), vector(width * 0.9, roof / 2, cabin), glass)
    parts.box(vector(0, floor + belt + roof + 0.03, shift), vector(width * 0.92, 0.04, cabin * 0.95), paint)
    for side in (-1, 1):
        for end in (-0.62, 0.62):
            hub = vector(side * width * 0.82, wheel, end * length)
            parts.cylinder(hub, hub + vector(side * width * 0.22, 0, 0), wheel, rubber)
        parts.ellipsoid(vector(side * width * 0.7, floor + belt * 0.6, length), vector(0.13, 0.1, 0.06), lights)
    return parts


def tree(draws: Draws) -> Parts:
    """A trunk under one to four crowns of foliage: round, or a tapering column."""
    parts = Parts(draws)
    bark = material(draws, hue=(0.03, 0.12), saturation=(0.2, 0.6), value=(0.1, 0.45), patterns=(1, 3, 1))
    green = material(
        draws, hue=(0.17, 0.42), saturation=(0.3, 0.9), value=(0.1, 0.6), patterns=(1, 6, 0, 0, 2), mottle=1.2
    )
    autumn = material(draws, saturation=(0.2, 0.9), value=(0.15, 0.8), patterns=(1, 6, 0, 0, 2), mottle=1.2)
    leaves = green.where(draws.chance(0.75), autumn)
    trunk, radius = draws.uniform(1.0, 2.2), draws.uniform(0.7, 1.3)
    conifer = draws.chance(0.3)
    parts.cylinder(
        vector(0, -0.1, 0), vector(draws.uniform(-0.15, 0.15), trunk + 0.5, 0), draws.uniform(0.09, 0.2), bark
    )
    for number in range(4):
        angle, out = draws.uniform(0, 2 * np.pi), draws.uniform(0.3, 0.6) * radius
        size = radius * np.where(conifer, 1.05 - 0.24 * number, draws.uniform(0.6, 0.85))
        centre = vector(
            np.where(conifer, 0, out * np.cos(angle)),
            trunk + radius * np.where(conifer, 0.1 + 0.55 * number, 0.4 + draws.uniform(0, 0.7)),
            np.where(conifer, 0, out * np.sin(angle)),
        )
        tall = np.where(conifer, 0.65, draws.uniform(0.75, 1.0)) * size
        parts.ellipsoid(
            centre,
            vector(size, tall, size),
            leaves.tinted(draws.uniform(0.8, 1.2)[:, None]),
            keep=conifer | draws.chance(1.0 if number < 2 else 0.5),
        )
    return parts


def house(draws: Draws) -> Parts:
    """A box with a flat or gabled roof, a door and windows on its front and sides."""
    parts = Parts(draws)
    wall = material(
        draws, saturation=(0, 0.6), value=(0.25, 0.95), patterns=(3, 1, 1, 0.5, 0, 4, 1), frequency=(0.8, 4)
    )
    tiles = material(draws, hue=(-0.06, 0.12), value=(0.1, 0.6), patterns=(1, 1, 3, 0, 0, 3, 1), frequency=(1, 5))
    wood, glass = (
        material(draws),
        material(draws, hue=(0.5, 0.65), saturation=(0, 0.5), patterns=(3, 0, 0, 0, 0, 0, 2), gloss=1),
    )
    width, depth, height = draws.uniform(1.8, 3.2), draws.uniform(1.8, 3.0), draws.uniform(2.4, 5.0)
    parts.box(vector(0, height / 2, 0), vector(width, height / 2, depth), wall)
    gable = draws.chance(0.7)
    # Two slabs that meet at the ridge, over two flat ellipsoids as gables.
    rise, half = draws.uniform(0.45, 0.8), width * 1.1
    for side in (-1, 1):
        slope = np.arctan(rise)
        cos, sin = np.cos(slope), np.sin(slope)
        frame = np.stack([vector(side * cos, -sin, 0), vector(side * sin, cos, 0), vector(0 * slope, 0, side)], axis=-2)
        run = half / np.cos(slope) / 2
        parts.box(
            vector(side * half / 2, height + rise * half / 2, 0),
            vector(run, 0.1, depth * 1.08),
            tiles,
            frame=frame,
            keep=gable,
        )
    for end in (-1, 1):
        parts.ellipsoid(
            vector(0, height, end * depth * 0.93), vector(width * 0.97, rise * width * 0.85, 0.25), wall, keep=gable
        )
    parts.box(vector(0, height + 0.1, 0), vector(width * 1.06, 0.15, depth * 1.06), tiles, keep=~gable)
    parts.box(vector(draws.uniform(-0.5, 0.5) * width, 1.0, depth), vector(0.45, 1.0, 0.05), wood)
    for side in (-1, 1):
        parts.box(vector(side * width * 0.6, height * 0.65, depth), vector(0.4, 0.45, 0.05), glass)
        parts.box(vector(side * width, height * 0.55, draws.uniform(-0.5, 0.5) * depth), vector(0.05, 0.5, 0.5), glass)
    return parts


def bench(draws: Draws) -> Parts:
    """A seat, a back and two supports."""
    parts, look, frame = Parts(draws), _wood_or_metal(draws), _wood_or_metal(draws)
    width, seat = draws.uniform(0.6, 1.0), draws.uniform(0.4, 0.5)
    parts.box(vector(0, seat, 0), vector(width, 0.04, 0.24), look)
    back = draws.chance(0.85)
    for row in (0.2, 0.42):
        parts.box(vector(0, seat + row, -0.25), vector(width, 0.08, 0.03), look, keep=back)
    for side in (-1, 1):
        parts.box(vector(side * width * 0.8, seat / 2, 0), vector(0.04, seat / 2, 0.22), frame)
        parts.box(vector(side * width * 0.8, seat + 0.22, -0.28), vector(0.03, 0.3, 0.02), frame, keep=back)
    return parts


def lamp(draws: Draws) -> Parts:
    """A street lamp: a globe on a pole, or a head on an arm."""
    parts, metal = Parts(draws), material(draws, saturation=(0, 0.5), value=(0.05, 0.6), patterns=(3, 1, 1), gloss=0.8)
    shade = material(draws, hue=(0.08, 0.18), saturation=(0, 0.4), value=(0.7, 1), patterns=(1,), gloss=0.8)
    height, arm = draws.uniform(2.2, 4.2), draws.chance(0.5)
    parts.cylinder(vector(0, -0.1, 0), vector(0, height, 0), draws.uniform(0.045, 0.08), metal)
    parts.cylinder(vector(0, 0, 0), vector(0, 0.25, 0), 0.14, metal)
    parts.capsule(vector(0, height, 0), vector(0.7, height + 0.15, 0), 0.04, metal, keep=arm)
    parts.ellipsoid(vector(0.75, height + 0.1, 0), vector(0.28, 0.09, 0.14), shade, keep=arm)
    parts.ellipsoid(vector(0, height + 0.12, 0), draws.uniform(0.16, 0.26)[:, None] * np.ones(3), shade, keep=~arm)
    return parts


def sign(draws: Draws) -> Parts:
    """A round, square or diamond plate on a post."""
    parts, metal = Parts(draws), material(draws, saturation=(0, 0.3), value=(0.3, 0.8), patterns=(1,), gloss=0.8)
    plate = material(
        draws, saturation=(0.5, 1), value=(0.3, 0.95), patterns=(3, 0, 2, 1, 1), mottle=0.2, frequency=(0.8, 3)
    )
    rim = material(draws, value=(0.7, 1), saturation=(0, 0.2), patterns=(1,))
    height, size = draws.uniform(1.6, 2.4), draws.uniform(0.28, 0.42)
    parts.cylinder(vector(0, -0.1, 0), vector(0, height, 0), 0.04, metal)
    shape = draws.choice((2, 1, 1))
    middle = vector(0, height, 0.05)
    for look, grow, ahead in ((rim, 1.12, 0.0), (plate, 1.0, 0.02)):
        parts.cylinder(
            middle + vector(0, 0, ahead - 0.02), middle + vector(0, 0, ahead + 0.02), size * grow, look, keep=shape == 0
        )
        tilt = np.where(shape == 2, np.pi / 4, 0.0)
        frame = np.stack(
            [vector(np.cos(tilt), np.sin(tilt), 0), vector(-np.sin(tilt), np.cos(tilt), 0), vector(0 * tilt, 0, 1)],
            axis=-2,
        )
        side = size * 0.85 * grow
        parts.box(middle + vector(0, 0, ahead), vector(side, side, 0.02), look, frame=frame, keep=shape > 0)
    return parts


def ball(draws: Draws) -> Parts:
    """A ball of 0.5 m."""
    parts = Parts(draws)
    look = material(draws, saturation=(0.2, 1), patterns=(1, 1, 3, 2, 2), frequency=(1, 6), gloss=0.8)
    parts.ellipsoid(vector(0, 0.25, 0), vector(0.25, 0.25, 0.25), look)
    return parts


def bin(draws: Draws) -> Parts:
    """A cylindrical waste bin with a lid and rings."""
    parts, look = Parts(draws), material(draws, gloss=0.6, frequency=(2, 8))
    lid = material(draws, value=(0.05, 0.6), patterns=(1,), gloss=0.6)
    radius, height = draws.uniform(0.24, 0.36), draws.uniform(0.7, 1.0)
    parts.cylinder(vector(0, 0, 0), vector(0, height, 0), radius, look)
    parts.cylinder(vector(0, height, 0), vector(0, height + 0.07, 0), radius * 1.1, lid)
    parts.ellipsoid(vector(0, height + 0.06, 0), vector(radius * 0.95, draws.uniform(0.05, 0.2), radius * 0.95), lid)
    for row in (0.25, 0.75):
        parts.cylinder(
            vector(0, height * row, 0), vector(0, height * row + 0.05, 0), radius * 1.06, lid, keep=draws.chance(0.6)
        )
    return parts


def plane(draws: Draws) -> Parts:
    """An aeroplane of 6 m with straight wings and a tail; its own ground is its belly."""
    parts = Parts(draws)
    skin = material(draws, saturation=(0, 0.7), value=(0.4, 1), patterns=(4, 0, 2), mottle=0.2, gloss=0.8)
    trim = material(draws, saturation=(0.3, 1), patterns=(2, 0, 1), gloss=0.8)
    parts.capsule(vector(0, 0.4, -2.6), vector(0, 0.4, 2.6), draws.uniform(0.35, 0.45), skin)
    span = draws.uniform(2.4, 3.4)
    parts.box(vector(0, draws.uniform(0.3, 0.8), 0.4), vector(span, 0.06, draws.uniform(0.4, 0.6)), trim)
    parts.box(vector(0, 0.5, -2.6), vector(1.1, 0.05, 0.3), trim)
    parts.box(vector(0, 1.0, -2.7), vector(0.05, 0.6, 0.3), trim)
    for side in (-1, 1):
        parts.capsule(vector(side * span * 0.45, 0.2, 0.2), vector(side * span * 0.45, 0.2, 1.0), 0.18, skin)
    return parts


def rock(draws: Draws) -> Parts:
    """One or two boulders half in the ground: clutter without a class."""
    parts = Parts(draws)
    look = material(draws, saturation=(0, 0.35), value=(0.15, 0.7), patterns=(1, 5), mottle=1.0, gloss=0.1)
    for number in range(2):
        half = vector(draws.uniform(0.3, 0.6), draws.uniform(0.2, 0.5), draws.uniform(0.3, 0.6))
        centre = vector(draws.uniform(-0.4, 0.4) * number, half[:, 1] * 0.3, draws.uniform(-0.4, 0.4) * number)
        parts.ellipsoid(centre, half, look, keep=draws.chance(1 if number == 0 else 0.6))
    return parts
