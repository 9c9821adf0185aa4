"""Comparing photographs with what was published, and opening every one with its labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matfl.data.cache import DataError, in_parallel, processes_for
from matfl.data.decoded import Opener
from matfl.data.photos.readers import Nyuv2Reader, PeopleReader, PhotosReader
from matfl.data.photos.repositories import altered
from matfl.tasks.task import DOMAINS

__all__ = ["check_photos", "find_photos"]

CHUNK = 8
SECONDS = 0.1
"""Time to read one photograph and derive its labels on one core, roughly."""


def find_photos(base: Path) -> Iterator[tuple[PhotosReader, Path]]:
    """The data sets of photographs in `base`, or `base` itself if it is one, with who reads them."""
    for reader in (Nyuv2Reader(), PeopleReader()):
        for folder in (base, *(base / name for name in reader.repository.folders)):
            if reader.is_in(folder):
                yield reader, folder


def check_photos(reader: PhotosReader, root: Path, counts: dict[str, int], progress: bool) -> list[str]:
    """Problems of one data set; adds to `counts` as `matfl.data.check.Report` describes them."""
    try:
        opener = reader.opener(root)
    except DataError as error:
        return [str(error)]
    problems = []
    if reader.is_repository(root):
        problems = [
            f"{root / path} {what}: it is not that of commit {reader.repository.commit}; remove {root} and fetch again "
            f"(`matfl data fetch {reader.name} DIR`)"
            for path, what in altered(reader.repository, root).items()
        ]
    kinds = ("image", *DOMAINS[reader.name].channels)
    for split_name in ("train", "val"):
        names = reader.ids(split_name)
        label = f"{root.name}/{split_name}"
        found = in_parallel(
            _check_chunk,
            [(opener, names[i : i + CHUNK], kinds) for i in range(0, len(names), CHUNK)],
            processes=processes_for(len(names) * SECONDS),
            total=len(names),
            progress=progress,
            title=f"{label}: reading",
        )
        counts[label] = len(names)
        for kind in kinds:
            counts[f"{label}/{kind}"] = sum(kind in sound for sound, _ in found)
        problems += [problem for _, errors in found for problem in errors]
    return problems


def _check_chunk(
    opener: Opener, names: Sequence[str], kinds: Sequence[str]
) -> list[tuple[frozenset[str], tuple[str, ...]]]:
    """Of each image: which kinds are sound, and what is wrong with the others."""
    return [_check_image(opener, name, kinds) for name in names]


def _check_image(opener: Opener, name: str, kinds: Sequence[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    try:
        picture = opener(name)
    except DataError as error:
        return frozenset(), (str(error),)
    sound, problems = set(), []
    for kind in kinds:
        try:
            if kind == "image":
                picture.image()
            else:
                picture.label(kind)
            sound.add(kind)
        except DataError as error:
            problems.append(str(error))
    return frozenset(sound), tuple(dict.fromkeys(problems))
