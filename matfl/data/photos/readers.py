"""Readers 'nyuv2' and 'people': where the photographs lie, which are in a split, and how each is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matfl.data.cache import DataError, key_hash
from matfl.data.decoded import Opener, load_decoded
from matfl.data.photos import labelled_mat, nyuv2, people
from matfl.data.photos.repositories import NYUV2, PEOPLE, Repository
from matfl.data.real import evenly
from matfl.data.split import Split
from matfl.tasks.task import Domain

__all__ = ["VERSION", "Nyuv2Reader", "PeopleReader", "PhotosReader", "open_form"]

VERSION = 2
"""Part of the cache's key and of a run's provenance: raise it when any decoded array changes."""


class PhotosReader:
    """Reads a repository of photographs from `data_dir` (default: $MATFL_DATA), or from a folder within it."""

    name: str
    repository: Repository
    marks: tuple[str, ...]
    """Of which one at least is in the data set's folder."""

    def version(self, domain: Domain) -> dict[str, Any]:
        """The decoders' version, and the commit that the photographs are of."""
        return {"decoding": VERSION, "commit": self.repository.commit}

    def load(
        self,
        domain: Domain,
        split_name: str,
        *,
        count: int,
        size: tuple[int, int],
        seed: int = 0,
        data_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
    ) -> Split:
        """See `Reader.load`; `count` images at equal distances in the split, or all for 0."""
        root = self.locate(data_dir)
        ids = evenly(self.ids(split_name), count, split_name, f"the {split_name} split of {self.name}")
        return load_decoded(
            domain,
            split_name,
            ids,
            self.opener(root),
            size=size,
            key={"photos": self.name, "decoding": VERSION, "files": self._fingerprint(root, ids)},
            cache_dir=cache_dir,
            progress=progress,
            source=str(root.absolute()),
        )

    def ids(self, split_name: str) -> tuple[str, ...]:
        """Ids of the images of 'train' or 'val'."""
        raise NotImplementedError

    def opener(self, root: Path) -> Opener:
        """How an image of the data set in `root` is opened."""
        raise NotImplementedError

    def files(self, root: Path, name: str) -> Sequence[Path]:
        """The files that image `name` is read from. Raises DataError for one that is missing."""
        raise NotImplementedError

    def is_in(self, folder: Path) -> bool:
        """Whether `folder` is that of the data set."""
        return any((folder / mark).exists() for mark in self.marks)

    def is_repository(self, folder: Path) -> bool:
        """Whether the data set lies in `folder` as in its repository, so that git's ids say whether it is whole."""
        return (folder / self.marks[0]).exists()

    def locate(self, data_dir: str | Path | None) -> Path:
        """The data set's folder: `data_dir` itself, or one of `Repository.folders` in it.

        Raises DataError when there is none, or more than one.
        """
        given = data_dir or os.environ.get("MATFL_DATA")
        remedy = f"`matfl data fetch {self.name} DIR` downloads it"
        if not given:
            raise DataError(f"no folder was given for the {self.name} data: set MATFL_DATA, or pass data_dir; {remedy}")
        base = Path(given).expanduser()
        present = [base / name for name in self.repository.folders if self.is_in(base / name)]
        if self.is_in(base):
            present.append(base)
        if not present:
            raise DataError(f"{base} holds no {self.repository.name}/ with {' or '.join(self.marks)}: {remedy}")
        if len(present) > 1:
            raise DataError(
                f"{present[0]} and {present[1]} both hold the {self.name} data: expected one; pass the one you mean as "
                "data_dir"
            )
        return present[0]

    def _fingerprint(self, root: Path, ids: Iterable[str]) -> str:
        """Hash of the names, sizes and modification times of all files that the images need."""
        paths = dict.fromkeys(path for name in ids for path in self.files(root, name))
        return key_hash([(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths])


class Nyuv2Reader(PhotosReader):
    """Reader 'nyuv2': the fetched repository, or the authors' own file."""

    name = "nyuv2"
    repository = NYUV2
    marks = ("data/nyu_images", labelled_mat.FILE)

    def ids(self, split_name: str) -> tuple[str, ...]:
        return tuple(map(str, nyuv2.split_indices(split_name)))

    def opener(self, root: Path) -> Opener:
        return partial(_open_room, open_form(root))

    def files(self, root: Path, name: str) -> Sequence[Path]:
        return open_form(root).files(int(name))


class PeopleReader(PhotosReader):
    """Reader 'people': the fetched repository."""

    name = "people"
    repository = PEOPLE
    marks = ("annotations/pixel-level",)

    def ids(self, split_name: str) -> tuple[str, ...]:
        return people.split_ids(split_name)

    def opener(self, root: Path) -> Opener:
        return partial(people.Sample, root)

    def files(self, root: Path, name: str) -> Sequence[Path]:
        return people.files(root, name)


def open_form(root: Path) -> nyuv2.Nyuv2:
    """The form in which NYUv2 lies in `root`. Raises DataError where both are."""
    pictures, official = (root / mark for mark in Nyuv2Reader.marks)
    if pictures.exists() and official.exists():
        raise DataError(f"{root} holds {pictures.name} and {official.name}: expected one form of NYUv2; move one away")
    return labelled_mat.LabelledMat(root) if official.exists() else nyuv2.Pictures(root)


def _open_room(form: nyuv2.Nyuv2, name: str) -> nyuv2.Sample:
    return nyuv2.Sample(form, int(name))
