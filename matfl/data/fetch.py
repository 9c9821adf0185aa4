"""Downloading and extracting the published archives."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from matfl.core.files import replace_file
from matfl.data.cache import DataError, locked
from matfl.data.download import download
from matfl.data.extract import opened, replacing
from matfl.data.layouts import ARCHIVES, FOLDERS, open_layout
from matfl.data.photos.repositories import REPOSITORIES, Repository, unpack

__all__ = ["SOURCES", "Fetched", "Source", "fetch", "fetch_source", "repository_source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A record of what was fetched; kept beside the archive as `<archive>.json`."""

    url: str
    archive: str
    """File name of the archive."""
    bytes: int
    sha256: str
    folder: str
    """Name of the folder that it became."""
    verified: str = ""
    """What was compared with what the publisher has, in words."""
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where an archive is and what becomes of it."""

    file: str
    """Its name on the disk."""
    url: str
    page: str
    """Where a person can fetch it with a browser."""
    folder: str
    """Name of the folder that it becomes."""
    unpack: Callable[..., str]
    """(archive, folder to make, progress=) -> what was verified. Makes the folder whole or not at all."""
    licence: str = ""
    citation: str = ""


def fetch(
    name: str,
    folder: str | Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: bool = False,
    pause: float = 1.0,
    say: Callable[[str], object] | None = None,
) -> Fetched:
    """Download a data set's archive into `folder` and extract it there: 'pascal' to PASCAL_MT/, 'nyud' to NYUD_MT/,
    'nyuv2' to nyuv2/, 'people' to people/.

    A download that was cut off goes on where it ended, unless the server's file has changed or the server cannot (as
    GitHub's). An archive that a person has put into `folder` is used as it is. The data set's folder appears when it is
    whole, by one rename; 'nyuv2' and 'people' are verified by git tree ids first.

    Args:
        url: a mirror, or file:///...; default: the published address.
        sha256: refuse an archive with another checksum. The publishers give none; the one found is recorded.
        pause: seconds before the second try after a failure; doubled for each further one.
        say: told in a sentence what is worth knowing on the way.

    Raises DataError when the network, the archive or the disk fails; nothing half-made is left in the final place.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(SOURCES)}")
    return fetch_source(SOURCES[name], folder, url=url, sha256=sha256, progress=progress, pause=pause, say=say)


def fetch_source(
    source: Source,
    folder: str | Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: bool = False,
    pause: float = 1.0,
    say: Callable[[str], object] | None = None,
) -> Fetched:
    """As `fetch`, of any source."""
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python extracts archives unsafely: use 3.11.4 or later, or extract the archive yourself")
    base = Path(folder).expanduser()
    target, record_file = base / source.folder, base / f"{source.file}.json"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with locked(base / f".{source.file}.lock", wait=False):
            if target.exists():
                return _already(target, record_file)
            path = base / source.file
            if path.exists() and not path.is_file():
                raise DataError(f"{path} is no file: expected the archive; remove it and fetch again")
            if not path.exists():
                by_hand = f"download {source.page} with a browser, save it as {path} and fetch again"
                download(url or source.url, path, by_hand=by_hand, progress=progress, pause=pause, say=say)
            digest = _digest(path)
            if sha256 and digest != sha256.lower():
                raise DataError(
                    f"{path} has SHA-256 {digest}, expected {sha256}: it is damaged or another archive; remove it "
                    "and fetch again"
                )
            record = Fetched(
                url=url or source.url,
                archive=source.file,
                bytes=path.stat().st_size,
                sha256=digest,
                folder=source.folder,
                licence=source.licence,
                citation=source.citation,
            )
            _note(record_file, record)  # first, so that a folder that is there always has its record
            record = replace(record, verified=source.unpack(path, target, progress=progress))
            _note(record_file, record)
            return record
    except BlockingIOError:
        raise DataError(f"{base}: another process is fetching {source.file} here; wait for it") from None
    except OSError as error:
        raise DataError(
            f"{base}: cannot write ({error}); free space or choose another folder, and fetch again: the "
            "download goes on where it ended"
        ) from error


def repository_source(repository: Repository) -> Source:
    """The archive of a repository on GitHub."""
    return Source(
        file=repository.file,
        url=repository.url,
        page=repository.page,
        folder=repository.name,
        unpack=partial(unpack, repository),
        licence=repository.licence,
        citation=repository.citation,
    )


def _note(path: Path, record: Fetched) -> None:
    replace_file(path, json.dumps(asdict(record), indent=2) + "\n")


def _already(target: Path, record_file: Path) -> Fetched:
    try:
        return Fetched(**json.loads(record_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DataError(
            f"{target} is there already and was not fetched here: `matfl data check {target}` tests it; "
            "remove it to fetch it anew"
        ) from None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack_layout(kind: str, path: Path, target: Path, *, progress: bool = False) -> str:
    """Extract all of an archive of a folder layout, see that it is the one expected, and rename."""
    with replacing(target) as temporary:
        with opened(path, progress=progress) as (tar, members):
            for member in members:
                tar.extract(member, temporary, filter="data")
        folders = [entry for entry in temporary.iterdir() if entry.is_dir()]
        layout = open_layout(folders[0] if len(folders) == 1 else temporary, kind)
        for split_name in ("train", "val"):
            layout.ids(split_name)
        os.sync()
        layout.root.rename(target)
    return ""


SOURCES = {
    kind: Source(
        file=archive.file,
        url=archive.url,
        page=archive.page,
        folder=FOLDERS[kind][0],
        unpack=partial(_unpack_layout, kind),
    )
    for kind, archive in ARCHIVES.items()
} | {name: repository_source(repository) for name, repository in REPOSITORIES.items()}
"""Name of a data set -> its published archive."""
