"""Files that are there whole or not at all, and checksums that tell whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["digest", "file_digest", "json_bytes", "json_hash", "naming", "replace_file", "sync_folder", "unfinished"]

Content = bytes | str | Callable[[Path], object]
"""What a file shall hold: its bytes, its text (UTF-8), or a function that writes a file of the given name."""


def digest(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: object) -> str:
    """12 hexadecimal digits that stand for a JSON-able value, whatever the order of its keys."""
    return digest(json.dumps(value, sort_keys=True).encode())[:12]


def json_bytes(value: object, *, sort_keys: bool = False) -> bytes:
    """Indented JSON with a newline at its end."""
    return (json.dumps(value, indent=2, sort_keys=sort_keys) + "\n").encode()


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, gone at the end unless it was renamed.

    Writers of other processes get other names. The suffix stays that of `path`, since some libraries go by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def fill(temporary: Path, content: Content) -> None:
    """Write `content` to `temporary` and flush it to the disk; its mode is the one that the umask gives a new file."""
    with open(temporary, "wb") as file:
        if not callable(content):
            file.write(content.encode() if isinstance(content, str) else content)
        mode = os.fstat(file.fileno()).st_mode & 0o777
    if callable(content):
        content(temporary)
        os.chmod(temporary, mode)  # safetensors leaves 0600, so that nobody else could read a checkpoint
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())


def replace_file(path: Path, content: Content) -> None:
    """Write a file whole: to a temporary name, flushed to the disk and renamed. Raises OSError naming `path`."""
    with naming(path):
        with unfinished(path) as temporary:
            fill(temporary, content)
            os.replace(temporary, path)
        sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, what the system says of writing (a full disk, a limit) is an OSError that names `path`.

    `write` itself names no file, and safetensors wraps the system's word in an error of its own.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        if found := re.search(r"\(os error (\d+)\)|\bcode: (\d+)", str(error)):
            code = int(found[1] or found[2])
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
