"""A data set of one's own and a seventh task, as a user would write them; `own_plugin` is the same as a plug-in.

Each picture is a slope of grey; `height` is a number at every pixel, unknown in a corner; `bright` is a map of two
classes. The labels follow from the picture, so they can be learned.
"""

import numpy as np

from matfl.data import from_arrays
from matfl.tasks.kinds import ClassMap, Quantity
from matfl.tasks.task import DOMAINS, TASKS, Domain


def arrays(n: int, seed: int, size: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 1, size)[None, None, :] * rng.uniform(0.3, 1, (n, 1, 1)) + np.zeros((n, size, 1))
    images = np.repeat(np.round(255 * slope).astype(np.uint8)[:, None], 3, axis=1)
    height = (2 + 3 * slope).astype(np.float32)
    height[:, :4, :4] = np.nan
    return {"images": images, "height": height, "bright": (slope > 0.4).astype(np.uint8)}


HEIGHT = Quantity(name="height", title="Height", unit="m", color="#882255")
BRIGHT = ClassMap(name="bright", title="Bright")


def forget() -> None:
    """Take them out again."""
    DOMAINS.remove("slopes")
    for task in (HEIGHT, BRIGHT):
        TASKS.remove(task.name)


def register(size: int = 32) -> Domain:
    """Make the two tasks and their domain known; the domain."""
    TASKS.register(HEIGHT)
    TASKS.register(BRIGHT)
    return DOMAINS.register(
        from_arrays("slopes", train=arrays(16, 0, size), val=arrays(4, 1, size), channels={"height": 1, "bright": 2})
    )
