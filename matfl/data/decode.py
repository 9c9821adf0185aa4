"""Every label of the real layouts, decoded and validated at its native size.

Nothing is repaired or skipped: a file that is missing, damaged, of another size than its image or with values that its
task does not have is a `DataError` that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from matfl.data.cache import DataError
from matfl.data.files import RESTORE, by_size, in_range, read_mat, unreadable
from matfl.data.layouts import Layout
from matfl.data.pictures import open_picture, picture_size, rgb

__all__ = ["DECODING_VERSION", "PARTS", "PERSON", "VALID_NORMALS", "Sample", "laplacian_edges"]

DECODING_VERSION = 2
"""Part of the cache's key: raise it when any decoded array changes."""

PERSON = 15
"""Category of persons in `anno`."""

PARTS = {
    name: index
    for index, names in enumerate(
        (
            "hair head lear rear lebrow rebrow leye reye mouth nose",
            "neck torso",
            "luarm ruarm",
            "llarm rlarm lhand rhand",
            "luleg ruleg",
            "llleg rlleg lfoot rfoot",
        ),
        start=1,
    )
    for name in names.split()
}
"""PASCAL-Part's 24 parts of a person -> the six classes of human_parts."""

VALID_NORMALS = frozenset(
    {
        3,
        4,
        6,
        9,
        10,
        11,
        13,
        15,
        17,
        18,
        22,
        23,
        29,
        30,
        33,
        34,
        36,
        37,
        38,
        39,
        41,
        43,
        46,
        49,
        50,
        51,
        53,
        55,
        56,
        59,
        61,
        62,
        65,
        66,
        68,
        69,
        72,
        73,
        78,
        83,
        84,
        85,
        87,
        88,
        95,
        96,
        101,
        104,
        105,
        107,
        111,
        113,
        115,
        122,
        124,
        135,
        141,
        142,
        143,
        146,
        150,
        154,
        157,
        158,
        159,
        165,
        172,
        174,
        181,
        183,
        184,
        191,
        193,
        195,
        197,
        199,
        202,
        213,
        215,
        216,
        219,
        220,
        223,
        225,
        228,
        230,
        232,
        233,
        238,
        239,
        242,
        243,
        246,
        250,
        251,
        252,
        255,
        260,
        261,
        263,
        269,
        272,
        273,
        275,
        281,
        283,
        284,
        285,
        286,
        287,
        288,
        290,
        291,
        292,
        293,
        295,
        304,
        307,
        309,
        310,
        314,
        315,
        319,
        323,
        329,
        330,
        331,
        336,
        342,
        345,
        349,
        350,
        351,
        352,
        355,
        357,
        368,
        370,
        371,
        374,
        379,
        380,
        383,
        384,
        397,
        401,
        403,
        405,
        407,
        408,
        411,
        412,
        413,
        414,
        417,
        419,
        421,
        423,
        427,
        429,
        430,
        432,
        440,
        441,
        442,
        443,
        444,
        446,
        454,
        457,
    }
)
"""Classes of `LabelMap` on which PASCAL's distilled normals are kept."""

DEPTHS = (0.01, 100.0)
"""Metres between which a depth is believed; indoor sensors see 0.4 to 10."""


