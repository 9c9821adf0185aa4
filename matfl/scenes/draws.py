"""Counter-based random numbers: one independent stream per image or object, whatever the batch it is drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws", "stream_keys"]

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit integers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_keys(*words: int | NDArray) -> Keys:
    """One 64-bit key per row from a sequence of non-negative integers (below 2**64) or arrays of them, in order."""
    key = np.zeros(1, np.uint64)
    for word in words:
        key = _mix((key ^ _mix(np.asarray(word, np.uint64).reshape(-1) + _GOLDEN)) + _GOLDEN)
    return key


class Draws:
    """Streams of uniform numbers, one a row; every call takes the next numbers of every stream."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._counter = 0

    def __len__(self) -> int:
        return len(self.keys)

    def uniform(self, low: float | Floats = 0.0, high: float | Floats = 1.0, *shape: int) -> Floats:
        """Numbers in [low, high) of shape (rows, *shape); array bounds broadcast against that shape."""
        count = int(np.prod(shape, dtype=np.int64))
        counters = np.arange(self._counter + 1, self._counter + 1 + count, dtype=np.uint64) * _GOLDEN
        self._counter += count
        unit = (_mix(self.keys[:, None] + counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit.reshape(len(self.keys), *shape)

    def chance(self, probability: float | Floats, *shape: int) -> NDArray[np.bool_]:
        """True with the given probability."""
        return self.uniform(0.0, 1.0, *shape) < probability

    def choice(self, weights: Sequence[float] | Floats, *shape: int) -> NDArray[np.int64]:
        """Indices drawn with probabilities proportional to `weights`."""
        bounds = np.cumsum(np.asarray(weights, np.float64))
        drawn = np.searchsorted(bounds, self.uniform(0.0, 1.0, *shape) * bounds[-1], side="right")
        return np.minimum(drawn, len(bounds) - 1)

    def child(self, tag: int | NDArray, rows: NDArray | slice = slice(None)) -> Draws:
        """New streams for some rows (they may repeat), told apart by `tag`."""
        return Draws(_mix(self.keys[rows] ^ _mix(np.asarray(tag, np.uint64).reshape(-1) * _GOLDEN + np.uint64(1))))
