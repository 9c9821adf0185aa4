"""Splits of pictures with labels at sizes of their own, decoded once into the cache: what readers of files share.

A reader lists ids and says how an image is opened; this brings everything to network size, keeps native labels for
validation, and checks what was decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from matfl.data.cache import (
    DataError,
    allocate,
    array_specs,
    build_once,
    cache_folder,
    in_parallel,
    key_hash,
    open_array,
    processes_for,
    read_meta,
)
from matfl.data.split import Split
from matfl.tasks.task import TASKS, Domain, Task

__all__ = [
    "FileNatives",
    "Opener",
    "Picture",
    "WithTruth",
    "load_decoded",
    "resize_image",
    "resize_label",
    "resize_lines",
    "resize_nearest",
    "resize_normals",
    "sound",
]

CHUNK = 8
"""Images decoded at once by a process."""
TRUTH_VERSION = 1
"""Part of the cache's key: raise it when the truth of any picture changes."""
SECONDS = 0.05
"""Time to decode one image and its labels on one core, roughly."""


class Picture(Protocol):
    """One image and its labels at native size, decoded when asked for. Every method may raise DataError."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), without decoding."""

    def image(self) -> np.ndarray:
        """uint8 (h, w, 3)."""

    def label(self, task: str) -> np.ndarray:
        """uint8 (h, w), float32 (h, w) or float32 (3, h, w), as `matfl.tasks.task` describes the task's targets."""


@runtime_checkable
class WithTruth(Protocol):
    """A picture whose answers are measured against something else than the label that trains."""

    def truth(self, task: str) -> np.ndarray | None:
        """What answers are measured against, in the form of the label (edges: `matfl.tasks.edges.truth`); None: it."""


def _truth(picture: Picture, task: str) -> np.ndarray | None:
    return picture.truth(task) if isinstance(picture, WithTruth) else None


Opener = Callable[[str], Picture]
"""id -> its picture. It travels to other processes, so it must pickle: `functools.partial` of a class will do."""


def load_decoded(
    domain: Domain,
    split_name: str,
    ids: Sequence[str],
    opener: Opener,
    *,
    size: tuple[int, int],
    key: Mapping[str, Any],
    cache_dir: str | Path | None = None,
    progress: bool = False,
    processes: int | None = None,
    source: str = "",
    complete: bool = False,
) -> Split:
    """A split of the images `ids` at network size (height, width), from the cache or decoded into it.

    Validation splits also keep their class-like labels at native size, and what answers are measured against where that
    is something else (`WithTruth`); other native labels are decoded again when asked for. `key` (JSON) holds all that
    decides the arrays beside domain, split, ids and size: the files' fingerprint, the decoder's version. `processes`
    decode side by side (default: as many as pay); `source` is noted in the cache.
    `complete`: keep every native label, so that pictures are opened once and for all.
    """
    tasks = tuple(domain.channels)
    everything = {
        **key,
        "size": size,
        "native": split_name == "val",
        "truth": TRUTH_VERSION,
        "tasks": tasks,
        "ids": key_hash(list(ids)),
    }
    folder = cache_folder(cache_dir) / f"{domain.name}-{split_name}-{size[0]}x{size[1]}-{key_hash(everything)}"

    def fill(temporary: Path) -> Mapping[str, Any]:
        sizes = np.array([opener(name).size for name in ids], np.int64)
        np.save(temporary / "sizes.npy", sizes)
        specs = array_specs(tasks, len(ids), size)
        for kind in (TASKS[task] for task in tasks if split_name == "val"):
            measured = kind.target_dtype.is_floating_point
            if complete or not measured:
                length = int(sizes.prod(1).sum()) * (kind.target_channels or 1)
                specs[f"native-{kind.name}"] = ((length,), np.float32 if measured else np.uint8)
        first = opener(ids[0])
        specs |= {
            f"truth-{task}": specs[f"native-{task}"]
            for task in tasks
            if f"native-{task}" in specs and _truth(first, task) is not None
        }
        specs |= {f"counts-{task}": ((len(ids),), np.bool_) for task in tasks if TASKS[task].selective}
        allocate(temporary, specs)
        starts = np.concatenate([[0], sizes.prod(1).cumsum()])
        chunks = [
            (temporary, opener, ids[i : i + CHUNK], i, starts[i : i + CHUNK], tasks, tuple(specs), size)
            for i in range(0, len(ids), CHUNK)
        ]
        in_parallel(
            _decode_chunk,
            chunks,
            processes=processes or processes_for(len(ids) * SECONDS),
            total=len(ids),
            progress=progress,
            title=f"{domain.name}/{split_name}: decoding",
        )
        for task in tasks if complete else ():
            if problem := TASKS[task].implausible(open_array(temporary, task)):
                raise DataError(f"{split_name} of domain {domain.name!r}, {task}: {problem}")
        return {"key": everything, "source": source}

    build_once(folder, fill)
    files = read_meta(folder)["files"]
    sizes = np.load(folder / "sizes.npy", allow_pickle=False)
    flat = {
        name: open_array(folder, name)
        for name in (f"{kind}-{task}" for kind in ("native", "truth") for task in tasks)
        if f"{name}.npy" in files
    }
    return Split(
        domain=domain,
        ids=tuple(ids),
        images=open_array(folder, "images"),
        labels={task: open_array(folder, task) for task in tasks},
        counted={task: open_array(folder, f"counts-{task}") for task in tasks if f"counts-{task}.npy" in files},
        class_names=domain.class_names,
        natives=FileNatives(opener, tuple(ids), sizes, np.concatenate([[0], sizes.prod(1).cumsum()]), flat),
    )


