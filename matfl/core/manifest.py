"""Folders whose files carry checksums: what is written together is found together, and damage is noticed when read.

`manifest.json` maps each file's name to the SHA-256 sums that it may have. While files are being replaced that is both
the old and the new one, so that a kill between two renames leaves a folder that still tells damage from interruption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from matfl.core.files import Content, digest, file_digest, fill, json_bytes, replace_file, sync_folder, unfinished

__all__ = ["MANIFEST", "DamageError", "check_file", "read_checked", "read_manifest", "remove_files", "write_files"]

MANIFEST = "manifest.json"
"""Name of the file with the checksums."""

Sums = dict[str, tuple[str, ...]]


class DamageError(Exception):
    """A stored file is missing or not what was written."""

    def __init__(self, path: Path, reason: object) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path} is damaged ({reason})")


def read_manifest(folder: Path) -> Sums:
    """File name -> the checksums that it may have. Raises DamageError when the manifest is missing or unreadable."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        files = json.loads(raw)["files"]
        if raw != _written(files):
            raise ValueError("its contents do not match its own checksum")
        sums = {name: (found,) if isinstance(found, str) else tuple(found) for name, found in files.items()}
    except FileNotFoundError:
        raise DamageError(path, "missing: without it nothing tells whether the other files are whole") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamageError(path, error) from None
    return sums


def write_files(folder: Path, contents: Mapping[str, Content]) -> None:
    """Replace some of a folder's files and their checksums, in the order given. Raises OSError.

    Everything reaches the disk under temporary names before the first rename, so a full disk changes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    with ExitStack() as stack:
        temporaries = {name: stack.enter_context(unfinished(folder / name)) for name in contents}
        for name, content in contents.items():
            fill(temporaries[name], content)
        after = {name: (file_digest(temporary),) for name, temporary in temporaries.items()}
        if any(before.get(name) != sums for name, sums in after.items()):
            both = {name: (*sums, *before.get(name, ())) for name, sums in after.items()}
            _write_manifest(folder, {**before, **both})
        for name, temporary in temporaries.items():
            os.replace(temporary, folder / name)
    sync_folder(folder)
    _write_manifest(folder, {**before, **after})


def _write_manifest(folder: Path, sums: Sums) -> None:
    files = {name: found[0] if len(found) == 1 else list(dict.fromkeys(found)) for name, found in sorted(sums.items())}
    replace_file(folder / MANIFEST, _written(files))


def _written(files: Mapping[str, str | list[str]]) -> bytes:
    """The manifest's bytes, its own checksum among them."""
    return json_bytes({"files": files, "sha256": digest(json_bytes(files))})


def remove_files(folder: Path, names: Sequence[str]) -> None:
    """Remove some of a folder's files, and the manifest with them."""
    for name in (*names, MANIFEST):
        (folder / name).unlink(missing_ok=True)


def _checked(folder: Path, name: str, read: Callable[[Path], tuple[str, bytes]]) -> bytes:
    """What `read` gives of the file, once its checksum is among the manifest's; a writer at work is waited out."""
    path = folder / name
    while True:
        sums = read_manifest(folder)
        if name not in sums:
            raise DamageError(path, f"{MANIFEST} does not list it" if path.exists() else "missing")
        try:
            found, content = read(path)
        except OSError as error:
            raise DamageError(path, "missing" if isinstance(error, FileNotFoundError) else error) from None
        if found in sums[name]:
            return content
        if read_manifest(folder) == sums:
            raise DamageError(path, f"its contents do not match their checksum in {MANIFEST}")


def read_checked(folder: Path, name: str) -> bytes:
    """The bytes of a folder's file. Raises DamageError when it is missing or its checksum is another."""

    def read(path: Path) -> tuple[str, bytes]:
        content = path.read_bytes()
        return digest(content), content

    return _checked(folder, name, read)


def check_file(folder: Path, name: str) -> Path:
    """The path of a folder's file, whose checksum was compared. Raises DamageError; for files too large to hold."""
    _checked(folder, name, lambda path: (file_digest(path), b""))
    return folder / name
