"""Thinning of a binary map to lines one pixel wide, after Guo and Hall, "Parallel thinning with two-subiteration
algorithms", Communications of the ACM 32(3), 1989 (the variant that 8-connected morphology packages call `thin`).

Maps are kept flat with a border of one empty pixel, as `on` (0 or 1) and `code`: the eight neighbours of each pixel as
the bits of a byte, counter-clockwise from the right. Deleting a pixel updates its neighbours' codes, so that the test
of a pixel is one look-up, and only pixels near a deletion are tested again.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

__all__ = ["thin"]


def _deletable() -> NDArray[np.uint8]:
    """For each neighbour code: bit s is set if subiteration s (0, 1) deletes the pixel."""
    x = np.arange(256)[:, None] >> np.arange(8) & 1 == 1  # x[:, k]: neighbour k, counter-clockwise from the right
    side, corner, next_side = x[:, 0::2], x[:, 1::2], np.roll(x[:, 0::2], -1, axis=1)
    one_component = (~side & (corner | next_side)).sum(1) == 1
    pairs = np.minimum((side | corner).sum(1), (corner | next_side).sum(1))
    common = one_component & (pairs >= 2) & (pairs <= 3)
    upper = (x[:, 1] | x[:, 2] | ~x[:, 7]) & x[:, 0]
    lower = (x[:, 5] | x[:, 6] | ~x[:, 3]) & x[:, 4]
    return (common & ~upper).astype(np.uint8) | (common & ~lower).astype(np.uint8) << 1


DELETABLE = _deletable()


@njit(cache=True, nogil=True)
def neighbours(row: int) -> NDArray[np.int64]:
    """Offsets of the eight neighbours in a flat map of the given row length, in the order of the code's bits."""
    return np.array([1, 1 - row, -row, -1 - row, -1, row - 1, row, row + 1])


@njit(cache=True, nogil=True)
def insert(on, code, around, pixel):  # type: ignore[no-untyped-def]
    """Switch a pixel on."""
    on[pixel] = 1
    for k in range(8):
        code[pixel + around[k]] |= np.uint8(1 << (k + 4) % 8)


@njit(cache=True, nogil=True)
def converge(on, code, around, pixels, doomed, recent):  # type: ignore[no-untyped-def]
    """Thin in place until nothing changes. `pixels` lists what is on; doomed (n) and recent (2, 8 n) are work space."""
    found = np.zeros(2, np.int64)
    step = 0
    while step < 2 or found[0] + found[1] > 0:
        half = step % 2
        count = 0
        # A pixel can become deletable only by a change since its last test in this half: one or two steps ago.
        for source in range(1 if step < 2 else 2):
            candidates = pixels if step < 2 else recent[source, : found[source]]
            for pixel in candidates:
                if on[pixel] and DELETABLE[code[pixel]] >> half & 1:
                    on[pixel] = 0
                    doomed[count] = pixel
                    count += 1
        found[half] = 0
        for pixel in doomed[:count]:
            for k in range(8):
                other = pixel + around[k]
                code[other] &= np.uint8(255 - (1 << (k + 4) % 8))
                if on[other] and DELETABLE[code[other]]:
                    recent[half, found[half]] = other
                    found[half] += 1
        step += 1


@njit(cache=True, nogil=True)
def _thin(mask_HW):  # type: ignore[no-untyped-def]
    height, width = mask_HW.shape
    row = width + 2
    around = neighbours(row)
    on, code = np.zeros((height + 2) * row, np.uint8), np.zeros((height + 2) * row, np.uint8)
    pixels = np.empty(mask_HW.size, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            if mask_HW[y, x]:
                pixels[count] = (y + 1) * row + x + 1
                insert(on, code, around, pixels[count])
                count += 1
    converge(on, code, around, pixels[:count], np.empty(count, np.int32), np.empty((2, 8 * count), np.int32))
    return on.reshape(height + 2, row)[1:-1, 1:-1] == 1


def thin(mask_HW: ArrayLike) -> NDArray[np.bool_]:
    """The lines that a binary map (H, W) is thinned to, at convergence. Outside the map counts as empty.

    >>> thin([[1, 1, 1], [1, 1, 1], [1, 1, 1]]).astype(int)
    array([[0, 0, 0],
           [0, 1, 0],
           [0, 0, 0]])
    """
    mask = np.ascontiguousarray(mask_HW, dtype=np.bool_)
    if mask.ndim != 2:
        raise ValueError(f"thin takes one map (H, W), not shape {mask.shape}: call it once per map")
    return _thin(mask)
