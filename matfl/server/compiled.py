"""Compiled loops over the rows of flat matrices, which `matfl.server.kernels` runs on large blocks on the CPU.

Matrices are float32, given as a flat array and the distance between their rows. Each loop takes a tile of columns at a
time, so that the tile's rows stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["Loops", "flat", "loops"]


class Loops(NamedTuple):
    """The compiled loops."""

    gram: Callable[..., None]
    trained_gram: Callable[..., None]
    mix: Callable[..., None]


@cache
def loops() -> Loops:
    """Load or compile them: the first call takes a second and memory for it, later processes read numba's cache."""
    from numba import njit

    # Sums of products may be reordered, so that they fill vector registers; NaN and infinity keep their meaning.
    gram = njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)(_gram)
    in_order = njit(fastmath={"contract"}, nogil=True, cache=True)
    return Loops(gram, in_order(_trained_gram), in_order(_mix))


def flat(rows_NK: Tensor) -> np.ndarray:
    """A view from the first element of the rows to the last; each row must be contiguous."""
    (n, columns), stride = rows_NK.shape, rows_NK.stride(0)
    return rows_NK.detach().as_strided(((n - 1) * stride + columns,), (1,)).numpy()


def _gram(u: np.ndarray, stride: int, n: int, columns: int, tile: int, out: np.ndarray) -> None:
    """Add the products of rows i <= j to `out` (n + 2, n + 2); rows beyond the last are the last, their sums unused."""
    for first in range(0, columns, tile):
        width = min(tile, columns - first)
        for i in range(0, n, 3):
            x0 = u[i * stride + first :][:width]
            x1 = u[min(i + 1, n - 1) * stride + first :][:width]
            x2 = u[min(i + 2, n - 1) * stride + first :][:width]
            for j in range(i, n, 3):
                y0 = u[j * stride + first :][:width]
                y1 = u[min(j + 1, n - 1) * stride + first :][:width]
                y2 = u[min(j + 2, n - 1) * stride + first :][:width]
                s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = np.float32(0)
                for k in range(width):
                    s00 += x0[k] * y0[k]
                    s01 += x0[k] * y1[k]
                    s02 += x0[k] * y2[k]
                    s10 += x1[k] * y0[k]
                    s11 += x1[k] * y1[k]
                    s12 += x1[k] * y2[k]
                    s20 += x2[k] * y0[k]
                    s21 += x2[k] * y1[k]
                    s22 += x2[k] * y2[k]
                out[i, j] += s00
                out[i, j + 1] += s01
                out[i, j + 2] += s02
                out[i + 1, j] += s10
                out[i + 1, j + 1] += s11
                out[i + 1, j + 2] += s12
                out[i + 2, j] += s20
                out[i + 2, j + 1] += s21
                out[i + 2, j + 2] += s22


def _trained_gram(
    gram: Callable[..., None],
    t: np.ndarray,
    t_stride: int,
    rows: np.ndarray,
    u: np.ndarray,
    u_stride: int,
    columns: int,
    x: np.ndarray,
    stride: int,
    tile: int,
    together: int,
    origin: bool,
    out: np.ndarray,
) -> None:
    """`gram` of x, whose row i is row rows[i] of t minus row rows[0], plus row i of u; with `origin` also row rows[0].

    A tile of x at a time is kept in the array of that name. So many columns `together` are added up before they are
    added to `out`.
    """
    n = len(rows)
    for low in range(0, columns, together):
        high = min(low + together, columns)
        part = np.zeros_like(out)
        for first in range(low, high, tile):
            width = min(tile, high - first)
            common = t[rows[0] * t_stride + first :][:width]
            for i in range(n):
                start, update = t[rows[i] * t_stride + first :][:width], u[i * u_stride + first :][:width]
                moved = x[i * stride :][:width]
                for k in range(width):
                    moved[k] = (start[k] - common[k]) + update[k]
            if origin:
                x[n * stride :][:width] = common
            gram(x, stride, n + origin, width, tile, part)
        out += part


def _mix(
    t: np.ndarray, t_stride: int, u: np.ndarray, u_stride: int, columns: int, w: np.ndarray, x: np.ndarray
) -> None:
    """t <- w @ (t + u) in place, for n rows; `w` (n + 1, n + 5) is padded with zeros, `x` (n, tile) is overwritten.

    The products of a sum are added in the order of the rows.
    """
    n, tile = x.shape
    for first in range(0, columns, tile):
        width = min(tile, columns - first)
        for j in range(n):
            start, update, moved = t[j * t_stride + first :][:width], u[j * u_stride + first :][:width], x[j]
            for k in range(width):
                moved[k] = start[k] + update[k]
        for i in range(0, n, 2):
            p = t[i * t_stride + first :][:width]
            q = t[min(i + 1, n - 1) * t_stride + first :][:width]
            last = i + 1 == n  # the same row twice, of which the second sum counts
            second = i if last else i + 1
            for j in range(0, n, 6):
                x0, x1, x2 = x[j][:width], x[min(j + 1, n - 1)][:width], x[min(j + 2, n - 1)][:width]
                x3, x4, x5 = (
                    x[min(j + 3, n - 1)][:width],
                    x[min(j + 4, n - 1)][:width],
                    x[min(j + 5, n - 1)][:width],
                )
                a0, a1, a2, a3, a4, a5 = w[i, j], w[i, j + 1], w[i, j + 2], w[i, j + 3], w[i, j + 4], w[i, j + 5]
                b0, b1, b2 = w[second, j], w[second, j + 1], w[second, j + 2]
                b3, b4, b5 = w[second, j + 3], w[second, j + 4], w[second, j + 5]
                for k in range(width):
                    s = r = np.float32(0)
                    if j:
                        s, r = p[k], q[k]
                    s += a0 * x0[k]
                    r += b0 * x0[k]
                    s += a1 * x1[k]
                    r += b1 * x1[k]
                    s += a2 * x2[k]
                    r += b2 * x2[k]
                    s += a3 * x3[k]
                    r += b3 * x3[k]
                    s += a4 * x4[k]
                    r += b4 * x4[k]
                    s += a5 * x5[k]
                    r += b5 * x5[k]
                    p[k] = s
                    q[k] = r
