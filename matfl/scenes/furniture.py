"""Indoor objects, each a template of parts. Those that stand against a wall have their back at z = 0."""

from __future__ import annotations

import numpy as np

from matfl.scenes.draws import Draws
from matfl.scenes.parts import Material, Parts, material, vector

__all__ = ["bed", "box", "cabinet", "chair", "floor_lamp", "picture", "plant", "shelf", "sofa", "table"]


def _wood(draws: Draws) -> Material:
    wood = material(draws, hue=(0.03, 0.12), saturation=(0.2, 0.8), value=(0.1, 0.75), patterns=(2, 2, 2), gloss=0.4)
    return wood.where(draws.chance(0.55), material(draws, patterns=(3, 1, 1), gloss=0.6))


def _cloth(draws: Draws) -> Material:
    return material(draws, patterns=(3, 2, 2, 2, 1, 0, 1), frequency=(2, 12), gloss=0.05)


def bed(draws: Draws) -> Parts:
    """A mattress on a frame with a headboard, pillows and a blanket; head at the wall."""
    parts, wood, sheet, cover = Parts(draws), _wood(draws), _cloth(draws), _cloth(draws)
    width, length, height = draws.uniform(0.5, 0.95), draws.uniform(1.0, 1.1), draws.uniform(0.25, 0.4)
    parts.box(vector(0, height / 2 + 0.05, length), vector(width, height / 2, length), wood)
    parts.box(vector(0, height + 0.12, length), vector(width * 0.97, 0.11, length * 0.98), sheet)
    parts.box(vector(0, height + 0.15, length * 1.3), vector(width * 1.02, 0.12, length * 0.7), cover)
    parts.box(
        vector(0, height + 0.25, 0.03), vector(width, draws.uniform(0.2, 0.5), 0.04), wood, keep=draws.chance(0.8)
    )
    for side in (-1, 1):
        parts.ellipsoid(vector(side * width * 0.48, height + 0.26, 0.3), vector(width * 0.4, 0.1, 0.2), sheet)
    return parts


def sofa(draws: Draws) -> Parts:
    """A seat with a back, two arms and cushions."""
    parts, cloth, cushion = Parts(draws), _cloth(draws), _cloth(draws)
    width, seat, deep = draws.uniform(0.6, 1.05), draws.uniform(0.35, 0.45), draws.uniform(0.38, 0.48)
    back = draws.uniform(0.3, 0.5)
    parts.box(vector(0, seat / 2 + 0.03, deep), vector(width, seat / 2 - 0.02, deep), cloth)
    parts.box(vector(0, seat + back / 2, 0.12), vector(width, back / 2 + 0.05, 0.12), cloth)
    for side in (-1, 1):
        parts.box(vector(side * width, seat / 2 + 0.12, deep), vector(0.1, seat / 2 + 0.1, deep * 1.02), cloth)
        parts.capsule(
            vector(side * width, seat + 0.22, 0.1), vector(side * width, seat + 0.22, 2 * deep - 0.06), 0.11, cloth
        )
        parts.ellipsoid(
            vector(side * width * 0.55, seat + 0.2, 0.3), vector(0.2, 0.19, 0.1), cushion, keep=draws.chance(0.6)
        )
    return parts


def chair(draws: Draws) -> Parts:
    """A seat on four legs with a back."""
    parts, wood, seat_look = Parts(draws), _wood(draws), _cloth(draws)
    half, seat, back = draws.uniform(0.19, 0.25), draws.uniform(0.42, 0.5), draws.uniform(0.35, 0.6)
    seat_look = seat_look.where(draws.chance(0.6), wood)
    parts.box(vector(0, seat, 0), vector(half, 0.04, half), seat_look)
    for side in (-1, 1):
        for end in (-1, 1):
            foot = vector(side * half * 0.9, 0, end * half * 0.9)
            parts.cylinder(foot, foot * [0.95, 0, 0.95] + vector(0, seat, 0), 0.03, wood)
        parts.cylinder(
            vector(side * half * 0.9, seat, -half * 0.9),
            vector(side * half * 0.9, seat + back, -half * 1.1),
            0.025,
            wood,
        )
    parts.box(vector(0, seat + back * 0.7, -half), vector(half, back * 0.33, 0.03), seat_look)
    return parts


def table(draws: Draws) -> Parts:
    """A round or square top, on four legs or a pillar."""
    parts, wood, top = Parts(draws), _wood(draws), _wood(draws)
    top = top.where(draws.chance(0.4), wood)
    height, half, deep = draws.uniform(0.42, 0.8), draws.uniform(0.4, 0.8), draws.uniform(0.35, 0.5)
    rounded = draws.chance(0.35)
    parts.box(vector(0, height, 0), vector(half, 0.03, deep), top, keep=~rounded)
    parts.cylinder(vector(0, height - 0.03, 0), vector(0, height + 0.03, 0), (half + deep) / 2, top, keep=rounded)
    parts.cylinder(vector(0, 0, 0), vector(0, height, 0), 0.06, wood, keep=rounded)
    parts.cylinder(vector(0, 0, 0), vector(0, 0.04, 0), 0.25, wood, keep=rounded)
    for side in (-1, 1):
        for end in (-1, 1):
            parts.box(
                vector(side * half * 0.9, height / 2, end * deep * 0.85),
                vector(0.035, height / 2, 0.035),
                wood,
                keep=~rounded,
            )
    return parts


