"""The two folder layouts of the field, their variants, and where each label of an image lies in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matfl.data.cache import DataError
from matfl.data.pictures import regular

__all__ = ["ARCHIVES", "FILES", "FOLDERS", "LABELS", "Archive", "Layout", "locate", "open_layout"]

FOLDERS = {"pascal": ("PASCAL_MT", "PASCALContext"), "nyud": ("NYUD_MT", "NYUDv2")}
"""Folder names of each layout: of the original archive, and of its FedHCA2 variant."""

FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "pascal": {
        "image": ("JPEGImages/{}.jpg",),
        "semseg": ("semseg/VOC12/{}.png", "semseg/pascal-context/{}.png"),
        "human_parts": ("human_parts/{}.mat",),
        "sal": ("sal_distill/{}.png",),
        "normals": ("normals_distill/{}.png",),
        "label_map": ("pascal-context/trainval/{}.mat",),
    },
    "nyud": {
        "image": ("images/{}.jpg", "images/{}.png"),
        "semseg": ("segmentation/{}.png",),
        "normals": ("normals/{}.npy", "normals/{}.png"),
        "edge": ("edge/{}.npy", "edge/{}.png"),
        "depth": ("depth/{}.npy",),
    },
}
"""Layout -> kind of file -> where it may lie; the first that exists counts. `label_map` gives PASCAL's edges."""

LABELS = {"pascal": ("semseg", "human_parts", "sal", "normals", "edge"), "nyud": ("semseg", "normals", "edge", "depth")}
"""Tasks that each layout labels."""

_SPLITS = {"pascal": "ImageSets/Context/{}.txt", "nyud": "gt_sets/{}.txt"}
_MARKS = {"pascal": ("ImageSets", "JPEGImages", "pascal-context"), "nyud": ("gt_sets", "segmentation", "edge")}
_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A published archive of a layout."""

    file: str
    url: str
    page: str
    """Where a person can fetch it with a browser."""
    images: dict[str, int]
    """Images of each split."""


ARCHIVES = {
    "pascal": Archive(
        file="PASCAL_MT.tgz",
        url="https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz",
        page="https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz",
        images={"train": 4998, "val": 5105},
    ),
    "nyud": Archive(
        file="NYUD_MT.tgz",
        url=_DRIVE.format("14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw"),
        page="https://drive.google.com/file/d/14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw",
        images={"train": 795, "val": 654},
    ),
}
"""What `fetch` downloads. The NYUD archive is that of Multi-Task-Learning-PyTorch, not ASTMT's of the same name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A folder that holds one data set."""

    kind: str
    """'pascal' or 'nyud'."""
    root: Path

    def split_file(self, split_name: str) -> Path:
        """The list of a split's ids."""
        return self.root / _SPLITS[self.kind].format(split_name)

    def ids(self, split_name: str) -> tuple[str, ...]:
        """The ids of a split in the file's order.

        Raises DataError for a list that is missing, empty or malformed, or that shares an id with the other split's.
        """
        ids, other = self.listed(split_name), "val" if split_name == "train" else "train"
        if self.split_file(other).exists() and (problem := self.shared(self.listed(other), ids)):
            raise DataError(problem)
        return ids

    def shared(self, some: Sequence[str], others: Sequence[str]) -> str | None:
        """What is wrong when both splits list an image: a model would be measured on what it was trained on."""
        both = sorted(set(some) & set(others))
        if not both:
            return None
        return (
            f"{self.split_file('val')} lists {both[0]} ({len(both)} ids in all), as "
            f"{self.split_file('train').name} does: expected no image in both splits; remove it from one"
        )

    def listed(self, split_name: str) -> tuple[str, ...]:
        """As `ids`, whatever the other split lists."""
        path = self.split_file(split_name)
        remedy = f"it must list the ids of the {split_name} images, one a line; restore it from the archive"
        try:
            lines = regular(path, remedy).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): expected a list of ids, one a line; restore it from the archive"
            ) from None
        ids = [line.strip() for line in lines if line.strip()]
        if not ids:
            raise DataError(
                f"{path} is empty: expected the ids of the {split_name} images, one a line; restore it from the archive"
            )
        for name in ids:
            if not all(c.isalnum() or c in "_-." for c in name) or name.startswith("."):
                raise DataError(
                    f"{path}: {name!r} is no id: expected letters, digits, '_', '-' and '.', one id a "
                    "line; restore the file from the archive"
                )
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise DataError(f"{path} lists {twice} twice: expected every id once; remove the second")
        return tuple(ids)

    def file(self, kind: str, name: str) -> Path:
        """Where a kind of file (`FILES`) of image `name` lies. Raises DataError when it is missing or no file."""
        candidates = [self.root / template.format(name) for template in FILES[self.kind][kind]]
        for path in candidates:
            if os.path.lexists(path):
                return regular(path, "restore it from the archive")
        also = "".join(f" (nor {path.relative_to(self.root)})" for path in candidates[1:])
        raise DataError(
            f"{candidates[0]} is missing{also}: a split lists {name}, so its {kind} file is expected; "
            "restore it from the archive, or take the id off the split file"
        )


