"""Thinning of a binary map to lines one pixel wide, after Guo and Hall, "Parallel thinning with two-subiteration
algorithms", Communications of the ACM 32(3), 1989 (the variant that 8-connected morphology packages call `thin`).

Maps are packed: bit b of words[y + 1, w + 1] is pixel (y, 64 w + b), inside a frame of empty words, so that the
conditions for deleting a pixel are evaluated for 64 pixels at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

__all__ = ["thin"]

ONE, TOP = np.uint64(1), np.uint64(63)


@njit(cache=True, nogil=True)
def empty_words(height, width):  # type: ignore[no-untyped-def]
    """A packed map without pixels."""
    return np.zeros((height + 2, (width + 63) // 64 + 2), np.uint64)


@njit(cache=True, nogil=True)
def insert(words, y, x):  # type: ignore[no-untyped-def]
    """Switch a pixel on."""
    words[y + 1, (x >> 6) + 1] |= ONE << np.uint64(x & 63)


@njit(cache=True, nogil=True)
def contains(words, y, x):  # type: ignore[no-untyped-def]
    """1 if the pixel is on, else 0."""
    return words[y + 1, (x >> 6) + 1] >> np.uint64(x & 63) & ONE


@njit(cache=True, nogil=True)
def population(words):  # type: ignore[no-untyped-def]
    """Number of pixels that are on."""
    total = np.uint64(0)
    for word in words.flat:  # sums in fields of 2, 4 and 8 bits, then over the bytes
        twos = word - (word >> ONE & np.uint64(0x5555555555555555))
        fours = (twos & np.uint64(0x3333333333333333)) + (twos >> np.uint64(2) & np.uint64(0x3333333333333333))
        bytes_ = fours + (fours >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += bytes_ * np.uint64(0x0101010101010101) >> np.uint64(56)
    return np.int64(total)


@njit(cache=True, nogil=True)
def _thin_row(source, target, y, half):  # type: ignore[no-untyped-def]
    """One subiteration (half 0 or 1) on a row of words, from source to target; True if it deletes any pixel."""
    any_gone = np.uint64(0)
    for w in range(1, source.shape[1] - 1):
        # The eight neighbours of each pixel, moved to the pixel's own bit.
        n, here, s = source[y - 1, w], source[y, w], source[y + 1, w]
        ne, nw = n >> ONE | source[y - 1, w + 1] << TOP, n << ONE | source[y - 1, w - 1] >> TOP
        e, wt = here >> ONE | source[y, w + 1] << TOP, here << ONE | source[y, w - 1] >> TOP
        se, sw = s >> ONE | source[y + 1, w + 1] << TOP, s << ONE | source[y + 1, w - 1] >> TOP
        # Neighbours in pairs, counted from a corner to the next side and from a side to the next corner.
        a0, a1, a2, a3 = ne | n, nw | wt, sw | s, se | e
        b0, b1, b2, b3 = e | ne, n | nw, wt | sw, s | se
        c0, c1, c2, c3 = ~e & a0, ~n & a1, ~wt & a2, ~s & a3
        one_component = (c0 ^ c1 ^ c2 ^ c3) & ~(c0 & c1 | c2 & c3)
        two_a, two_b = a0 & a1 | a2 & a3 | (a0 | a1) & (a2 | a3), b0 & b1 | b2 & b3 | (b0 | b1) & (b2 | b3)
        inside = a0 & a1 & a2 & a3 & b0 & b1 & b2 & b3
        keep = (a2 | ~nw) & wt if half else (a0 | ~se) & e
        gone = here & one_component & two_a & two_b & ~inside & ~keep
        target[y, w] = here & ~gone
        any_gone |= gone
    return any_gone != 0


@njit(cache=True, nogil=True)
def converge(words, spare, changed):  # type: ignore[no-untyped-def]
    """Thin `words` until nothing changes. changed is work space, an integer per row; spare is a second packed map.

    spare must be empty where words has empty rows: new, or left by a call for a subset of these pixels.
    """
    for y in range(len(words)):
        changed[y] = -1 if words[y].any() else -3
    last, step = 0, 0
    while last >= step - 2:
        for y in range(1, len(words) - 1):
            # A row can change only if it or a neighbour did since its last test in this half, two steps ago. After a
            # test without change it is the same in both maps.
            if max(changed[y - 1], changed[y], changed[y + 1]) >= step - 2 and _thin_row(words, spare, y, step % 2):
                changed[y] = last = step
        words, spare = spare, words
        step += 1


@njit(cache=True, nogil=True)
def _thin(mask_HW):  # type: ignore[no-untyped-def]
    height, width = mask_HW.shape
    words = empty_words(height, width)
    for y in range(height):
        for x in range(width):
            if mask_HW[y, x]:
                insert(words, y, x)
    converge(words, empty_words(height, width), np.empty(len(words), np.int64))
    result = np.empty((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            result[y, x] = contains(words, y, x)
    return result


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
