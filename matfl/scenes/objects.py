"""One object a picture, in 16 classes: what a backbone is pre-trained on in place of ImageNet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matfl.scenes import furniture
from matfl.scenes.draws import Draws, Keys
from matfl.scenes.layout import daylight, look_at, sensor
from matfl.scenes.outdoor import THINGS, ground_look, open_ground
from matfl.scenes.parts import Primitives, material, vector
from matfl.scenes.scene import Scenes

__all__ = ["CLASSES", "build"]

_SHAPES = {
    **{name: (thing.build, thing.size, thing.height) for name, thing in THINGS.items()},
    "chair": (furniture.chair, 0.95, 0.95),
    "sofa": (furniture.sofa, 1.8, 0.85),
    "table": (furniture.table, 1.3, 0.7),
    "plant": (furniture.plant, 0.9, 0.9),
}
CLASSES = tuple(_SHAPES)


def build(keys: Keys) -> tuple[Scenes, NDArray[np.int64]]:
    """Scenes of B streams, each with one object, and its class (B,)."""
    draws = Draws(keys)
    classes = draws.choice([1] * len(CLASSES))
    tangent = np.tan(np.deg2rad(draws.uniform(30, 70)) / 2)
    size, height = (np.array([shape[k] for shape in _SHAPES.values()], np.float64)[classes] for k in (1, 2))
    far = size / (2 * tangent * draws.uniform(0.45, 0.95)) + size * 0.3
    across = draws.uniform(-0.35, 0.35) * tangent * far
    eye = height * draws.uniform(0.3, 1.6) + 0.2
    position = vector(0, eye, 0) + np.zeros((len(keys), 3))
    target = vector(0, height * 0.5 + draws.uniform(-0.2, 0.2) * tangent * far, far)
    yaw, scale = draws.uniform(-np.pi, np.pi), draws.uniform(0.9, 1.1)
    groups = []
    for number, (template, _, _) in enumerate(_SHAPES.values()):
        rows = np.nonzero(classes == number)[0]
        if len(rows):
            groups.append(
                template(draws.child(1000, rows)).place(
                    image=rows,
                    position=vector(across, 0, far)[rows],
                    yaw=yaw[rows],
                    scale=scale[rows],
                    instance=1 + 0 * rows,
                    label=number,
                )
            )
    paint = material(draws, frequency=(0.2, 3.0)).where(draws.chance(0.5), ground_look(draws.child(1)))
    scenes = Scenes(
        primitives=Primitives.concatenate(groups),
        position=position,
        basis=look_at(position, target, np.deg2rad(draws.uniform(-12, 12))),
        tangent=tangent,
        **open_ground(draws.child(3), paint),
        **daylight(draws.child(5), vector(0, 0, far)),
        **sensor(draws.child(6)),
    )
    return scenes, classes
