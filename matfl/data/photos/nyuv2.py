"""NYUv2: 1449 photographs of rooms with 40 classes and depth; normals and edges are derived from those.

Two forms hold the same: the repository of `matfl data fetch nyuv2` (pictures, mirrored, depth of 8 bits), and the
authors' `nyu_depth_v2_labeled.mat` (`matfl.data.photos.labelled_mat`). Both end in a `Raw`, of which all else is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from matfl.data.cache import DataError
from matfl.data.files import RESTORE, by_size, in_range
from matfl.data.photos.derive import boundaries, fill_strips, plane_normals
from matfl.data.pictures import open_picture

__all__ = ["COUNT", "SHAPE", "SIZE", "Nyuv2", "Pictures", "Raw", "Sample", "split_indices"]

COUNT = 1449
SHAPE = (480, 640)
"""Height and width of a photograph as it was taken, with its white frame."""
ROWS, COLUMNS = slice(45, 471), slice(41, 601)
"""What is left without the frame, in the official orientation."""
SIZE = (ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start)
"""Native height and width of what is trained and measured."""
UNLABELLED = 39
"""Class `otherprop`; `labels40` also has it wherever nothing was labelled, so it is ignored."""
WIDEST_STRIP = 6
"""Unlabelled strips up to so many pixels wide lie between objects and are no third region."""
FOCAL, CENTRE = (518.86, 519.47), (325.58, 253.74)
"""Of the colour camera, in pixels (the data set's toolbox)."""

_TRAIN = int(
    "fe1f0fc03e01807ffe67f0e3f030fff9f018800f03fe001c3ff8c1f07000f07f031981c0007f38038fe101007003fffce67f"
    "9c7f8ff1f0f83ffe018c3ff8ff871f8ff1ffffffff8fc0f1c000ff8fc1f07ff80000003fff3fc307ce01f8cc1e06073c79e7"
    "c0ffe0e783fc3f83f800038ff8e3c00207ffffffe00c1fff00f81fffc3ffe3c07ffff0033fff800fe31fc07fe03e3f7ffdff"
    "ffffc7f03c000007023ff8fffec20f8ffffff80787ff827f980007ec1efc",
    16,
)
"""Bit i is set when image i (from 0) is one of the 795 official training images (`trainNdxs` of the authors'
splits.mat; Silberman et al. 2012). The repository's own lists are another split."""


def split_indices(split_name: str) -> tuple[int, ...]:
    """Images of the official split, counted from 0: 795 of 'train', 654 of 'val' (the official test images)."""
    wanted = split_name == "train"
    return tuple(i for i in range(COUNT) if bool(_TRAIN >> i & 1) == wanted)


@dataclass(frozen=True, slots=True)
class Raw:
    """One photograph as the data set has it, in the official orientation, with its frame."""

    image_HW3: np.ndarray
    """uint8."""
    classes_HW: np.ndarray
    """uint8, 0 to 39: the 40-class label minus 1, and `UNLABELLED`."""
    depth_HW: np.ndarray
    """float32, metres."""


class Nyuv2(Protocol):
    """A form in which the data set lies on the disk."""

    @property
    def root(self) -> Path:
        """The folder."""

    def files(self, i: int) -> tuple[Path, ...]:
        """What image i is read from. Raises DataError for a file that is missing."""

    def raw(self, i: int) -> Raw:
        """Image i, validated."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The repository's form: everything is mirrored left to right, depth is 8 bits of 9.995 m."""

    root: Path

    def files(self, i: int) -> tuple[Path, ...]:
        """Photograph, depth and labels."""
        data = self.root / "data"
        paths = (data / f"nyu_images/{i}.jpg", data / f"nyu_depths/{i}.png", data / f"nyu_labels40/{i}.png")
        for path in paths:
            if not path.exists():
                raise DataError(f"{path} is missing: remove {self.root} and fetch again (`matfl data fetch nyuv2 DIR`)")
        return paths

    def raw(self, i: int) -> Raw:
        """Image i with its depth as (v + 0.5) / 255 * 9.995 m."""
        photograph, depth, classes = self.files(i)
        levels, labels = _picture(depth, "PNG", "L"), _picture(classes, "PNG", "L")
        in_range(classes, "class", labels, bool((labels <= UNLABELLED).all()), f"0 to {UNLABELLED}")
        metres = (levels + np.float32(0.5)) * np.float32(9.995 / 255)
        return Raw(_picture(photograph, "JPEG", "RGB")[:, ::-1], labels[:, ::-1], metres[:, ::-1])


_MODES = {"RGB": "three 8-bit channels", "L": "one 8-bit channel"}


def _picture(path: Path, form: str, mode: str) -> np.ndarray:
    picture = open_picture(path, formats=(form,), remedy=RESTORE)
    if picture.mode != mode:
        raise DataError(f"{path} is of mode {picture.mode}: expected {mode}, {_MODES[mode]}; {RESTORE}")
    if (picture.height, picture.width) != SHAPE:
        size = by_size((picture.height, picture.width))
        raise DataError(f"{path} is {size}: expected {by_size(SHAPE)}, height by width; {RESTORE}")
    return np.asarray(picture)


class Sample:
    """Image i of a form and its labels, without the frame, made when asked for."""

    size = SIZE

    def __init__(self, form: Nyuv2, i: int) -> None:
        self.form = form
        self.i = i

    @cached_property
    def raw(self) -> Raw:
        """What the labels are made of."""
        return self.form.raw(self.i)

    def image(self) -> np.ndarray:
        """uint8 (426, 560, 3)."""
        return _inside(self.raw.image_HW3)

    def label(self, task: str) -> np.ndarray:
        """'semseg' and 'edge' uint8, 'depth' float32 (426, 560), 'normals' float32 (3, 426, 560).

        Edges are boundaries of the class map after narrow unlabelled strips are closed; normals are fitted to the depth
        of the whole photograph, so that the frame's inside has no border effects.
        """
        if task == "semseg":
            return np.where(_inside(self.raw.classes_HW) == UNLABELLED, np.uint8(255), _inside(self.raw.classes_HW))
        if task == "depth":
            return _inside(self.raw.depth_HW)
        if task == "normals":
            return np.ascontiguousarray(plane_normals(self.raw.depth_HW, FOCAL, CENTRE)[:, ROWS, COLUMNS])
        return boundaries(_inside(fill_strips(self.raw.classes_HW, UNLABELLED, WIDEST_STRIP)))


def _inside(values_HW: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values_HW[ROWS, COLUMNS])
