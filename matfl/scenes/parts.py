"""Building blocks of a scene: primitives with materials, collected for many instances of a template at once.

Everything here is float64 numpy on the CPU, batched over instances, and rounded to float32 when it is packed; so the
last bits of the mathematics library never reach a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matfl.scenes.draws import Draws, Floats

__all__ = [
    "BOX",
    "CAPSULE",
    "CYLINDER",
    "ELLIPSOID",
    "PATTERNS",
    "PLANE",
    "Material",
    "Parts",
    "Primitives",
    "hsv",
    "material",
    "vector",
    "yaw_frame",
]

PLANE, ELLIPSOID, BOX, CYLINDER, CAPSULE = range(5)
"""Kinds of primitive. All but the plane are closed and convex."""
PATTERNS = ("plain", "noise", "stripes", "checker", "dots", "bricks", "grid")
"""How a material mixes its two colours."""

Bools = NDArray[np.bool_]


def vector(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Floats:
    """Stack three broadcastable components into (..., 3)."""
    return np.stack(np.broadcast_arrays(*(np.asarray(c, np.float64) for c in (x, y, z))), axis=-1)


def yaw_frame(yaw: ArrayLike) -> Floats:
    """Rotation about the vertical as (..., 3, 3), rows = local axes in the world; yaw 0 faces +z, 90 degrees +x."""
    yaw = np.asarray(yaw, np.float64)
    cos, sin, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    return np.stack([vector(cos, zero, -sin), vector(zero, one, zero), vector(sin, zero, cos)], axis=-2)


def hsv(hue: ArrayLike, saturation: ArrayLike, value: ArrayLike) -> Floats:
    """Linear RGB (..., 3) of a hue (turns), saturation and value in [0, 1]."""
    hue, saturation, value = np.broadcast_arrays(*(np.asarray(c, np.float64) for c in (hue, saturation, value)))
    shift = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    ramp = np.clip(np.minimum(shift, 4 - shift), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * ramp)


@dataclass(frozen=True, kw_only=True)
class Material:
    """Surface appearance of n instances."""

    colour: Floats
    """(n, 3), linear RGB in [0, 1]."""
    second: Floats
    """(n, 3), the pattern's other colour."""
    pattern: NDArray[np.int64]
    """(n,), index into PATTERNS."""
    frequency: Floats
    """(n,), cycles of the pattern a metre."""
    mottle: Floats
    """(n,), relative amplitude of the noise on the albedo."""
    gloss: Floats
    """(n,), strength of the highlight."""

    def tinted(self, factor: float | Floats) -> Material:
        """The same material, darker or lighter by a factor (broadcast to (n, 1))."""
        return replace(self, colour=np.clip(self.colour * factor, 0, 1), second=np.clip(self.second * factor, 0, 1))

    def where(self, mask: Bools, other: Material) -> Material:
        """This material where `mask` (n,), the other elsewhere."""
        return Material(
            **{
                f.name: np.where(
                    mask.reshape(-1, *[1] * (getattr(self, f.name).ndim - 1)),
                    getattr(self, f.name),
                    getattr(other, f.name),
                )
                for f in fields(self)
            }
        )


def material(
    draws: Draws,
    *,
    hue: tuple[float, float] = (0, 1),
    saturation: tuple[float, float] = (0, 0.9),
    value: tuple[float, float] = (0.12, 0.9),
    patterns: Sequence[float] = (4, 3, 2, 1.5, 1, 0.7, 0.7),
    frequency: tuple[float, float] = (1.5, 9.0),
    mottle: float = 0.6,
    gloss: float = 0.3,
) -> Material:
    """A random material a row. Ranges are uniform but the frequency's, whose logarithm is; `patterns` are weights."""
    first = hsv(draws.uniform(*hue) % 1, draws.uniform(*saturation), draws.uniform(*value))
    # The second colour is either a shade of the first or drawn afresh, so that patterns differ in contrast.
    other = hsv(draws.uniform(*hue) % 1, draws.uniform(*saturation), draws.uniform(*value))
    shade = np.clip(first * draws.uniform(0.45, 1.7)[:, None], 0, 1)
    return Material(
        colour=first,
        second=np.where(draws.chance(0.5)[:, None], other, shade),
        pattern=draws.choice(patterns),
        frequency=frequency[0] * (frequency[1] / frequency[0]) ** draws.uniform(),
        mottle=draws.uniform(0.1, 1.0) * mottle,
        gloss=np.where(draws.chance(0.4), draws.uniform(0, 1.0) * gloss, 0.0),
    )


