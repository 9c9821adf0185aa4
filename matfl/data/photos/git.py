"""Git's names for contents: blob and tree ids, and lists of them that name a damaged file.

A tree id is the SHA-1 of the names, modes and contents below a folder, so twenty bytes verify thousands of files
however they were packed. `git rev-parse COMMIT:FOLDER` prints it in a clone.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

__all__ = [
    "DIGITS",
    "Blob",
    "blob_hash",
    "blob_id",
    "differences",
    "expected_blobs",
    "format_blobs",
    "parse_blobs",
    "tree_id",
]

Blob = tuple[str, bytes]
"""Mode ('100644', or '100755' for a program) and 20-byte id of a file."""

DIGITS = 8
"""Hexadecimal digits of a blob id that the lists keep: they name a file that a tree id has found to be altered."""


def blob_id(content: bytes) -> bytes:
    """What `git hash-object` prints, as 20 bytes.

    >>> blob_id(b"hello\\n").hex()
    'ce013625030ba8dba906f756967f9e9ca394464a'
    """
    digest = blob_hash(len(content))
    digest.update(content)
    return digest.digest()


def blob_hash(size: int) -> hashlib._Hash:
    """A hash to be given the `size` bytes of a file; its digest is the blob id."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def tree_id(blobs: Mapping[str, Blob], folder: str = "") -> str:
    """The id of `folder` ('' is the root) given the files of a repository by path, in 40 hexadecimal digits."""
    prefix = f"{folder}/" if folder else ""
    inside = {path[len(prefix) :]: blob for path, blob in blobs.items() if path.startswith(prefix)}
    return _tree(inside).hex()


def _tree(blobs: Mapping[str, Blob]) -> bytes:
    entries: dict[bytes, bytes] = {}
    folders: dict[str, dict[str, Blob]] = {}
    for path, (mode, blob) in blobs.items():
        name, _, rest = path.partition("/")
        if rest:
            folders.setdefault(name, {})[rest] = (mode, blob)
        else:
            entries[name.encode()] = f"{mode} {name}\0".encode() + blob
    for name, below in folders.items():
        entries[f"{name}/".encode()] = f"40000 {name}\0".encode() + _tree(below)  # git sorts a folder by its name and /
    content = b"".join(entries[key] for key in sorted(entries))
    return hashlib.sha1(b"tree %d\0" % len(content) + content, usedforsecurity=False).digest()


def differences(found: Mapping[str, Blob], expected: Mapping[str, str]) -> dict[str, str]:
    """Path -> 'is missing' or 'is altered' of every expected file that is not as it should be.

    `expected` has the first `DIGITS` digits of ids, as `expected_blobs` gives them.
    """
    wrong = {}
    for path, short in expected.items():
        if path not in found:
            wrong[path] = "is missing"
        elif found[path][1].hex()[:DIGITS] != short:
            wrong[path] = "is altered"
    return wrong


@cache
def expected_blobs(name: str) -> Mapping[str, str]:
    """Path -> first digits of the blob id, of the files of a repository that this package lists (`<name>.blobs`)."""
    return parse_blobs((files(__package__) / f"{name}.blobs").read_text(encoding="ascii"))


def parse_blobs(text: str) -> dict[str, str]:
    """A list as `format_blobs` writes it: '= TEMPLATE FIRST LAST', then the ids of those files without a gap."""
    blobs: dict[str, str] = {}
    for section in text.split("= ")[1:]:
        head, _, body = section.partition("\n")
        template, first, last = head.rsplit(" ", 2)
        digits = "".join(body.split())
        for position, i in enumerate(range(int(first), int(last) + 1)):
            blobs[template.format(i)] = digits[position * DIGITS : (position + 1) * DIGITS]
    return blobs


def format_blobs(blobs: Mapping[str, Blob], numbered: Iterable[tuple[str, int, int]]) -> str:
    """The list of all `blobs`; files of the `numbered` (template, first, last) share a heading."""
    sections, left = [], dict(blobs)
    for template, first, last in numbered:
        ids = [left.pop(template.format(i))[1] for i in range(first, last + 1)]
        sections.append((template, first, last, ids))
    sections += [(path, 0, 0, [left[path][1]]) for path in sorted(left)]
    return "".join(
        f"= {template} {first} {last}\n"
        + "\n".join(textwrap.wrap("".join(blob.hex()[:DIGITS] for blob in ids), 15 * DIGITS))
        + "\n"
        for template, first, last, ids in sections
    )
