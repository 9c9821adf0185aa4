"""The embedded benchmark: two domains of procedurally rendered scenes with exact labels, and objects to pre-train on.

**outdoor**, in the role of PASCAL-Context: semseg, human_parts, sal, normals, edge. **indoor**, in the role of NYUD:
semseg, normals, edge, depth. Every picture is a function of (seed, domain, split, index) alone.

Conventions. Normals are unit vectors in the camera's frame: x to the right of the picture, y down it, z towards the
camera; zero in the sky. (`matfl.data.augment` turns normals with the picture and counts on that.) Depth is in metres
along the camera's axis. The boundaries of regions (objects one by one, the sky, the ground, each wall) are the edges:
`matfl.scenes.labels.edges` has the rule, `saliency` that of the dominant object. Trees, houses and lamps are scenery:
they are never dominant. human_parts is all zero in a picture without a person. The domains count their own classes, 13
each; outdoors 0 is background, which counts, and indoors every pixel has a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matfl.scenes import indoor, objects, outdoor
from matfl.scenes.draws import Keys, stream_keys
from matfl.scenes.labels import edges, raster, saliency
from matfl.scenes.people import PART_NAMES
from matfl.scenes.scene import Scenes, pack, pick
from matfl.scenes.shading import shade
from matfl.scenes.tracing import dot, on_device, primary

__all__ = ["CLASS_NAMES", "OBJECT_CLASSES", "PART_NAMES", "REGION_IDS", "VERSION", "edges", "render", "render_objects"]

VERSION = 3
"""Raised whenever pictures or labels change: part of every cache key."""
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "outdoor": outdoor.CLASSES,
    "indoor": indoor.CLASSES,
    "objects": objects.CLASSES,
}
"""Names of the semseg values of each domain, and of the classes of `render_objects`."""
OBJECT_CLASSES = len(objects.CLASSES)
REGION_IDS = (1, 3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39)
"""Values of region maps: the sky, then the other regions, numbered as classes of PASCAL-Context that have normals."""

_BUILDERS: dict[str, Callable[[Keys], Scenes]] = {"outdoor": outdoor.build, "indoor": indoor.build}
_TASKS = {
    "outdoor": ("semseg", "human_parts", "sal", "normals", "edge"),
    "indoor": ("semseg", "normals", "edge", "depth"),
}
_SPLITS = ("train", "val")
_CPU_LIMITS, _ACCELERATOR_LIMITS = (256, 1 << 17), (1024, 1 << 22)
"""Scenes built at once: enough to make numpy's overhead small. Pixels traced at once: few enough for the cache of a
processor and 500 MB of memory."""


def _indices(indices: Iterable[int] | Tensor | NDArray, size: int, seed: int) -> NDArray[np.int64]:
    given = np.asarray(indices if isinstance(indices, Tensor | np.ndarray) else list(indices))
    if given.ndim != 1 or not given.size or not np.issubdtype(given.dtype, np.integer) or (given < 0).any():
        raise ValueError("indices: give a flat sequence of integers >= 0, one a picture, at least one")
    if not isinstance(size, int) or size < 16:
        raise ValueError(f"size={size!r}: choose an integer of at least 16 pixels")
    if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise ValueError(f"seed={seed!r}: choose an integer from 0 to 2**63 - 1")
    return given.astype(np.int64)


def _draw(scenes: Scenes, size: int, device: torch.device, wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """Pictures of some scenes with the labels `wanted` (or 'regions')."""
    table, tiles = pack(scenes, size, device)
    hits = primary(scenes, table, tiles, size)
    result = {"image": raster(shade(scenes, table, hits, size), size)}

    def labels(column: Tensor) -> Tensor:
        return raster(torch.where(hits.sky, 0, pick(column, hits.row)).to(torch.uint8), size)

    regions = torch.tensor(REGION_IDS, dtype=torch.int16, device=device)
    for name in wanted:
        if name == "semseg":
            result[name] = labels(table.label)
        elif name == "human_parts":
            result[name] = labels(table.part)
        elif name == "sal":
            result[name] = saliency(labels(table.instance), labels(table.salient))
        elif name == "edge":
            result[name] = edges(regions[labels(table.instance).long()])
        elif name == "regions":
            result[name] = regions[labels(table.instance).long()]
        elif name == "depth":
            result[name] = raster(torch.where(hits.sky, 0.0, hits.depth), size)
        elif name == "normals":
            # Rows of the basis point right, up and away; normals are written right, down and towards the camera.
            axes = on_device(scenes.basis * np.array([1.0, -1.0, -1.0])[:, None], device)[..., None]
            camera = [dot((axis[:, 0], axis[:, 1], axis[:, 2]), hits.normal) for axis in axes.unbind(1)]
            result[name] = raster(torch.stack(camera, 1), size)
    return result


def render(
    domain: str,
    split: str,
    indices: Iterable[int] | Tensor | NDArray,
    *,
    seed: int = 0,
    size: int = 64,
    device: torch.device | str = "cpu",
    regions: bool = False,
) -> dict[str, Tensor]:
    """Render pictures of a domain with all their labels.

    Args:
        domain: 'outdoor' or 'indoor'.
        split: 'train' or 'val'; they share no scene.
        indices: which pictures, integers >= 0.
        seed: of the whole benchmark.
        size: side of the square pictures, pixels.
        device: where to render; results are returned there.
        regions: also return the region maps whose boundaries are the edges.

    Returns:
        'image' uint8 (B, 3, size, size) and one entry a task: semseg, human_parts, sal, edge uint8 (B, size, size);
        normals float32 (B, 3, size, size); depth float32 (B, size, size). With `regions`, 'regions' int16
        (B, size, size), values of `REGION_IDS`.

    Raises:
        ValueError: unknown domain or split, negative indices, a size under 16.
    """
    if domain not in _BUILDERS:
        raise ValueError(f"unknown rendered domain {domain!r}: choose from {', '.join(_BUILDERS)}")
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(_SPLITS)}")
    chosen = _indices(indices, size, seed)
    device = torch.device(device)
    wanted = _TASKS[domain] + (("regions",) if regions else ())
    stream = (seed, list(_BUILDERS).index(domain), _SPLITS.index(split))
    chunks = []
    for part in _portions(chosen, device):
        scenes = _BUILDERS[domain](stream_keys(*stream, part))
        chunks += [_draw(some, size, device, wanted) for some in _parts(scenes, size, device)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def render_objects(
    indices: Iterable[int] | Tensor | NDArray, *, seed: int = 0, size: int = 64, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Pictures of single objects, uint8 (B, 3, size, size), and their classes, int64 (B,) below OBJECT_CLASSES.

    Arguments and errors as for `render`.
    """
    chosen = _indices(indices, size, seed)
    device = torch.device(device)
    images, classes = [], []
    for part in _portions(chosen, device):
        scenes, labels = objects.build(stream_keys(seed, len(_BUILDERS), 0, part))
        images += [_draw(some, size, device, ())["image"] for some in _parts(scenes, size, device)]
        classes.append(torch.from_numpy(labels).to(device))
    return torch.cat(images), torch.cat(classes)


def _limits(device: torch.device) -> tuple[int, int]:
    return _CPU_LIMITS if device.type == "cpu" else _ACCELERATOR_LIMITS


def _portions(indices: NDArray[np.int64], device: torch.device) -> list[NDArray[np.int64]]:
    """The indices in portions that are built at once."""
    step = _limits(device)[0]
    return [indices[start : start + step] for start in range(0, len(indices), step)]


def _parts(scenes: Scenes, size: int, device: torch.device) -> Iterator[Scenes]:
    """The scenes in parts that are traced at once."""
    step = max(1, _limits(device)[1] // size**2)
    return (scenes.part(start, start + step) for start in range(0, len(scenes), step))