def open_layout(folder: str | Path, kind: str | None = None) -> Layout:
    """The data set in `folder`, recognised by what is in it.

    Raises DataError when that is not the layout `kind` (or none at all), or ASTMT's incompatible NYUD archive.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: {_expected(kind)}; check the path, or see `matfl data fetch`")
    scores = {name: sum((root / mark).is_dir() for mark in marks) for name, marks in _MARKS.items()}
    found = max(scores, key=scores.__getitem__)
    if not scores[found]:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(
            f"{root} is of no known layout: {_expected(kind)}, found {there}; point at the folder that the "
            "archive extracts to"
        )
    if kind is not None and found != kind:
        raise DataError(f"{root} holds the {found} layout: {_expected(kind)}; exchange the folders")
    if found == "nyud":
        _refuse_astmt(root)
    return Layout(found, root)


def _expected(kind: str | None) -> str:
    return "expected " + " or ".join(f"{name}/ with {', '.join(_MARKS[name])}" for name in ([kind] if kind else _MARKS))


def _refuse_astmt(root: Path) -> None:
    """ASTMT publishes another archive under the name NYUD_MT.tgz, with 41-way .mat labels and .jpg normals."""
    for folder, ending in (("segmentation", ".mat"), ("depth", ".mat"), ("normals", ".jpg")):
        if not (root / folder).is_dir():
            continue
        offender = next((entry.name for entry in os.scandir(root / folder) if entry.name.endswith(ending)), None)
        if offender:
            right = ", ".join(FILES["nyud"][label][0].format("*") for label in LABELS["nyud"])
            raise DataError(
                f"{root / folder / offender}: this is ASTMT's NYUD_MT.tgz, whose labels are of another "
                f"kind; expected {right}: fetch that of Multi-Task-Learning-PyTorch (`matfl data fetch "
                f"nyud DIR`, or {ARCHIVES['nyud'].page}) and put it in this folder's place"
            )


def locate(kind: str, data_dir: str | Path | None = None) -> Layout:
    """The data set of a layout in `data_dir` (default: $MATFL_DATA): one of `FOLDERS`, or `data_dir` itself.

    Raises DataError when there is none, or more than one.
    """
    given = data_dir or os.environ.get("MATFL_DATA")
    remedy = (
        f"`matfl data fetch {kind} DIR` downloads it, `matfl data make DIR` writes the embedded benchmark in its form"
    )
    if not given:
        raise DataError(f"no folder was given for the {kind} data: set MATFL_DATA, or pass data_dir; {remedy}")
    base = Path(given).expanduser()
    present = [base / name for name in FOLDERS[kind] if (base / name).is_dir()]
    if len(present) > 1:
        raise DataError(
            f"{present[0]} and {present[1].name} are both there: expected one {kind} data set; pass the "
            "one you mean as data_dir"
        )
    if present:
        return open_layout(present[0], kind)
    if base.is_dir() and any((base / mark).is_dir() for mark in _MARKS[kind]):
        return open_layout(base, kind)
    raise DataError(f"{base} holds no {' or '.join(FOLDERS[kind])}: {remedy}")