@dataclass(frozen=True, kw_only=True)
class Primitives:
    """Flat arrays over primitives; the first axis is the primitive."""

    image: NDArray[np.int64]
    kind: NDArray[np.int64]
    centre: Floats
    """(P, 3), metres, world."""
    frame: Floats
    """(P, 3, 3), rows = local axes in the world."""
    half: Floats
    """(P, 3), half extents in metres; for a capsule its radius, three times."""
    length: Floats
    """(P,), a capsule's half length over its radius, else 0."""
    instance: NDArray[np.int64]
    """Identity in the image: what edges and saliency tell apart."""
    label: NDArray[np.int64]
    part: NDArray[np.int64]
    salient: Bools
    """May be the dominant object."""
    colour: Floats
    second: Floats
    pattern: NDArray[np.int64]
    frequency: Floats
    mottle: Floats
    gloss: Floats
    offset: Floats
    """(P, 3), shift of the texture, cycles."""

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: NDArray) -> Primitives:
        """Some of the primitives, by index or mask."""
        return Primitives(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(groups: Sequence[Primitives]) -> Primitives:
        """One list out of several."""
        return Primitives(**{f.name: np.concatenate([getattr(g, f.name) for g in groups]) for f in fields(Primitives)})


class Parts:
    """Primitives of n instances of one template, in the instance's frame: metres, y up, facing +z, on the ground."""

    def __init__(self, draws: Draws) -> None:
        self.n = len(draws)
        self._draws = draws
        self._rows: list[dict[str, NDArray]] = []

    def _add(
        self,
        kind: int,
        centre: Floats,
        half: Floats,
        look: Material,
        *,
        frame: Floats | None = None,
        length: ArrayLike = 0.0,
        part: int = 0,
        keep: ArrayLike = True,
    ) -> None:
        n = self.n
        self._rows.append(
            {
                "kind": np.full(n, kind),
                "centre": np.broadcast_to(centre, (n, 3)),
                "half": np.broadcast_to(half, (n, 3)),
                "frame": np.broadcast_to(np.eye(3) if frame is None else frame, (n, 3, 3)),
                "length": np.broadcast_to(np.asarray(length, np.float64), (n,)),
                "part": np.full(n, part),
                "keep": np.broadcast_to(keep, (n,)),
                "offset": self._draws.uniform(0, 16, 3),
                **{f.name: getattr(look, f.name) for f in fields(look)},
            }
        )

    def box(
        self,
        centre: Floats,
        half: Floats,
        look: Material,
        *,
        frame: Floats | None = None,
        part: int = 0,
        keep: ArrayLike = True,
    ) -> None:
        """An oriented box."""
        self._add(BOX, centre, half, look, frame=frame, part=part, keep=keep)

    def ellipsoid(
        self,
        centre: Floats,
        half: Floats,
        look: Material,
        *,
        frame: Floats | None = None,
        part: int = 0,
        keep: ArrayLike = True,
    ) -> None:
        """An ellipsoid with the given half axes."""
        self._add(ELLIPSOID, centre, half, look, frame=frame, part=part, keep=keep)

    def cylinder(
        self, start: Floats, end: Floats, radius: ArrayLike, look: Material, *, part: int = 0, keep: ArrayLike = True
    ) -> None:
        """A solid cylinder between the centres of its two discs."""
        frame, span = _along(np.broadcast_to(end - start, (self.n, 3)))
        radius = np.broadcast_to(np.asarray(radius, np.float64), span.shape)
        self._add(
            CYLINDER, (start + end) / 2, vector(radius, span / 2, radius), look, frame=frame, part=part, keep=keep
        )

    def capsule(
        self, start: Floats, end: Floats, radius: ArrayLike, look: Material, *, part: int = 0, keep: ArrayLike = True
    ) -> None:
        """All points within `radius` of a segment."""
        frame, span = _along(np.broadcast_to(end - start, (self.n, 3)))
        radius = np.broadcast_to(np.asarray(radius, np.float64), span.shape)
        self._add(
            CAPSULE,
            (start + end) / 2,
            vector(radius, radius, radius),
            look,
            frame=frame,
            length=span / 2 / radius,
            part=part,
            keep=keep,
        )

    def place(
        self,
        *,
        image: NDArray,
        position: Floats,
        yaw: ArrayLike,
        scale: ArrayLike,
        instance: NDArray,
        label: ArrayLike,
        salient: ArrayLike = False,
    ) -> Primitives:
        """Scale, turn about the vertical and move every instance; arguments are (n,) or scalar, position (n, 3)."""
        count = len(self._rows)
        rows = {key: np.stack([row[key] for row in self._rows], axis=1) for key in self._rows[0]}
        keep = rows.pop("keep").reshape(-1)
        turn = np.broadcast_to(yaw_frame(yaw), (self.n, 3, 3))
        scale = np.broadcast_to(np.asarray(scale, np.float64), (self.n,))[:, None]
        rows["centre"] = position[:, None] + np.einsum("nmk,nkj->nmj", rows["centre"], turn) * scale[..., None]
        rows["frame"] = np.einsum("nmik,nkj->nmij", rows["frame"], turn)
        rows["half"] = rows["half"] * scale[..., None]
        rows["frequency"] = rows["frequency"] / scale
        rows["image"], rows["instance"], rows["label"], rows["salient"] = (
            np.broadcast_to(np.asarray(value).reshape(-1, 1), (self.n, count))
            for value in (image, instance, label, salient)
        )
        return Primitives(**{k: v.reshape(self.n * count, *v.shape[2:])[keep] for k, v in rows.items()})


def _along(direction: Floats) -> tuple[Floats, Floats]:
    """Frame whose second axis is the direction, and its length. direction (..., 3)."""
    span = np.sqrt((direction**2).sum(-1))
    axis = direction / span[..., None]
    upright = np.abs(axis[..., 2:3]) > 0.9
    side = np.cross(axis, np.where(upright, np.array([1.0, 0, 0]), np.array([0, 0, 1.0])))
    side /= np.sqrt((side**2).sum(-1, keepdims=True))
    return np.stack([side, axis, np.cross(side, axis)], axis=-2), span
