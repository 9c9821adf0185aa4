"""Clothing Co-Parsing: 1004 photographs of one person each, with garments labelled; four tasks out of one map.

`semseg` merges the 58 labels into 12 classes by kind of garment, `human_parts` into 7 by place on the body (not
PASCAL-Part's: `skin` is face, arms and legs at once), `sal` is whatever has a label, `edge` is derived: boundaries of
the 12 classes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from matfl.data.cache import DataError
from matfl.data.files import RESTORE, by_size, in_range, read_mat
from matfl.data.photos.derive import boundaries
from matfl.data.pictures import open_picture, picture_size, rgb

__all__ = ["GARMENTS", "LABELS", "PARTS", "Sample", "files", "split_ids"]

LABELS = 59
"""Labels of the annotations, 0 the background."""
EMPTY = ("0536",)
"""Photographs whose annotation is empty: they are left out."""
EVERY = 5
"""Every fifth photograph is for validation (the publishers give no split)."""

GARMENTS: dict[str, tuple[int, ...]] = {
    "background": (0,),
    "skin": (41,),
    "hair": (19,),
    "top": (38, 5, 51, 54, 48, 49, 22, 26, 55, 6, 8),
    "outerwear": (13, 24, 4, 11, 10, 46),
    "dress": (14, 35, 50),
    "trousers": (31, 25, 27),
    "skirt and shorts": (42, 40),
    "legwear": (45, 53, 44),
    "footwear": (7, 12, 16, 21, 28, 32, 36, 39, 43, 58),
    "bag": (2, 33, 56),
    "accessories": (1, 3, 9, 15, 17, 18, 20, 23, 29, 30, 34, 37, 47, 52, 57),
}
"""Class of `semseg`, in order -> the annotations' labels that it merges."""

PARTS: dict[str, tuple[int, ...]] = {
    "head": (*GARMENTS["hair"], 20, 17, 47, 15),
    "bare skin": GARMENTS["skin"],
    "upper body": (*GARMENTS["top"], *GARMENTS["outerwear"]),
    "lower body": (*GARMENTS["trousers"], *GARMENTS["skirt and shorts"], *GARMENTS["legwear"]),
    "whole body": GARMENTS["dress"],
    "feet": GARMENTS["footwear"],
}
"""Class of `human_parts` from 1 on -> labels; the background and what is carried are 0."""


def split_ids(split_name: str) -> tuple[str, ...]:
    """Names of the photographs of 'train' (803) or 'val' (200): 'val' has those whose number divides by five."""
    names = (f"{i:04d}" for i in range(1, 1005) if (i % EVERY == 0) == (split_name == "val"))
    return tuple(name for name in names if name not in EMPTY)


def files(root: Path, name: str) -> tuple[Path, Path]:
    """Photograph and annotation. Raises DataError for one that is missing."""
    paths = root / f"photos/{name}.jpg", root / f"annotations/pixel-level/{name}.mat"
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is missing: remove {root} and fetch again (`matfl data fetch people DIR`)")
    return paths


class Sample:
    """A photograph and its labels, made when asked for."""

    def __init__(self, root: Path, name: str) -> None:
        self.photograph, self.annotation = files(root, name)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) by the photograph's header."""
        return picture_size(self.photograph, remedy=RESTORE, formats=("JPEG",))

    @cached_property
    def labels_HW(self) -> np.ndarray:
        """The annotation, uint8 of 0 to 58, at the photograph's size and not empty."""
        path = self.annotation
        labels = read_mat(path, "groundtruth")
        if labels.dtype.kind not in "uif" or labels.ndim != 2:
            raise DataError(f"{path}: groundtruth holds no map of labels: expected one number a pixel; {RESTORE}")
        fine = bool(((labels >= 0) & (labels < LABELS) & (labels % 1 == 0)).all())
        in_range(path, "label", labels, fine, f"whole numbers of 0 to {LABELS - 1}")
        if labels.shape != self.size:
            raise DataError(
                f"{path} is {by_size(labels.shape)} but {self.photograph.name} is {by_size(self.size)}: expected the "
                f"same; {RESTORE}"
            )
        if not labels.any():
            raise DataError(f"{path}: groundtruth is empty (0 everywhere): expected a person; {RESTORE}")
        return labels.astype(np.uint8)

    def image(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        picture = open_picture(self.photograph, formats=("JPEG",), remedy=RESTORE)
        return np.asarray(rgb(picture, self.photograph, RESTORE))

    def label(self, task: str) -> np.ndarray:
        """'semseg', 'human_parts', 'sal' or 'edge': uint8 (h, w)."""
        if task == "sal":
            return (self.labels_HW > 0).astype(np.uint8)
        if task == "human_parts":
            return _PARTS_BY_LABEL[self.labels_HW]
        garments = _GARMENTS_BY_LABEL[self.labels_HW]
        return garments if task == "semseg" else boundaries(garments)


def _by_label(classes: dict[str, tuple[int, ...]], first: int) -> np.ndarray:
    table = np.zeros(LABELS, np.uint8)
    for index, labels in enumerate(classes.values(), start=first):
        table[list(labels)] = index
    return table


_GARMENTS_BY_LABEL = _by_label(GARMENTS, 0)
_PARTS_BY_LABEL = _by_label(PARTS, 1)
