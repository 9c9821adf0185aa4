"""The embedded benchmark written as data sets in the real layouts, for the readers and for tools of others."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from matfl.data.cache import DataError, in_parallel, locked, processes_for
from matfl.data.decode import PERSON
from matfl.data.layouts import FOLDERS, Layout

__all__ = ["Made", "make"]

CHUNK = 16
SECONDS = 0.02
"""Time to render and write an image of 64x64 pixels with its labels on one core, roughly."""

DOMAIN = {"pascal": "outdoor", "nyud": "indoor"}
"""Layout -> the rendered domain that stands in for its data set."""

MOST = 999_999
"""Images of a split: an id of PASCAL has six digits."""

NOTE = "EMBEDDED.json"
"""Name of the file that says what a folder is."""

OTHER = 7
"""A category that is not a person's, for things without parts."""

PART_NAMES = {1: "head", 2: "torso", 3: "luarm", 4: "llarm", 5: "luleg", 6: "llleg"}
"""The part of PASCAL-Part that a class of human_parts is written as."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What `make` wrote."""

    folders: tuple[str, ...]
    counts: dict[str, int]
    """'<folder>/<split>' -> images."""


def make(
    folder: str | Path,
    *,
    train: int = 200,
    val: int = 40,
    size: int = 64,
    seed: int = 0,
    variant: Literal["mt", "fedhca2"] = "mt",
    progress: bool = False,
) -> Made:
    """Write the outdoor scenes as PASCAL_MT/ and the indoor scenes as NYUD_MT/ into `folder`.

    Variant 'fedhca2' writes PASCALContext/ and NYUDv2/ with that project's png files. Image i of a split is that of
    `matfl.scenes.render` with the same `seed` and `size`; nothing is lost but what jpg and 8-bit normals lose. Each
    folder appears when it is whole; EMBEDDED.json in it says what it is. What a killed call left is removed, and a
    folder that it finished is kept; the files are the same byte for byte.

    Raises DataError when another folder is there already, another process writes here, or the disk refuses.
    """
    if variant not in ("mt", "fedhca2"):
        raise ValueError(f"variant {variant!r}: choose 'mt' or 'fedhca2'")
    if not (1 <= train <= MOST and 1 <= val <= MOST):
        raise ValueError(f"train={train}, val={val}: each split needs 1 to {MOST} images")
    if not 16 <= size <= 8192:
        raise ValueError(f"size={size}: choose 16 to 8192 pixels")
    base = Path(folder).expanduser()
    counts = {"train": train, "val": val}
    wanted = {
        base / names[variant == "fedhca2"]: _facts(kind, counts, size, seed, variant) for kind, names in FOLDERS.items()
    }
    try:
        base.mkdir(parents=True, exist_ok=True)
        lock = base / ".make.lock"
        with locked(lock, wait=False):
            try:
                missing = [target for target, facts in wanted.items() if not _there(target, facts)]
                for target in missing:
                    _make_folder(target, wanted[target], progress)
            finally:
                lock.unlink(missing_ok=True)
    except BlockingIOError:
        raise DataError(f"{base}: another process is writing data sets here; wait for it") from None
    except OSError as error:
        raise DataError(f"{base}: cannot write ({error}); free space or choose another folder") from error
    return Made(
        folders=tuple(map(str, wanted)),
        counts={f"{target.name}/{split_name}": counts[split_name] for target in wanted for split_name in counts},
    )


def _facts(kind: str, counts: Mapping[str, int], size: int, seed: int, variant: str) -> dict[str, Any]:
    """What decides a folder's files, as EMBEDDED.json in it says."""
    from matfl.scenes import VERSION

    return {
        "what": f"rendered {DOMAIN[kind]} scenes of matfl in the {kind} layout, no photographs",
        "layout": kind,
        "variant": variant,
        "seed": seed,
        "size": size,
        "images": dict(counts),
        "scenes_version": VERSION,
    }