class Sample:
    """One image of a folder and its labels, read when asked for."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) by the image file's header."""
        return picture_size(self.layout.file("image", self.name), remedy=RESTORE)

    def image(self) -> np.ndarray:
        """uint8 (h, w, 3), RGB."""
        path = self.layout.file("image", self.name)
        return np.asarray(rgb(open_picture(path, remedy=RESTORE), path, RESTORE))

    def label(self, task: str) -> np.ndarray:
        """The decoded label: uint8 (h, w), float32 (h, w), or float32 (3, h, w) of unit or zero vectors."""
        return getattr(self, f"_{self.layout.kind}_{task}")()

    def truth(self, task: str) -> np.ndarray | None:
        """SEISM's ground truth of edges, uint8 (h, w): of `LabelMap` on PASCAL, of the stored boundaries on NYUD."""
        from matfl.tasks.edges import truth

        if task != "edge":
            return None
        return truth(self.label_map if self.layout.kind == "pascal" else self.label(task)).astype(np.uint8)

    @cached_property
    def label_map(self) -> np.ndarray:
        """PASCAL-Context's class of every pixel, int64 (h, w)."""
        path = self.layout.file("label_map", self.name)
        values = read_mat(path, "LabelMap")
        if values.dtype.kind not in "uif" or values.ndim != 2:
            raise DataError(
                f"{path}: LabelMap is {values.dtype} of shape {values.shape}: expected one class number a "
                f"pixel; {RESTORE}"
            )
        self._same_size(path, values)
        in_range(
            path,
            "LabelMap",
            values,
            bool(((values >= 0) & (values < 2**16) & (values % 1 == 0)).all()),
            "whole numbers below 65536",
        )
        return values.astype(np.int64)

    def _same_size(self, path: Path, values: np.ndarray) -> None:
        if values.shape[:2] != self.size:
            raise DataError(
                f"{path} is {by_size(values.shape[:2])} but its image is {by_size(self.size)}: expected the same "
                f"size; {RESTORE}"
            )

    def _png(self, kind: str) -> tuple[Path, np.ndarray]:
        """Values of a single-channel picture, palette indices as they are."""
        path = self.layout.file(kind, self.name)
        image = open_picture(path, formats=("PNG",), remedy=RESTORE)
        if image.mode not in ("L", "P", "1"):
            raise DataError(f"{path} is of mode {image.mode}: expected one 8-bit channel or palette; {RESTORE}")
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        self._same_size(path, values)
        return path, values

    def _classes(self, path: Path, values: np.ndarray, highest: int, ignore: str = "") -> None:
        wrong = values > highest
        if ignore:
            wrong &= values != 255
        found = int(values[wrong].max()) if wrong.any() else 0
        in_range(path, "class", found, not wrong.any(), f"0 to {highest}{ignore}")

    def _pascal_semseg(self) -> np.ndarray:
        path, values = self._png("semseg")
        self._classes(path, values, 20, " or 255 (ignore)")
        return values

    def _nyud_semseg(self) -> np.ndarray:
        path, values = self._png("semseg")
        self._classes(path, values, 40)
        return values - np.uint8(1)  # 0, without a label, wraps to 255

    def _strength(self, kind: str) -> np.ndarray:
        """0 or 1 by a picture of strengths from 0 to 255."""
        path, values = self._png(kind)
        in_range(path, f"{kind} strength", values, values.max() != 1, "0 to 255, so that half is 127")
        return (values > 127).astype(np.uint8)

    def _pascal_sal(self) -> np.ndarray:
        return self._strength("sal")

    def _pascal_edge(self) -> np.ndarray:
        return laplacian_edges(self.label_map).astype(np.uint8)

    def _nyud_edge(self) -> np.ndarray:
        if self.layout.file("edge", self.name).suffix == ".png":
            return self._strength("edge")
        path, values = self._npy("edge", 2)
        in_range(path, "edge strength", values, bool(((values >= 0) & (values <= 1)).all()), "0 to 1")
        return (values >= 0.5).astype(np.uint8)

    def _nyud_depth(self) -> np.ndarray:
        path, values = self._npy("depth", 2)
        nearest, farthest = DEPTHS
        known = values != 0
        fine = bool(((values[known] >= nearest) & (values[known] <= farthest)).all())
        expected = f"metres from {nearest} to {farthest:g}, or 0 for none (millimetres are to be divided by 1000)"
        in_range(path, "depth", values, fine, expected)
        if not known.any():
            raise DataError(f"{path}: depth is 0 everywhere: expected a depth at some pixel at least; {RESTORE}")
        return values

    def _nyud_normals(self) -> np.ndarray:
        if self.layout.file("normals", self.name).suffix == ".png":
            vectors = self._normals_png()
            # No unit vector is stored as black, which is left where there is no normal.
            return _unit(vectors * (vectors != -1).any(2, keepdims=True))
        path, values = self._npy("normals", 3)
        if values.shape[2] != 3:
            raise DataError(f"{path} is of shape {values.shape}: expected (height, width, 3); {RESTORE}")
        in_range(path, "component", values, bool((np.abs(values) <= 1.001).all()), "-1 to 1")
        return _unit(values)

    def _pascal_normals(self) -> np.ndarray:
        vectors = self._normals_png()
        known = np.isin(self.label_map, list(VALID_NORMALS))
        return _unit(vectors * known[..., None])

    def _normals_png(self) -> np.ndarray:
        path = self.layout.file("normals", self.name)
        image = open_picture(path, formats=("PNG",), remedy=RESTORE)
        if image.mode != "RGB":
            raise DataError(f"{path} is of mode {image.mode}: expected RGB, x, y and z as 255 (v + 1) / 2; {RESTORE}")
        values = np.asarray(image, dtype=np.float32)
        self._same_size(path, values)
        return values * np.float32(2 / 255) - 1

    def _npy(self, kind: str, dimensions: int) -> tuple[Path, np.ndarray]:
        path = self.layout.file(kind, self.name)
        values = _array(path)
        if values.ndim == 3 and dimensions == 2 and values.shape[2] == 1:
            values = values[..., 0]
        if values.ndim != dimensions:
            raise DataError(f"{path} is of shape {values.shape}: expected {dimensions} axes; {RESTORE}")
        self._same_size(path, values)
        return path, values.astype(np.float32)

    def _pascal_human_parts(self) -> np.ndarray:
        path = self.layout.file("human_parts", self.name)
        label = np.zeros(self.size, np.uint8)
        try:
            for name, mask in _person_parts(read_mat(path, "anno")):
                if name not in PARTS:
                    raise DataError(f"{path}: {name!r} is no part of a person: expected {', '.join(PARTS)}; {RESTORE}")
                self._same_size(path, mask)
                label[mask != 0] = PARTS[name]
        except DataError:
            raise
        except Exception as error:  # whatever a tree of another shape leads to: IndexError, OverflowError, ...
            raise DataError(
                f"{path}: anno is not nested as PASCAL-Part's annotations are ({error}); {RESTORE}"
            ) from None
        return label


