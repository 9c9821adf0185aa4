"""Counting, opening and validating every file of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from matfl.data.cache import DataError, in_parallel, processes_for
from matfl.data.decode import Sample
from matfl.data.layouts import FILES, FOLDERS, LABELS, Layout, open_layout
from matfl.data.photos.check import check_photos, find_photos
from matfl.tasks.task import TASKS

__all__ = ["Report", "check"]

CHUNK = 8
SECONDS = 0.04
"""Time to read one image and its labels on one core, roughly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What `check` found."""

    ok: bool
    counts: dict[str, int]
    """'<folder>/<split>' -> ids listed; '<folder>/<split>/<label>' -> those whose label is sound (and 'image');
    '<folder>/unlisted' -> images in no split."""
    problems: tuple[str, ...]
    """One sentence an offender: the file, what was expected, what to do."""


def check(folder: str | Path, *, progress: bool = False) -> Report:
    """Decode every image and label of the data sets in `folder` (one of them, or the folder that holds them).

    Images that no split lists are read as well, with whatever labels they have. Reports all problems, raises none.
    """
    base = Path(folder).expanduser()
    inside = [base / name for names in FOLDERS.values() for name in names if (base / name).is_dir()]
    counts: dict[str, int] = {}
    problems: list[str] = []
    for reader, root in (photos := list(find_photos(base))):
        problems += check_photos(reader, root, counts, progress)
    for root in inside or ([] if photos else [base]):
        try:
            layout = open_layout(root)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += _check_layout(layout, counts, progress)
    return Report(ok=not problems, counts=counts, problems=tuple(dict.fromkeys(problems)))


def _check_layout(layout: Layout, counts: dict[str, int], progress: bool) -> list[str]:
    """Problems of one data set; adds to `counts`."""
    problems: list[str] = []
    splits: dict[str, tuple[str, ...]] = {}
    for split_name in ("train", "val"):
        try:
            splits[split_name] = layout.listed(split_name)
        except DataError as error:
            problems.append(str(error))
    if problem := layout.shared(splits.get("train", ()), splits.get("val", ())):
        problems.append(problem)
    listed = {name for names in splits.values() for name in names}
    splits["unlisted"] = tuple(sorted(_image_names(layout) - listed))
    for split_name, names in splits.items():
        label = f"{layout.root.name}/{split_name}"
        found = in_parallel(
            _check_chunk,
            [(layout, names[i : i + CHUNK], split_name == "unlisted") for i in range(0, len(names), CHUNK)],
            processes=processes_for(len(names) * SECONDS),
            total=len(names),
            progress=progress,
            title=f"{label}: reading",
        )
        problems += [problem for result in found for problem in result.problems]
        counts[label] = len(names)
        if split_name == "unlisted":
            continue
        for kind in ("image", *LABELS[layout.kind]):
            counts[f"{label}/{kind}"] = sum(kind in result.sound for result in found)
        for kind in LABELS[layout.kind]:
            if counts[f"{label}/{kind}"] and not any(kind in result.counting for result in found):
                problems.append(
                    f"{layout.root / kind}: no {split_name} image {TASKS[kind].counting}, so {kind} can neither be "
                    "trained nor measured; restore the folder from the archive"
                )
    return problems


def _image_names(layout: Layout) -> set[str]:
    names = set()
    for template in FILES[layout.kind]["image"]:
        folder, pattern = template.split("/")
        names |= {path.stem for path in (layout.root / folder).glob(pattern.format("*"))}
    return names


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    sound: frozenset[str]
    counting: frozenset[str]
    """Tasks for which the image counts."""
    problems: tuple[str, ...]


def _check_chunk(layout: Layout, names: Sequence[str], partial: bool) -> list[_Result]:
    return [_check_image(layout, name, partial) for name in names]


def _check_image(layout: Layout, name: str, partial: bool) -> _Result:
    """Everything about one image; `partial` forgives labels that are not there."""
    sample = Sample(layout, name)
    sound, counting, problems = set(), set(), []
    for kind in ("image", *LABELS[layout.kind]):
        if partial and not all(_there(layout, file, name) for file in _needed(layout, kind)):
            continue
        try:
            values = sample.image() if kind == "image" else sample.label(kind)
        except DataError as error:
            problems.append(str(error))
            continue
        sound.add(kind)
        if kind != "image" and TASKS[kind].counts(torch.tensor(values)[None]):
            counting.add(kind)
    return _Result(sound=frozenset(sound), counting=frozenset(counting), problems=tuple(problems))


def _needed(layout: Layout, kind: str) -> tuple[str, ...]:
    """The kinds of file that a label is decoded from."""
    if layout.kind == "pascal" and kind in ("edge", "normals"):
        return ("label_map",) if kind == "edge" else ("normals", "label_map")
    return (kind,)


def _there(layout: Layout, kind: str, name: str) -> bool:
    return any((layout.root / template.format(name)).exists() for template in FILES[layout.kind][kind])
