"""A place for examples: presets of a second each, a run store of its own, and registries left as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from tiny import TINY

import matfl
from matfl.config.run_config import PRESETS
from matfl.models.backbone import BACKBONES


@contextmanager
def small_place(folder: Path) -> Iterator[Path]:
    """Within, `folder` is the current one, holds picture.png and the run store, and every preset is `TINY`."""
    registries = (matfl.METHODS, matfl.TASKS, matfl.DOMAINS, BACKBONES)
    before = [set(registry) for registry in registries]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MATFL_RUNS", str(folder / "runs"))
        for name in PRESETS:
            patch.setitem(PRESETS, name, lambda: TINY)
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / "picture.png")
        yield folder
    plt.close("all")
    for registry, known in zip(registries, before):
        for name in set(registry) - known:
            registry.remove(name)