def _person_parts(anno: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, mask) of every part of every person, in the file's order. Empty MATLAB structs have no element at all."""
    for thing in np.ravel(anno[0][0][1]):
        if int(np.ravel(thing[1])[0]) == PERSON:
            for part in np.ravel(thing[3]):
                yield str(part[0][0]), np.asarray(part[1])


def laplacian_edges(label_map: np.ndarray) -> np.ndarray:
    """Edges of a map (h, w) as bool: where its 4-neighbour Laplacian, mirrored at the border, is not 0, thinned."""
    from matfl.tasks.edges import thin

    values = label_map.astype(np.int64)
    padded = np.pad(values, 1, mode="reflect" if min(values.shape) > 1 else "edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(thin(around != 4 * values))


def _unit(vectors_HW3: np.ndarray) -> np.ndarray:
    """Unit vectors, float32 (3, h, w); those too short for a direction (8 bits cannot store zero) become zero."""
    x, y, z = vectors = np.ascontiguousarray(vectors_HW3.transpose(2, 0, 1), dtype=np.float32)
    length = np.sqrt(x * x + y * y + z * z)
    return np.where(length > 0.01, vectors / np.maximum(length, np.float32(0.01)), np.float32(0))


def _array(path: Path) -> np.ndarray:
    """The numbers of a .npy file that holds one array and nothing else, as a memory map: a huge shape costs nothing."""
    try:
        with open(path, "rb") as file:
            if not file.read(8).startswith(np.lib.format.MAGIC_PREFIX):
                raise ValueError("it does not begin as one")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.dtype.kind not in "uifb":
            raise ValueError(f"it holds {values.dtype}")
        surplus = path.stat().st_size - values.offset - values.nbytes
        if surplus:
            raise ValueError(f"{surplus} bytes more than its header says")
    except Exception as error:  # damaged headers fail in many ways: SyntaxError, TokenError, MemoryError, ...
        raise unreadable(path, "a NumPy array of numbers", error) from None
    return values
