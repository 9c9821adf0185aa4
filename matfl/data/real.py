"""Splits of the data sets on disk, decoded into the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from matfl.data.decode import DECODING_VERSION, Sample
from matfl.data.layouts import FILES, Layout, locate
from matfl.data.split import Split
from matfl.tasks.task import Domain

__all__ = ["load_real"]

CHUNK = 8
"""Images decoded at once by a process."""
SECONDS = 0.05
"""Time to decode one image and its labels on one core, roughly."""


def load_real(
    domain: Domain,
    split_name: str,
    *,
    count: int,
    size: tuple[int, int],
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Split:
    """A split of the domain's data set at network size (height, width), from the cache or decoded into it.

    `count` images at equal distances in the split file, or all for 0. Validation splits also keep their class-like
    labels at native size; other native labels are read from the data set when asked for.
    """
    layout = locate(domain.layout, data_dir)
    listed = layout.ids(split_name)
    if count > len(listed):
        raise DataError(
            f"{layout.split_file(split_name)} lists {len(listed)} ids but the config wants {count}: lower "
            f"images_{split_name}, or set it to 0 for all"
        )
    ids = listed if not count else tuple(listed[i * len(listed) // count] for i in range(count))
    tasks = tuple(domain.channels)
    key = {
        "layout": layout.kind,
        "size": size,
        "decoding": DECODING_VERSION,
        "native": split_name == "val",
        "tasks": tasks,
        "files": _fingerprint(layout, ids),
    }
    folder = cache_folder(cache_dir) / f"{domain.name}-{split_name}-{size[0]}x{size[1]}-{key_hash(key)}"

    def fill(temporary: Path) -> Mapping[str, Any]:
        samples = [Sample(layout, name) for name in ids]
        sizes = np.array([sample.size for sample in samples], np.int64)
        np.save(temporary / "sizes.npy", sizes)
        flat = [f"native-{task}" for task in tasks if split_name == "val" and task not in MEASURED]
        specs = array_specs(tasks, len(ids), size)
        specs |= {name: ((int(sizes.prod(1).sum()),), np.uint8) for name in flat}
        if "human_parts" in tasks:
            specs["people"] = ((len(ids),), np.bool_)
        allocate(temporary, specs)
        starts = np.concatenate([[0], sizes.prod(1).cumsum()])
        chunks = [
            (temporary, layout, ids[i : i + CHUNK], i, starts[i : i + CHUNK], tuple(specs), size)
            for i in range(0, len(ids), CHUNK)
        ]
        in_parallel(
            _decode_chunk,
            chunks,
            processes=processes_for(len(ids) * SECONDS),
            total=len(ids),
            progress=progress,
            title=f"{domain.name}/{split_name}: decoding",
        )
        return {"key": key, "source": str(layout.root.absolute())}

    build_once(folder, fill)
    files = read_meta(folder)["files"]
    sizes = np.load(folder / "sizes.npy", allow_pickle=False)
    flat = {task: open_array(folder, f"native-{task}") for task in tasks if f"native-{task}.npy" in files}
    return Split(
        domain=domain,
        ids=ids,
        images=open_array(folder, "images"),
        labels={task: open_array(folder, task) for task in tasks},
        people=open_array(folder, "people") if "human_parts" in tasks else None,
        natives=RealNatives(layout, ids, sizes, np.concatenate([[0], sizes.prod(1).cumsum()]), flat),
    )


MEASURED = ("normals", "depth")
"""Labels of floating point numbers: too large to keep twice."""


@dataclass(frozen=True, slots=True)
class RealNatives:
    """Labels at native size: from ragged arrays in the cache, else decoded from the data set's files."""

    layout: Layout
    ids: tuple[str, ...]
    sizes: np.ndarray
    """(N, 2), height and width."""
    starts: np.ndarray
    """(N + 1,), where each image's pixels begin in a flat array."""
    flat: Mapping[str, np.ndarray]
    """Task -> the pixels of all images one after the other."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        height, width = self.sizes[i]
        return int(height), int(width)

    def label(self, task: str, i: int) -> np.ndarray:
        """Decoded label of image i. Raises DataError if its file has gone or changed its size since."""
        if task in self.flat:
            return np.array(self.flat[task][self.starts[i] : self.starts[i + 1]]).reshape(self.size(i))
        return np.require(Sample(self.layout, self.ids[i]).label(task), requirements="W")


def _fingerprint(layout: Layout, ids: Sequence[str]) -> str:
    """Hash of the names, sizes and modification times of all files that the images need. Missing ones are an error."""
    files = []
    for name in ids:
        for kind in FILES[layout.kind]:
            path = layout.file(kind, name)
            status = path.stat()
            files.append((str(path.relative_to(layout.root)), status.st_size, status.st_mtime_ns))
    return key_hash(files)


def _decode_chunk(
    folder: Path,
    layout: Layout,
    ids: Sequence[str],
    first: int,
    starts: np.ndarray,
    names: Sequence[str],
    size: tuple[int, int],
) -> Sequence[str]:
    """Decode some images into row `first` and on of the arrays `names` in `folder`."""
    arrays = {name: open_array(folder, name, write=True) for name in names}
    for i, (name, start) in enumerate(zip(ids, starts), start=first):
        sample = Sample(layout, name)
        arrays["images"][i] = resize_image(sample.image(), size)
        for task in (task for task in names if task not in ("images", "people") and not task.startswith("native-")):
            label = sample.label(task)
            arrays[task][i] = resize_normals(label, size) if label.ndim == 3 else resize_nearest(label, size)
            if f"native-{task}" in arrays:
                arrays[f"native-{task}"][start : start + label.size] = label.reshape(-1)
            if task == "human_parts":
                arrays["people"][i] = label.any()
    return ids


def resize_image(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing, the aspect ignored: uint8 (3, *size)."""
    picture = Image.fromarray(image_HW3).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


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
