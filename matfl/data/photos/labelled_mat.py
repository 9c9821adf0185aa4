"""NYUv2 as its authors publish it: `nyu_depth_v2_labeled.mat` (HDF5, 2.8 GB), and a map of its 894 labels to 40.

The map is a file of its own. The one in use is Gupta et al.'s (CVPR 2013), whose `classMapping40.mat` has it as
`mapClass`; a text file `classMapping40.txt` with 894 numbers of 1 to 40 does as well. Nothing is mirrored here, and
depth is in metres, in-filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matfl.data.cache import DataError
from matfl.data.files import RESTORE, in_range, read_mat, unreadable
from matfl.data.photos.nyuv2 import SHAPE, UNLABELLED, Raw

__all__ = ["FILE", "MAPPINGS", "LabelledMat"]

FILE = "nyu_depth_v2_labeled.mat"
MAPPINGS = ("classMapping40.mat", "classMapping40.txt")
LABELS = 894


@dataclass(frozen=True, slots=True)
class LabelledMat:
    """The official file in the folder `root`, with a mapping beside it."""

    root: Path

    def files(self, i: int) -> tuple[Path, ...]:
        """The file and its mapping, the same for every image."""
        return self.root / FILE, self.mapping

    @property
    def mapping(self) -> Path:
        """The file that maps 894 labels to 40. Raises DataError when there is none."""
        for name in MAPPINGS:
            if (self.root / name).exists():
                return self.root / name
        raise DataError(
            f"{self.root / MAPPINGS[0]} is missing: {FILE} has 894 labels, so a mapping to 40 classes is needed beside "
            f"it (variable mapClass; or {MAPPINGS[1]} with 894 numbers of 1 to 40)"
        )

    def raw(self, i: int) -> Raw:
        """Image i; whatever the mapping or the labels leave out is class `otherprop`, as in the repository's form."""
        path = self.root / FILE
        table = self._table()
        with _opened(path) as file:
            image_3WH = _read(path, file, "images", i, (3, SHAPE[1], SHAPE[0]), "u")
            labels_WH = _read(path, file, "labels", i, SHAPE[::-1], "u")
            depth_WH = _read(path, file, "depths", i, SHAPE[::-1], "f")
        if image_3WH.dtype != np.uint8:
            raise DataError(f"{path}: images are {image_3WH.dtype}: expected uint8; {RESTORE}")
        in_range(path, f"label of image {i}", labels_WH, bool((labels_WH <= LABELS).all()), f"0 to {LABELS}")
        fine = bool((np.isfinite(depth_WH) & (depth_WH > 0) & (depth_WH < 100)).all())
        in_range(path, f"depth of image {i}", depth_WH, fine, "metres above 0, below 100")
        return Raw(image_3WH.transpose(2, 1, 0), table[labels_WH.T], depth_WH.T.astype(np.float32))

    def _table(self) -> np.ndarray:
        """uint8 (895,): label -> class of 0 to 39."""
        path = self.mapping
        if path.suffix == ".mat":
            numbers = np.ravel(read_mat(path, "mapClass"))
        else:
            try:
                numbers = np.array(path.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
            except (OSError, ValueError) as error:
                raise unreadable(path, "numbers", error) from None
        if numbers.shape != (LABELS,) or numbers.dtype.kind not in "uif":
            raise DataError(f"{path} has {numbers.size} entries: expected {LABELS} numbers, the class of each label")
        fine = bool(((numbers >= 1) & (numbers <= 40) & (numbers % 1 == 0)).all())
        in_range(path, "class", numbers, fine, "whole numbers of 1 to 40")
        return np.concatenate([[UNLABELLED], numbers - 1]).astype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is an HDF5 file: reading it needs h5py, `pip install 'matfl[hdf5]'`") from None
    if not path.is_file():
        raise DataError(f"{path} is missing or no file: put it there")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise unreadable(path, "an HDF5 file", error) from None


def _read(path: Path, file: Any, name: str, i: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Entry i of a data set, which MATLAB stores with its axes reversed."""
    if name not in file:
        raise DataError(f"{path} has no variable {name}; {RESTORE}")
    values = file[name]
    if values.shape[1:] != shape or values.dtype.kind != kind:
        raise DataError(
            f"{path}: {name} is {values.dtype} of shape {values.shape}: expected {len(shape) + 1} axes, (images, "
            f"{', '.join(map(str, shape))}); {RESTORE}"
        )
    if i >= len(values):
        raise DataError(f"{path}: {name} has {len(values)} images, so image {i} is missing; {RESTORE}")
    return np.asarray(values[i])
