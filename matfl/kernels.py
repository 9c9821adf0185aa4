"""The two passes over all updates, Gram products and mixing, at the speed of memory.

N clients' updates are a very flat matrix (18 x 11 million), a shape at which general matrix products spend most of
their time packing, and compute a symmetric result twice. Large float32 blocks on the CPU therefore go through two small
compiled loops that keep 3 x 3 rows in registers; everything else (GPUs, other precisions, small blocks) goes through
batched torch products. Both ways agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["add_gram", "add_mixed", "product_dtype"]

_TILE = 4096
"""Columns that a compiled loop, or one product of a batch, takes at a time: N rows of them stay in the cache."""
_COMPILE_FROM = 1 << 22
"""Elements of a block from which the compiled loops repay their loading (under a second, then cached on disk)."""


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which updates of `dtype` are multiplied: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def add_gram(gram_NN: Tensor, block_NK: Tensor, dtype: torch.dtype) -> None:
    """gram_NN += block_NK @ block_NK.T, multiplied in `dtype`; partial sums are added in the precision of `gram_NN`.

    Small blocks on the CPU are multiplied in float64, which costs little: equal updates then have equal products.
    """
    if block_NK.device.type == "cpu" and block_NK.numel() < _COMPILE_FROM:
        dtype = torch.float64
    for _, piece_NK in _pieces(block_NK, dtype):
        if _compiled(piece_NK):
            gram_NN += torch.from_numpy(_gram(piece_NK)).to(gram_NN)
            continue
        whole = piece_NK.shape[1] // _TILE * _TILE
        tiles_TNK = piece_NK[:, :whole].unflatten(1, (-1, _TILE)).transpose(0, 1)
        with _full_precision():
            for some_TNK in tiles_TNK.split(max(1, (1 << 24) // len(piece_NK) ** 2)):
                gram_NN += torch.bmm(some_TNK, some_TNK.transpose(1, 2)).sum(0)
            gram_NN += piece_NK[:, whole:] @ piece_NK[:, whole:].T


def add_mixed(out_CK: Tensor, weights_CN: Tensor, block_NK: Tensor) -> None:
    """out_CK += weights_CN @ block_NK, in place and in the precision of `out_CK` (float32 or float64)."""
    weights_CN = weights_CN.to(out_CK)
    for first, piece_NK in _pieces(block_NK, out_CK.dtype):
        target_CK = out_CK[:, first : first + piece_NK.shape[1]]
        if _compiled(piece_NK) and target_CK.stride(1) == 1:
            _mix(target_CK, weights_CN, piece_NK)
        else:
            with _full_precision():
                target_CK.addmm_(weights_CN, piece_NK)


def _pieces(block_NK: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """(first column, columns) of a block in `dtype`: all at once, or, where it is converted, through a small buffer."""
    n, columns = block_NK.shape
    if block_NK.numel() == 0:
        return
    if block_NK.dtype == dtype:
        yield 0, block_NK
        return
    size = 1 << 22 if block_NK.device.type == "cpu" else 1 << 26
    step = _TILE * -(-size // (n * _TILE))
    buffer_NK = torch.empty((n, min(step, columns)), dtype=dtype, device=block_NK.device)
    for first in range(0, columns, step):
        piece_NK = buffer_NK[:, : columns - first]
        yield first, piece_NK.copy_(block_NK[:, first : first + step])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products in true float32, whatever the training chose (TensorFloat-32 has 10 bits of mantissa)."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before


def _compiled(block_NK: Tensor) -> bool:
    return (block_NK.device.type == "cpu" and block_NK.dtype == torch.float32 and block_NK.stride(1) == 1
            and block_NK.numel() >= _COMPILE_FROM)  # fmt: skip


def _flat(block_NK: Tensor) -> tuple[np.ndarray, int]:
    """The memory of a block whose rows are contiguous, as one array, and the distance from row to row."""
    rows, columns = block_NK.shape
    stride = block_NK.stride(0)
    return block_NK.detach().as_strided(((rows - 1) * stride + columns,), (1,)).numpy(), stride


def _gram(block_NK: Tensor) -> np.ndarray:
    n, columns = block_NK.shape
    flat, stride = _flat(block_NK)
    loop, _ = _loops()

    def part(first: int, last: int) -> np.ndarray:
        out_NN = np.zeros((n + 2, n + 2))
        loop(flat, stride, n, first, last, out_NN)
        return out_NN

    upper_NN = np.triu(sum(_in_threads(part, columns))[:n, :n])
    return upper_NN + np.triu(upper_NN, 1).T


def _mix(out_CK: Tensor, weights_CN: Tensor, block_NK: Tensor) -> None:
    (c, n), columns = weights_CN.shape, block_NK.shape[1]
    out, out_stride = _flat(out_CK)
    flat, stride = _flat(block_NK)
    weights = np.zeros((c + 2, n + 2), np.float32)
    weights[:c, :n] = weights_CN
    _, loop = _loops()
    _in_threads(lambda first, last: loop(out, out_stride, c, weights, flat, stride, n, first, last), columns)


def _in_threads(part: Callable[[int, int], Any], columns: int) -> list[Any]:
    """`part(first, last)` of each thread's share of the columns; the compiled loops release Python's lock."""
    threads = max(1, min(torch.get_num_threads(), columns // _TILE))
    edges = [columns * i // threads for i in range(threads + 1)]
    if threads == 1:
        return [part(0, columns)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(part, edges[:-1], edges[1:]))


@cache
def _loops() -> tuple[Callable[..., None], Callable[..., None]]:
    """The compiled Gram and mixing loops. Rows beyond the last are read as the last: their results are not used."""
    from numba import njit

    # Sums may be reordered (so that they fill vector registers), but NaN and infinity keep their meaning.
    compiled = njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)
    return compiled(_gram_loop), compiled(_mix_loop)


def _gram_loop(u: np.ndarray, stride: int, n: int, start: int, stop: int, out: np.ndarray) -> None:
    for first in range(start, stop, _TILE):
        width = min(_TILE, stop - first)
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


def _mix_loop(out: np.ndarray, out_stride: int, c: int, a: np.ndarray, u: np.ndarray, stride: int, n: int,
              start: int, stop: int) -> None:  # fmt: skip
    unused = np.zeros((2, _TILE), np.float32)
    for first in range(start, stop, _TILE):
        width = min(_TILE, stop - first)
        for i in range(0, c, 3):
            t0 = out[i * out_stride + first :][:width]
            t1 = out[(i + 1) * out_stride + first :][:width] if i + 1 < c else unused[0, :width]
            t2 = out[(i + 2) * out_stride + first :][:width] if i + 2 < c else unused[1, :width]
            for j in range(0, n, 3):
                y0 = u[j * stride + first :][:width]
                y1 = u[min(j + 1, n - 1) * stride + first :][:width]
                y2 = u[min(j + 2, n - 1) * stride + first :][:width]
                a00, a01, a02 = a[i, j], a[i, j + 1], a[i, j + 2]
                a10, a11, a12 = a[i + 1, j], a[i + 1, j + 1], a[i + 1, j + 2]
                a20, a21, a22 = a[i + 2, j], a[i + 2, j + 1], a[i + 2, j + 2]
                for k in range(width):
                    t0[k] += a00 * y0[k] + a01 * y1[k] + a02 * y2[k]
                    t1[k] += a10 * y0[k] + a11 * y1[k] + a12 * y2[k]
                    t2[k] += a20 * y0[k] + a21 * y1[k] + a22 * y2[k]