@dataclass(frozen=True, slots=True)
class FileNatives:
    """Labels and truth at native size: from ragged arrays in the cache, else decoded again."""

    opener: Opener
    ids: tuple[str, ...]
    sizes: np.ndarray
    """(N, 2), height and width."""
    starts: np.ndarray
    """(N + 1,), where each image's pixels begin in a flat array."""
    flat: Mapping[str, np.ndarray]
    """'native-TASK' or 'truth-TASK' -> the pixels of all images one after the other."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        height, width = self.sizes[i]
        return int(height), int(width)

    def label(self, task: str, i: int) -> np.ndarray:
        """Decoded label of image i. Raises DataError if its file has gone or changed its size since."""
        kept = self._kept(f"native-{task}", i)
        return np.require(self.opener(self.ids[i]).label(task), requirements="W") if kept is None else kept

    def truth(self, task: str, i: int) -> np.ndarray:
        """What answers on image i are measured against; its label where the picture says nothing else."""
        kept = self._kept(f"truth-{task}", i)
        if kept is not None:
            return kept
        if f"native-{task}" in self.flat:  # a validation split: what has no truth kept has none of its own
            return self.label(task, i)
        own = _truth(self.opener(self.ids[i]), task)
        return self.label(task, i) if own is None else np.require(own, requirements="W")

    def _kept(self, name: str, i: int) -> np.ndarray | None:
        if name not in self.flat:
            return None
        channels = TASKS[name.partition("-")[2]].target_channels
        start, stop = (int(place) * (channels or 1) for place in self.starts[i : i + 2])
        return np.array(self.flat[name][start:stop]).reshape(*((channels,) if channels else ()), *self.size(i))


def sound(label: np.ndarray, task: Task, channels: int, where: str, remedy: str) -> np.ndarray:
    """`label`, if `Task.problem` finds nothing. Raises DataError naming `where` and `remedy`."""
    if problem := task.problem(label, channels):
        raise DataError(f"{where}: {problem}; {remedy}")
    return label


def _decode_chunk(
    folder: Path,
    opener: Opener,
    ids: Sequence[str],
    first: int,
    starts: np.ndarray,
    tasks: Sequence[str],
    names: Sequence[str],
    size: tuple[int, int],
) -> Sequence[str]:
    """Decode some images into row `first` and on of the arrays `names` in `folder`."""
    arrays = {name: open_array(folder, name, write=True) for name in names}
    for i, (name, start) in enumerate(zip(ids, starts), start=first):
        picture = opener(name)
        arrays["images"][i] = resize_image(picture.image(), size)
        for task in tasks:
            label = picture.label(task)
            arrays[task][i] = resize_label(label, size, TASKS[task])
            if f"native-{task}" in arrays:
                first_value = int(start) * (TASKS[task].target_channels or 1)
                arrays[f"native-{task}"][first_value : first_value + label.size] = label.reshape(-1)
            if f"truth-{task}" in arrays and (own := _truth(picture, task)) is not None:
                arrays[f"truth-{task}"][start : start + own.size] = own.reshape(-1)
            if TASKS[task].selective:
                arrays[f"counts-{task}"][i] = bool(TASKS[task].counts(torch.tensor(label)[None]))
    return ids


def resize_image(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing, the aspect ignored: uint8 (3, *size)."""
    picture = Image.fromarray(image_HW3).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def resize_label(label: np.ndarray, size: tuple[int, int], task: Task) -> np.ndarray:
    """A label at network size as its task wants it: directions blended, lines kept whole, else the nearest pixel."""
    if label.ndim == 3:
        return resize_normals(label, size)
    return resize_lines(label, size) if task.thin else resize_nearest(label, size)


def resize_lines(label_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The greatest label among the pixels that one of the result covers, so that thin lines stay lines: uint8.

    Of a boundary a pixel wide, the nearest pixels of an eighth of the size would keep one dot in eight. 255 is no
    label, and wins where it is alone. An axis that does not shrink takes the nearest pixel.
    """
    raised = label_HW + np.uint8(1)  # 255 becomes 0, the least
    for axis, (now, then) in enumerate(zip(label_HW.shape, size)):
        if then < now:
            raised = np.maximum.reduceat(raised, np.arange(then) * now // then, axis=axis)
        else:
            raised = raised.take(((np.arange(then) + 0.5) * now / then).astype(int), axis=axis)
    return raised - np.uint8(1)


def resize_nearest(label_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel's value: uint8 or float32 of shape `size`."""
    return np.asarray(Image.fromarray(label_HW).resize((size[1], size[0]), Image.Resampling.NEAREST))


def resize_normals(normals_3HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear blends of unit vectors, renormalised, where the nearest pixel has one: float32 (3, *size)."""
    if normals_3HW.shape[1:] == size:
        return normals_3HW
    blend = np.stack(
        [np.asarray(Image.fromarray(c).resize((size[1], size[0]), Image.Resampling.BILINEAR)) for c in normals_3HW]
    )
    known = resize_nearest(np.any(normals_3HW, axis=0).astype(np.uint8), size) == 1
    length = np.sqrt(blend[0] ** 2 + blend[1] ** 2 + blend[2] ** 2)
    return np.where(known & (length > 1e-6), blend / np.maximum(length, np.float32(1e-6)), np.float32(0))
