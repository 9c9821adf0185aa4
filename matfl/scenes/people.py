"""People of capsules and ellipsoids, in many poses, with the six body parts of PASCAL-Person-Parts."""

from __future__ import annotations

import numpy as np

from matfl.scenes.draws import Draws, Floats
from matfl.scenes.parts import Material, Parts, hsv, material, vector

__all__ = ["HEIGHT", "PART_NAMES", "person"]

PART_NAMES = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
"""Values of human_parts."""
HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)
HEIGHT = 1.75
"""Of a standing person, metres."""


def _skin(draws: Draws) -> Material:
    look = material(draws, patterns=(1,), mottle=0.15, gloss=0.15)
    tone = hsv(draws.uniform(0.03, 0.09), draws.uniform(0.3, 0.65), draws.uniform(0.2, 0.85))
    return Material(
        colour=tone, second=tone, pattern=look.pattern, frequency=look.frequency, mottle=look.mottle, gloss=look.gloss
    )


def _direction(forward: Floats, outward: Floats, side: float) -> Floats:
    """Unit vector of a limb: hanging down, swung forward and outward by angles in radians."""
    return vector(side * np.sin(outward), -np.cos(outward) * np.cos(forward), np.cos(outward) * np.sin(forward))


def person(draws: Draws) -> Parts:
    """Standing, walking, sitting or waving people."""
    parts = Parts(draws)
    skin, hair = _skin(draws), material(draws, saturation=(0, 0.7), value=(0.03, 0.6), patterns=(2, 2), gloss=0.3)
    shirt, trousers = material(draws, frequency=(3, 14)), material(draws, value=(0.05, 0.7), frequency=(3, 14))
    shoes = material(draws, value=(0.03, 0.7), patterns=(1,))
    sleeves = skin.where(draws.chance(0.5), shirt)
    shins = skin.where(draws.chance(0.3), trousers)
    girth = draws.uniform(0.85, 1.3)
    sits = draws.chance(0.15)
    waves = draws.chance(0.25)
    lean = draws.uniform(-0.12, 0.22)

    legs: list[tuple[Floats, Floats, Floats]] = []
    swing = draws.uniform(0.0, 0.6) * np.where(draws.chance(0.5), 1, -1)
    for side in (-1, 1):
        forward = np.where(sits, draws.uniform(1.2, 1.6), side * swing + draws.uniform(-0.1, 0.1))
        outward = np.where(sits, draws.uniform(0.0, 0.3), draws.uniform(0.0, 0.15))
        bend = np.where(sits, draws.uniform(1.1, 1.6), draws.uniform(0.0, 0.5))
        hip = vector(side * 0.09 * girth, 0, 0)
        knee = hip + 0.43 * _direction(forward, outward, side)
        legs.append((hip, knee, knee + 0.41 * _direction(forward - bend, outward * 0.5, side)))
    # The pelvis is as high as the lower foot leaves it, so every pose stands on the ground.
    base = vector(0, 0.05 - np.minimum(legs[0][2][:, 1], legs[1][2][:, 1]), 0)
    for hip, knee, ankle in legs:
        parts.capsule(base + hip, base + knee, 0.08 * girth, trousers, part=UPPER_LEG)
        parts.capsule(base + knee, base + ankle, 0.055 * girth, shins, part=LOWER_LEG)
        parts.ellipsoid(base + ankle + vector(0, -0.01, 0.07), vector(0.05, 0.045, 0.13), shoes, part=LOWER_LEG)

    up = vector(0, np.cos(lean), np.sin(lean))
    parts.ellipsoid(base + 0.03 * up, vector(0.165 * girth, 0.12, 0.125 * girth), trousers, part=TORSO)
    parts.capsule(base + 0.1 * up, base + 0.36 * up, 0.14 * girth, shirt, part=TORSO)
    parts.capsule(
        base + 0.42 * up + vector(-0.12, 0, 0), base + 0.42 * up + vector(0.12, 0, 0), 0.09 * girth, shirt, part=TORSO
    )
    neck = base + 0.52 * up
    parts.capsule(base + 0.45 * up, neck, 0.055, skin, part=TORSO)
    head = neck + vector(draws.uniform(-0.03, 0.03), 0.13, 0.02 + draws.uniform(-0.02, 0.05))
    parts.ellipsoid(head, vector(0.092, 0.13, 0.108), skin, part=HEAD)
    parts.ellipsoid(
        head + vector(0, 0.035, -0.025), vector(0.104, 0.122, 0.108), hair, part=HEAD, keep=draws.chance(0.9)
    )
    parts.ellipsoid(head + vector(0, -0.01, 0.11), vector(0.018, 0.03, 0.025), skin, part=HEAD)

    for side in (-1, 1):
        raised = waves & draws.chance(0.7)
        forward = np.where(raised, draws.uniform(0.3, 3.0), draws.uniform(-0.5, 0.7) - side * swing * 0.7)
        outward = np.where(raised, draws.uniform(0.2, 1.2), draws.uniform(0.05, 0.5))
        bend = np.where(raised, draws.uniform(0.0, 1.4), draws.uniform(0.0, 1.1))
        shoulder = base + 0.43 * up + vector(side * 0.19 * girth, 0, 0)
        elbow = shoulder + 0.28 * _direction(forward, outward, side)
        wrist = elbow + 0.25 * _direction(forward + bend, outward * 0.6, side)
        parts.capsule(shoulder, elbow, 0.055 * girth, shirt, part=UPPER_ARM)
        parts.capsule(elbow, wrist, 0.043 * girth, sleeves, part=LOWER_ARM)
        parts.ellipsoid(wrist + 0.04 * (wrist - elbow) / 0.25, vector(0.045, 0.055, 0.045), skin, part=LOWER_ARM)
    return parts
