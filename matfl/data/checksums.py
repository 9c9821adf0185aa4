"""Checksums of the cache's files, block by block, so that a disk's flipped bit is found before it becomes a number.

What is promised: a process that opens a file of up to `WHOLE` bytes has compared all of it, once, before it uses any;
of a larger file the first block, the last and `SAMPLES` others, which every process draws anew. So a damage to b of
the n blocks of a large file is missed by one process with a probability of about (1 - b / n) ** SAMPLES.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

__all__ = ["damage", "summary"]

BLOCK = 2**20
"""Bytes that share a checksum."""
WHOLE = 256 * BLOCK
"""Largest file that is compared as a whole."""
SAMPLES = 64


def summary(path: Path) -> dict[str, Any]:
    """What `damage` compares a file with: its 'bytes', and under 'crc32' one checksum a block."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        return {"bytes": size, "crc32": [_checksum(file, block) for block in range(-(-size // BLOCK))]}


def damage(path: Path, recorded: Mapping[str, Any]) -> str | None:
    """How a file differs from its `summary`, in words; None when no difference was found. Raises OSError."""
    status = path.stat()
    blocks = tuple(recorded["crc32"])
    if status.st_size != recorded["bytes"] or len(blocks) != -(-status.st_size // BLOCK):
        return f"{status.st_size} bytes instead of {recorded['bytes']}"
    return _compare(path, (status.st_ino, status.st_size, status.st_mtime_ns), blocks)


@cache  # once a process, unless the file is another one or was written to since
def _compare(path: Path, state: tuple[int, ...], blocks: tuple[int, ...]) -> str | None:
    chosen: Iterable[int] = range(len(blocks))
    if len(blocks) * BLOCK > WHOLE:
        chosen = sorted({0, len(blocks) - 1, *random.SystemRandom().sample(range(len(blocks)), SAMPLES)})
    with open(path, "rb") as file:
        for block in chosen:
            if _checksum(file, block) != blocks[block]:
                return f"the checksum of bytes {block * BLOCK} to {min(state[1], (block + 1) * BLOCK) - 1} differs"
    return None


def _checksum(file: IO[bytes], block: int) -> int:
    file.seek(block * BLOCK)
    return zlib.crc32(file.read(BLOCK))
