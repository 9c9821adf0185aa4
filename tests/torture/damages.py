"""Ways in which a file can be damaged, by random numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["DAMAGES", "damage"]

Bytes = bytes
Damage = Callable[[bytearray, np.random.Generator], bytes | bytearray]


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data


def scatter(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(len(data), size=int(rng.integers(2, 20))):
        data[place] = int(rng.integers(256))
    return data


def overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 512)))
    data[start:stop] = rng.bytes(stop - start)
    return data


def zeros(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 4096)))
    data[start:stop] = bytes(stop - start)
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def cut_line(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Without its last line or, where there are none, its last byte."""
    return data[: max(0, data.rstrip(b"\n").rfind(b"\n") + 1) or -1]


def longer(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 100)))


def twice(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + data


def digit(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Another digit in the place of one, which leaves a text file as well formed as it was."""
    places = [i for i, byte in enumerate(data) if 48 <= byte < 58] or [0]
    place = places[int(rng.integers(len(places)))]
    data[place] = 48 + (data[place] - 48 + int(rng.integers(1, 10))) % 10
    return data


def empty(data: bytearray, rng: np.random.Generator) -> bytes:
    return b""


def noise(data: bytearray, rng: np.random.Generator) -> bytes:
    return rng.bytes(len(data))


DAMAGES: tuple[Damage, ...] = (
    flip,
    flip,
    flip,
    scatter,
    overwrite,
    zeros,
    cut,
    cut_line,
    longer,
    twice,
    digit,
    digit,
    empty,
    noise,
)
"""One flipped bit and one wrong digit are tried more often: they are the hardest to notice."""


def damage(path: Path, rng: np.random.Generator) -> str | None:
    """Damage a file or remove it; the damage's name, None if by chance its bytes are the same as before."""
    before = path.read_bytes()
    if rng.random() < 0.05:
        path.unlink()
        return "removed"
    chosen = DAMAGES[int(rng.integers(len(DAMAGES)))]
    after = bytes(chosen(bytearray(before), rng)) if before else rng.bytes(10)
    path.write_bytes(after)
    return None if after == before else chosen.__name__
