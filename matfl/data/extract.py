"""A tar archive to a folder that appears whole, by one rename, or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from matfl.data.cache import DataError
from matfl.data.download import BLOCK

__all__ = ["opened", "replacing"]

DEEPEST = 32
"""Folders below one another in an archive; no data set comes near it."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, removed in the end; rename it, or one within it, when it is whole.

    What a killed process has left of an earlier one is removed as well.
    """
    for stale in target.parent.glob(f".{target.name}.extract-*"):
        shutil.rmtree(stale)
    temporary = target.with_name(f".{target.name}.extract-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def opened(path: Path, *, progress: bool = False) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    """A .tar.gz and its files and folders in their order, which end at gzip's checksum.

    Raises DataError for damage that shows while they are read within, and for members that lie outside of the archive
    or are links or devices.
    """
    with open(path, "rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise DataError(f"{path} is a web page, not an archive: remove it and fetch again")
    try:
        with (
            tarfile.open(path, "r:gz") as tar,
            tqdm(desc=f"extracting {path.name}", unit="file", disable=not progress, dynamic_ncols=True) as bar,
        ):
            yield tar, _members(path, tar, bar)
    except tarfile.FilterError as error:
        raise DataError(f"{path}: refused to extract ({error}); {_ELSEWHERE}") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(f"{path} is damaged ({error}): remove it and fetch again") from None


def _members(path: Path, tar: tarfile.TarFile, bar: tqdm) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _refuse(path, member)
        yield member
        bar.update()
    while tar.fileobj and tar.fileobj.read(BLOCK):
        pass


_ELSEWHERE = "remove the archive and fetch it from its publisher"


def _refuse(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        reason = "lies outside the folder"
    elif member.issym() or member.islnk():
        reason = "is a link"
    elif not (member.isfile() or member.isdir()):
        reason = "is neither file nor folder"
    elif len(name.parts) > DEEPEST or len(os.fsencode(member.name)) > 1024:
        raise DataError(f"{path}: {member.name[:40]!r}... lies too deep: refused to extract; {_ELSEWHERE}")
    else:
        return
    raise DataError(f"{path}: {member.name!r} {reason}: refused to extract; {_ELSEWHERE}")
