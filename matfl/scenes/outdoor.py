"""Outdoor scenes, in the role of PASCAL-Context: ground and sky, people and eleven other classes of things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matfl.scenes import things
from matfl.scenes.draws import Draws, Floats, Keys
from matfl.scenes.layout import daylight, first_free, look_at, sensor, shell
from matfl.scenes.parts import Material, Parts, Primitives, material, vector
from matfl.scenes.people import HEIGHT, person
from matfl.scenes.scene import Scenes

__all__ = ["CLASSES", "THINGS", "Thing", "build", "ground_look", "open_ground"]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A template and the facts that placing it needs; lengths in metres."""

    build: Callable[[Draws], Parts]
    size: float
    """The greater of height and width: what apparent size is about."""
    height: float
    radius: float
    """Of the footprint."""
    bulk: float
    """Share of a square of side `size` that its picture fills, about."""
    scale: tuple[float, float] = (0.85, 1.15)
    """Range of the random scale."""
    leading: float = 0.0
    """Weight as the main object of a picture."""
    following: float = 1.0
    """Weight as another object."""
    salient: bool = True
    """Whether it may be the dominant object; scenery never is."""


THINGS: dict[str, Thing] = {
    "person": Thing(build=person, size=HEIGHT, height=HEIGHT, radius=0.4, bulk=0.17, leading=15, following=1.0),
    "dog": Thing(build=things.dog, size=0.9, height=0.7, radius=0.5, bulk=0.3, scale=(0.7, 1.3), leading=1),
    "horse": Thing(build=things.horse, size=2.2, height=2.0, radius=1.1, bulk=0.3, leading=1),
    "car": Thing(build=things.car, size=3.4, height=1.4, radius=2.0, bulk=0.3, leading=1),
    "tree": Thing(
        build=things.tree, size=3.2, height=3.2, radius=0.8, bulk=0.45, scale=(0.7, 1.6), following=2.2, salient=False
    ),
    "house": Thing(
        build=things.house, size=5.5, height=4.5, radius=3.5, bulk=0.6, scale=(0.8, 1.3), following=2.4, salient=False
    ),
    "bench": Thing(build=things.bench, size=1.5, height=0.9, radius=0.9, bulk=0.35, leading=1),
    "lamp": Thing(build=things.lamp, size=3.2, height=3.2, radius=0.3, bulk=0.05, salient=False),
    "sign": Thing(build=things.sign, size=2.2, height=2.2, radius=0.4, bulk=0.1, leading=0.7),
    "ball": Thing(build=things.ball, size=0.5, height=0.5, radius=0.3, bulk=0.78, scale=(0.6, 2.0), leading=0.7),
    "bin": Thing(build=things.bin, size=0.95, height=0.95, radius=0.4, bulk=0.6, leading=0.7),
    "plane": Thing(build=things.plane, size=5.0, height=1.4, radius=0.0, bulk=0.1, scale=(0.8, 1.4), following=0.8),
}
CLASSES = ("background", *THINGS)
"""Values of semseg; the ground, the sky and clutter are background."""

_SLOTS = 9
_TRIES = 6
_CLUTTER = 2
_GROUND, _ROAD, _HILL, _ROCK = _SLOTS + 1, _SLOTS + 2, _SLOTS + 3, _SLOTS + 5
"""Region names after the objects' 1..9; clutter takes two each."""


def _column(field: str) -> Floats:
    return np.array([getattr(thing, field) for thing in THINGS.values()], np.float64)


def ground_look(draws: Draws) -> Material:
    """Grass, soil, asphalt, sand, snow: any dull ground, mottled at the scale of metres."""
    natural = material(
        draws,
        hue=(0.05, 0.4),
        saturation=(0.05, 0.75),
        value=(0.12, 0.75),
        frequency=(0.15, 1.2),
        patterns=(2, 6, 1, 0.5, 0, 0.5, 0.5),
        mottle=1.0,
        gloss=0.1,
    )
    paved = material(draws, saturation=(0, 0.3), value=(0.12, 0.85), frequency=(0.2, 2.0), mottle=0.8, gloss=0.1)
    return natural.where(draws.chance(0.65), paved)