def _there(target: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the folder was made, by an earlier call. Raises DataError when it is another."""
    if not os.path.lexists(target):
        return False
    try:
        if json.loads((target / NOTE).read_text(encoding="utf-8")) == facts:
            return True
    except (OSError, ValueError, RecursionError):
        pass
    raise DataError(f"{target} is there already: remove it, or choose another folder to write to")


def _make_folder(target: Path, facts: Mapping[str, Any], progress: bool) -> None:
    for stale in target.parent.glob(f".{target.name}.make-*"):
        shutil.rmtree(stale)
    temporary = target.with_name(f".{target.name}.make-{uuid.uuid4().hex}")
    try:
        for split_name in facts["images"]:
            _write_split(Layout(facts["layout"], temporary), split_name, facts, progress)
        (temporary / NOTE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        os.sync()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(layout: Layout, split_name: str, facts: Mapping[str, Any], progress: bool) -> None:
    count, train = facts["images"][split_name], facts["images"]["train"]
    size, seed, variant = facts["size"], facts["seed"], facts["variant"]
    if layout.kind == "pascal":
        ids = [f"{2008 if split_name == 'train' else 2009}_{i + 1:06d}" for i in range(count)]
    else:
        ids = [f"{i + 1 + (train if split_name == 'val' else 0):04d}" for i in range(count)]
    in_parallel(
        _write_chunk,
        [(layout, split_name, ids[i : i + CHUNK], i, size, seed, variant) for i in range(0, count, CHUNK)],
        processes=processes_for(count * SECONDS * (size / 64) ** 2),
        total=count,
        progress=progress,
        title=f"{layout.kind}/{split_name}: writing",
    )
    path = layout.split_file(split_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")


def _write_chunk(
    layout: Layout, split_name: str, ids: Sequence[str], first: int, size: int, seed: int, variant: str
) -> Sequence[str]:
    from matfl import scenes

    indices = range(first, first + len(ids))
    rendered = scenes.render(DOMAIN[layout.kind], split_name, indices, seed=seed, size=size, regions=True)
    for i, name in enumerate(ids):
        labels = {task: tensor[i].numpy() for task, tensor in rendered.items()}
        if layout.kind == "pascal":
            _write_pascal(layout.root, name, labels, "VOC12" if (first + i) % 2 == 0 else "pascal-context")
        else:
            _write_nyud(layout.root, name, labels, png=variant == "fedhca2")
    return ids


def _write_pascal(root: Path, name: str, labels: Mapping[str, np.ndarray], semseg_folder: str) -> None:
    _save_image(root / f"JPEGImages/{name}.jpg", labels["image"].transpose(1, 2, 0))
    _save_palette(root / f"semseg/{semseg_folder}/{name}.png", labels["semseg"])
    _save_image(root / f"sal_distill/{name}.png", labels["sal"] * np.uint8(255))
    _save_image(root / f"normals_distill/{name}.png", _normals_8bit(labels["normals"]))
    for path, variables in (
        (root / f"pascal-context/trainval/{name}.mat", {"LabelMap": labels["regions"].astype(np.uint16)}),
        (root / f"human_parts/{name}.mat", {"anno": _anno(name, labels["regions"], labels["human_parts"])}),
    ):
        _save_mat(path, variables)


def _write_nyud(root: Path, name: str, labels: Mapping[str, np.ndarray], *, png: bool) -> None:
    _save_image(root / f"images/{name}.{'png' if png else 'jpg'}", labels["image"].transpose(1, 2, 0))
    semseg = labels["semseg"]
    _save_image(root / f"segmentation/{name}.png", semseg + np.uint8(1))  # 255, without a label, wraps to 0
    _save_array(root / f"depth/{name}.npy", labels["depth"])
    if png:
        _save_image(root / f"edge/{name}.png", labels["edge"] * np.uint8(255))
        _save_image(root / f"normals/{name}.png", _normals_8bit(labels["normals"]))
    else:
        _save_array(root / f"edge/{name}.npy", labels["edge"].astype(np.float32))
        _save_array(root / f"normals/{name}.npy", labels["normals"].transpose(1, 2, 0))


def _anno(name: str, regions_HW: np.ndarray, parts_HW: np.ndarray) -> np.ndarray:
    """The nested MATLAB structs of PASCAL-Part: one object a region, persons with a part for each class they show."""
    things = []
    for region in np.unique(regions_HW):
        mask = regions_HW == region
        shown = [group for group in PART_NAMES if (mask & (parts_HW == group)).any()]
        parts = [(PART_NAMES[group], (mask & (parts_HW == group)).astype(np.uint8)) for group in shown]
        things.append(
            (
                "person" if parts else "thing",
                PERSON if parts else OTHER,
                mask.astype(np.uint8),
                _structs(("part_name", "mask"), parts),
            )
        )
    return _structs(("imname", "objects"), [(name, _structs(("class", "class_ind", "mask", "parts"), things))])


def _structs(names: Sequence[str], rows: Sequence[tuple[object, ...]]) -> np.ndarray:
    """A 1xn MATLAB struct array; without rows the empty matrix that MATLAB leaves there."""
    if not rows:
        return np.zeros((0, 0))
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        for name, value in zip(names, row):
            array[name][0, i] = value
    return array


def _normals_8bit(normals_3HW: np.ndarray) -> np.ndarray:
    """255 (v + 1) / 2, rounded: uint8 (h, w, 3)."""
    return np.round(127.5 * (normals_3HW.transpose(1, 2, 0) + 1)).astype(np.uint8)


def _save_image(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_picture(path, Image.fromarray(np.ascontiguousarray(values)))


def _save_picture(path: Path, picture: Image.Image) -> None:
    """Through memory: writing itself, Pillow's JPEG encoder takes a full disk for the end of its work."""
    buffer = BytesIO()
    if path.suffix == ".jpg":
        picture.save(buffer, "JPEG", quality=97, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def _save_palette(path: Path, values: np.ndarray) -> None:
    """Class indices as a palette picture in the colours of PASCAL VOC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(values))
    picture.putpalette(
        [
            sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(3))
            for index in range(256)
            for channel in range(3)
        ]
    )
    _save_picture(path, picture)


def _save_mat(path: Path, variables: Mapping[str, np.ndarray]) -> None:
    """A MATLAB 5 file whose description (its first 116 bytes) does not say when it was written."""
    from scipy.io import savemat

    file = BytesIO()
    savemat(file, dict(variables), do_compression=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"MATLAB 5.0 MAT-file, written by matfl".ljust(116) + file.getvalue()[116:])


def _save_array(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(values))
    path.write_bytes(buffer.getvalue())