def cabinet(draws: Draws) -> Parts:
    """A closed chest with drawers or doors, low or tall."""
    parts, wood, front, knob = Parts(draws), _wood(draws), _wood(draws), material(draws, gloss=1.0)
    front = front.where(draws.chance(0.5), wood.tinted(draws.uniform(0.7, 1.3)[:, None]))
    tall = draws.chance(0.4)
    half, deep = draws.uniform(0.35, 0.65), draws.uniform(0.2, 0.3)
    height = np.where(tall, draws.uniform(1.4, 2.0), draws.uniform(0.6, 1.0))
    parts.box(vector(0, height / 2, deep), vector(half, height / 2, deep), wood)
    for number in range(3):
        # Drawers lie on each other, doors stand side by side.
        drawer = vector(0, height * (number + 0.5) / 3, 2 * deep)
        door = vector(half * (number - 0.5), height / 2, 2 * deep)
        centre = np.where(tall[:, None], door, drawer)
        size = np.where(
            tall[:, None], vector(half * 0.45, height * 0.47, 0.02), vector(half * 0.93, height * 0.14, 0.02)
        )
        keep = (number < 2) | ~tall
        parts.box(centre, size, front, keep=keep)
        parts.ellipsoid(centre + vector(0, 0, 0.03), vector(0.03, 0.03, 0.03), knob, keep=keep)
    return parts


def shelf(draws: Draws) -> Parts:
    """An open rack with boards and blocks of books."""
    parts, wood = Parts(draws), _wood(draws)
    half, deep, height = draws.uniform(0.35, 0.6), draws.uniform(0.13, 0.2), draws.uniform(1.1, 2.0)
    parts.box(vector(0, height / 2, 0.015), vector(half, height / 2, 0.012), wood.tinted(0.7))
    for side in (-1, 1):
        parts.box(vector(side * half, height / 2, deep), vector(0.025, height / 2, deep), wood)
    for number in range(4):
        level = height * (number + 0.15) / 3.2
        parts.box(vector(0, level, deep), vector(half, 0.022, deep), wood)
        books = material(draws, patterns=(0, 0, 5, 0, 0, 1, 1), frequency=(8, 20), mottle=0.4)
        wide, tall = draws.uniform(0.3, 0.95), draws.uniform(0.35, 0.75) * height / 6.4
        row = vector(draws.uniform(-1, 1) * half * (1 - wide), level + tall + 0.02, deep)
        parts.box(row, vector(half * wide * 0.95, tall, deep * 0.8), books, keep=draws.chance(0.8) & (number < 3))
    return parts


def floor_lamp(draws: Draws) -> Parts:
    """A shade on a thin stand."""
    parts, metal = Parts(draws), material(draws, gloss=0.8, patterns=(1,))
    shade = material(draws, saturation=(0, 0.5), value=(0.6, 1.0), patterns=(3, 0, 1, 0, 1), mottle=0.2)
    height, radius = draws.uniform(1.2, 1.7), draws.uniform(0.15, 0.25)
    parts.cylinder(vector(0, 0, 0), vector(0, 0.04, 0), 0.16, metal)
    parts.cylinder(vector(0, 0, 0), vector(0, height, 0), 0.025, metal)
    globe = draws.chance(0.35)
    parts.cylinder(vector(0, height - 0.15, 0), vector(0, height + 0.15, 0), radius, shade, keep=~globe)
    parts.ellipsoid(vector(0, height, 0), radius[:, None] * [1.0, 0.9, 1.0], shade, keep=globe)
    return parts


def plant(draws: Draws) -> Parts:
    """A pot with leaves."""
    parts, clay = Parts(draws), material(draws, hue=(0, 0.12), saturation=(0.1, 0.8), gloss=0.5)
    leaf = material(draws, hue=(0.2, 0.42), saturation=(0.3, 0.9), value=(0.12, 0.65), patterns=(2, 3, 1), mottle=1.0)
    pot = draws.uniform(0.13, 0.2)
    parts.cylinder(vector(0, 0, 0), vector(0, 1.8 * pot, 0), pot, clay)
    parts.cylinder(vector(0, 1.7 * pot, 0), vector(0, 2.0 * pot, 0), pot * 1.15, clay)
    tall = draws.uniform(0.3, 0.7)
    for number in range(5):
        angle = draws.uniform(0, 2 * np.pi) + number * 2.4
        out = draws.uniform(0.1, 0.5) * (number > 0)
        tip = vector(out * np.cos(angle), 1.0, out * np.sin(angle)) * tall[:, None]
        root = vector(0, 1.6 * pot, 0)
        size = draws.uniform(0.09, 0.2)
        parts.capsule(root, root + tip * 0.8, 0.02, leaf)
        parts.ellipsoid(
            root + tip,
            vector(size, size * draws.uniform(0.6, 1.3), size),
            leaf.tinted(draws.uniform(0.75, 1.25)[:, None]),
        )
    return parts


def picture(draws: Draws) -> Parts:
    """A framed picture; its middle is at y = 0, its back at the wall."""
    parts, rim = Parts(draws), _wood(draws)
    art = material(draws, patterns=(1, 3, 1, 1, 1, 0, 0.5), frequency=(1.5, 6), mottle=0.8, gloss=0.4)
    half, tall = draws.uniform(0.2, 0.55), draws.uniform(0.2, 0.45)
    parts.box(vector(0, 0, 0.02), vector(half, tall, 0.025), rim)
    parts.box(vector(0, 0, 0.03), vector(half - 0.05, tall - 0.05, 0.03), art)
    return parts


def box(draws: Draws) -> Parts:
    """A carton or crate, with a lid or a ribbon."""
    parts, card = Parts(draws), material(draws, frequency=(2, 10))
    band = material(draws, patterns=(1,))
    x, y, z = draws.uniform(0.12, 0.3), draws.uniform(0.1, 0.28), draws.uniform(0.12, 0.3)
    parts.box(vector(0, y, 0), vector(x, y, z), card)
    parts.box(vector(0, y * 1.9, 0), vector(x * 1.05, y * 0.15, z * 1.05), band, keep=draws.chance(0.4))
    return parts