def open_ground(draws: Draws, look: Material) -> dict[str, Any]:
    """The ground plane, without walls, as fields of `Scenes`."""
    low, high = np.tile([-1e9, 0.0, -1e9], (len(draws), 1)), np.full((len(draws), 3), 1e9)
    planes = shell(
        draws, [look] * 6, low=low, high=high, yaw=draws.uniform(0, 2 * np.pi), label=[0] * 6, instance=[_GROUND] * 6
    )
    return {"shell": planes, "low": low, "high": high}


def _arrange(draws: Draws, tangent: Floats, eye: Floats) -> dict[str, NDArray]:
    """Class, scale, position and yaw of up to nine objects, arrays (B, slots); slot 0 leads and is never hidden."""
    b = len(draws)
    size, height, radius, bulk = (_column(name) for name in ("size", "height", "radius", "bulk"))
    covered = np.zeros(b)
    scales = np.array([thing.scale for thing in THINGS.values()])
    scenic = np.array([not thing.salient for thing in THINGS.values()])
    plane, house, people = (list(THINGS).index(name) for name in ("plane", "house", "person"))
    kind, scale, active = np.zeros((b, _SLOTS), np.int64), np.ones((b, _SLOTS)), np.zeros((b, _SLOTS), bool)
    spot, radii, base = np.zeros((b, _SLOTS, 2)), np.full((b, _SLOTS), -1.0), np.zeros((b, _SLOTS))
    busy = draws.uniform(0.45, 1.0)
    for slot in range(_SLOTS):
        which = draws.choice(_column("following") if slot else _column("leading"))
        # A second person beside a leading one is common; elsewhere people are as rare as other things.
        beside = draws.chance(0.35) & (kind[:, 0] == people) & (slot == 1)
        which = np.where(beside, people, which)
        grown = draws.uniform(scales[which, 0], scales[which, 1])
        scenery = scenic[which]
        if slot == 0:
            share = np.where(which == people, draws.uniform(0.6, 1.25), draws.uniform(0.4, 0.8))
            covered = bulk[which] * share**2
        else:
            share = 0.15 * 4.5 ** draws.uniform()
            share = np.where(beside, draws.uniform(0.35, 0.9), share)
            share = np.where(scenery, share * 1.6, share)
            # Nothing but scenery comes near the leading object's area: there is one dominant object.
            share = np.where(scenery, share, np.minimum(share, np.sqrt(0.4 * covered / bulk[which])))
        reach = radius[which] * grown
        far = size[which] * grown / (2 * tangent * share)
        far = np.clip(far[:, None] * draws.uniform(0.8, 1.2, _TRIES), reach[:, None] + 0.8, 70.0)
        across = draws.uniform(-1, 1, _TRIES) * (0.45 if slot == 0 else 1.05) * tangent[:, None] * far
        candidates = np.stack([across, far], axis=-1)
        lead, lead_reach = spot[:, :1], radii[:, :1]
        before = far < lead[..., 1] + np.where(which == house, 8.0, 0.0)[:, None]
        gap = np.abs(across / far - lead[..., 0] / np.maximum(lead[..., 1], 0.1))
        hides = before & (gap < (reach[:, None] / far + lead_reach / np.maximum(lead[..., 1], 0.1)) * 0.75)
        aloft = which == plane
        allowed = (slot == 0) | ~hides | aloft[:, None]
        spot[:, slot], free = first_free(
            candidates, np.where(aloft, -1.0, reach), allowed, spot[:, :slot], radii[:, :slot]
        )
        kind[:, slot], scale[:, slot] = which, grown
        active[:, slot] = free & ((slot == 0) | (draws.uniform() < busy))
        radii[:, slot] = np.where(active[:, slot] & ~aloft, reach, -1.0)
        rise = eye + spot[:, slot, 1] * tangent * draws.uniform(0.15, 1.0)
        base[:, slot] = np.where(aloft, np.maximum(rise, 4.0), 0.0)
    # People mostly turn towards the camera's half space, other things any way.
    turn = draws.uniform(-np.pi, np.pi, _SLOTS)
    facing = np.where((kind == people) & draws.chance(0.7, _SLOTS), np.pi + 0.45 * turn, turn)
    return {
        "kind": kind,
        "scale": scale,
        "active": active,
        "spot": spot,
        "base": base,
        "yaw": facing,
        "height": height[kind] * scale,
    }


def _instances(draws: Draws, plan: dict[str, NDArray]) -> list[Primitives]:
    groups = []
    for number, thing in enumerate(THINGS.values()):
        image, slot = np.nonzero(plan["active"] & (plan["kind"] == number))
        if not len(image):
            continue
        spot = plan["spot"][image, slot]
        groups.append(
            thing.build(draws.child(slot + 1000, image)).place(
                image=image,
                position=vector(spot[:, 0], plan["base"][image, slot], spot[:, 1]),
                yaw=plan["yaw"][image, slot],
                scale=plan["scale"][image, slot],
                instance=slot + 1,
                label=number + 1,
                salient=thing.salient,
            )
        )
    return groups


def _clutter(draws: Draws, near: Floats, tangent: Floats) -> list[Primitives]:
    """A road or path, low hills and rocks: regions of their own, without a class. near (B,): distance of the lead."""
    groups = []
    every = np.arange(len(draws))

    road = Parts(draws.child(1))
    half = draws.uniform(0.6, 3.0)
    road.box(vector(0, 0, 0), vector(half, 0.012, 90.0), ground_look(draws.child(2)), keep=draws.chance(0.5))
    groups.append(
        road.place(
            image=every,
            position=vector(draws.uniform(-4, 4), 0, near + draws.uniform(-2, 8)),
            yaw=draws.uniform(-np.pi / 2, np.pi / 2),
            scale=1.0,
            instance=_ROAD + 0 * every,
            label=0,
        )
    )
    for number in range(_CLUTTER):
        hill = Parts(draws.child(10 + number))
        wide = draws.uniform(8, 30)
        away = near + wide + draws.uniform(6, 50)
        hill.ellipsoid(
            vector(0, 0, 0),
            vector(wide, draws.uniform(0.08, 0.3) * wide, wide * draws.uniform(0.5, 0.9)),
            ground_look(draws.child(20 + number)),
            keep=draws.chance(0.35),
        )
        groups.append(
            hill.place(
                image=every,
                position=vector(draws.uniform(-1, 1) * away * tangent, 0, away),
                yaw=0.0,
                scale=1.0,
                instance=_HILL + number + 0 * every,
                label=0,
            )
        )
        chosen = np.nonzero(draws.chance(0.4))[0]
        distance = near * draws.uniform(0.6, 2.5)
        across = draws.uniform(-1, 1) * tangent * distance
        if len(chosen):
            stones = things.rock(draws.child(30 + number, chosen))
            groups.append(
                stones.place(
                    image=chosen,
                    position=vector(across, 0, distance)[chosen],
                    yaw=0.0,
                    scale=(0.06 * distance + 0.2)[chosen],
                    instance=_ROCK + number + 0 * chosen,
                    label=0,
                )
            )
    return groups


def build(keys: Keys) -> Scenes:
    """Scenes of B streams."""
    draws = Draws(keys)
    tangent = np.tan(np.deg2rad(draws.uniform(36, 78)) / 2)
    eye = np.where(draws.chance(0.15), draws.uniform(2.2, 4.0), draws.uniform(0.6, 2.0))
    plan = _arrange(draws.child(1), tangent, eye)
    near = plan["spot"][:, 0, 1]
    # The camera looks at the leading object's middle, give or take a third of the picture.
    target = plan["height"][:, 0] * 0.5 + draws.uniform(-0.3, 0.3) * near * tangent
    position = vector(0, eye, 0) + np.zeros((len(keys), 3))
    basis = look_at(position, vector(0, target, near), np.deg2rad(draws.uniform(-9, 9)))
    primitives = Primitives.concatenate(_instances(draws, plan) + _clutter(draws.child(2), near, tangent))
    return Scenes(
        primitives=primitives,
        position=position,
        basis=basis,
        tangent=tangent,
        **open_ground(draws.child(3), ground_look(draws.child(4))),
        **daylight(draws.child(5), vector(0, 0, near)),
        **sensor(draws.child(6)),
    )
