"""The two passes over all updates, Gram products and mixing, at the speed of memory.

N clients' updates are a very flat matrix (18 x 11 million), a shape at which general matrix products spend most of
their time packing, and compute a symmetric result twice. On the CPU, mixing takes few rows at a time, which are not
packed, and large Gram products go through a compiled loop that keeps 3 x 3 rows in registers. GPUs and other precisions
take plain and batched torch products. All ways agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfl.server.compiled import flat, loops

__all__ = [
    "add_gram",
    "add_mixed",
    "add_trained_gram",
    "empty_rows",
    "full_precision",
    "load_loop",
    "product_dtype",
    "remix",
]

_TILE = 4096
"""Columns that the compiled loop (at most), or one product of a batch, takes at a time."""
_COMPILE_FROM = 1 << 22
"""Elements of a block from which the compiled loop repays its loading (about a second, then cached on disk)."""
_REMIX_COLUMNS = 1 << 13
"""Columns of models that are mixed at a time on the CPU: they are read and replaced within the cache."""
_TOGETHER = 1 << 14
"""Columns of trained models whose products are added up on the CPU before they join the sum."""
_MIX_TILE = 1 << 10
"""Columns of trained models that the compiled loop mixes at a time."""
_MIX_ROWS, _MIX_COLUMNS = 18, 1 << 16
"""Clients and columns of one mixing product on the CPU; more clients at once cost up to three times as much each."""


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which updates of `dtype` are multiplied: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def add_gram(gram_NN: Tensor, block_NK: Tensor, dtype: torch.dtype, *, columns: int = 0) -> None:
    """gram_NN += block_NK @ block_NK.T, multiplied in `dtype`; partial sums are added in float64.

    `columns` of the whole matrix of which this is a block (default: it is whole). Small ones on the CPU are multiplied
    in float64, which costs little: equal updates then have equal products.
    """
    part = _batched_gram
    if block_NK.device.type == "cpu":
        if len(block_NK) * max(columns, block_NK.shape[1]) < _COMPILE_FROM:
            dtype = torch.float64
        elif dtype == torch.float32 and block_NK.stride(1) == 1:
            part = _compiled_gram
    for part_NN in _over_columns(block_NK, lambda first, last: _sum(part, block_NK[:, first:last], dtype)):
        gram_NN += part_NN


def add_mixed(out_CK: Tensor, weights_CN: Tensor, block_NK: Tensor) -> None:
    """out_CK += weights_CN @ block_NK, in place and in the precision of `out_CK` (float32 or float64)."""
    weights_CN = weights_CN.to(out_CK)

    def part(first: int, last: int) -> None:
        for start, piece_NK in _pieces(block_NK[:, first:last], out_CK.dtype):
            _mix(out_CK[:, first + start : first + start + piece_NK.shape[1]], weights_CN, piece_NK)

    _over_columns(block_NK, part)


def remix(out_CK: Tensor, starts_CC: Tensor, weights_CN: Tensor, block_NK: Tensor, *, columns: int = 0) -> None:
    """out_CK <- starts_CC @ out_CK + weights_CN @ block_NK, in place, in the precision of `out_CK`.

    `columns` of the whole matrix of which these are some (default: they are all).
    """
    starts_CC, weights_CN = starts_CC.to(out_CK), weights_CN.to(out_CK)
    alike = torch.equal(starts_CC, weights_CN)  # a mix of trained models: one product of their sum
    if alike and _large(block_NK, columns) and out_CK.dtype == torch.float32 and out_CK.stride(1) == 1:
        n = len(block_NK)
        padded = np.zeros((n, n + 5), np.float32)
        padded[:, :n] = weights_CN.numpy()

        def mixed(first: int, last: int) -> None:
            rows_CK, piece_NK = out_CK[:, first:last], block_NK[:, first:last]
            moved = np.empty((n, min(_MIX_TILE, last - first)), np.float32)
            loops().mix(
                flat(rows_CK), rows_CK.stride(0), flat(piece_NK), piece_NK.stride(0), last - first, padded, moved
            )

        _over_columns(block_NK, mixed)
        return
    width = _REMIX_COLUMNS if out_CK.device.type == "cpu" else 1 << 20

    def part(first: int, last: int) -> None:
        for start in range(first, last, width):
            columns_CK = out_CK[:, start : min(start + width, last)]
            piece_NK = block_NK[:, start : start + columns_CK.shape[1]].to(out_CK.dtype)
            with full_precision():
                if alike:
                    columns_CK.copy_(starts_CC @ (columns_CK + piece_NK))
                else:
                    torch.addmm(starts_CC @ columns_CK, weights_CN, piece_NK, out=columns_CK)

    _over_columns(block_NK, part)


def add_trained_gram(
    gram_MM: Tensor, starts_CK: Tensor, rows: Sequence[int], block_NK: Tensor, *, origin: bool, columns: int
) -> None:
    """gram_MM += x @ x.T of trained models x_i = start of `rows[i]` - start of `rows[0]` + update i, in one pass.

    With `origin` what was subtracted is the last row of x. `columns` is as in `add_gram`, whose product it is.
    """
    n, precision = len(block_NK), product_dtype(block_NK.dtype)
    if not _large(block_NK, columns) or starts_CK.dtype != torch.float32:
        width = _TOGETHER if block_NK.device.type == "cpu" else block_NK.shape[1]
        for starts_CL, updates_NL in zip(starts_CK.split(width, 1), block_NK.split(width, 1)):
            piece_ML = torch.empty((n + origin, updates_NL.shape[1]), dtype=precision, device=block_NK.device)
            torch.sub(starts_CL[list(rows)], starts_CL[rows[0]], out=piece_ML[:n])
            piece_ML[:n].add_(updates_NL)
            if origin:
                piece_ML[n].copy_(starts_CL[rows[0]])
            add_gram(gram_MM, piece_ML, precision, columns=columns)
        return
    compiled, indices, m = loops(), np.asarray(rows), n + origin
    tile = _tile(m)

    def part(first: int, last: int) -> Tensor:
        starts_CL, updates_NL, moved_MK = (
            starts_CK[:, first:last],
            block_NK[:, first:last],
            empty_rows(m, tile, dtype=torch.float32),
        )
        compiled.trained_gram(
            compiled.gram,
            flat(starts_CL),
            starts_CL.stride(0),
            indices,
            flat(updates_NL),
            updates_NL.stride(0),
            last - first,
            flat(moved_MK),
            moved_MK.stride(0),
            tile,
            _TOGETHER,
            origin,
            out_MM := np.zeros((m + 2, m + 2)),
        )
        return _symmetric(out_MM, m)

    for part_MM in _over_columns(block_NK, part):
        gram_MM += part_MM


def _large(block_NK: Tensor, columns: int) -> bool:
    """Whether the compiled loops take a block of a matrix of so many columns."""
    on_cpu = block_NK.device.type == "cpu" and block_NK.dtype == torch.float32 and block_NK.stride(1) == 1
    return on_cpu and len(block_NK) * max(columns, block_NK.shape[1]) >= _COMPILE_FROM


def empty_rows(n: int, columns: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """An uninitialised (n, columns) matrix whose rows start on cache lines, no two of them in the same cache sets."""
    line = 16
    return torch.empty((n, (-(-columns // line) | 1) * line), dtype=dtype, device=device)[:, :columns]


def _sum(gram: Callable[[Tensor], Tensor], block_NK: Tensor, dtype: torch.dtype) -> Tensor:
    total_NN = torch.zeros((len(block_NK),) * 2, dtype=torch.float64, device=block_NK.device)
    for _, piece_NK in _pieces(block_NK, dtype):
        total_NN += gram(piece_NK)
    return total_NN


def _batched_gram(block_NK: Tensor) -> Tensor:
    whole = block_NK.shape[1] // _TILE * _TILE
    tiles_TNK = block_NK[:, :whole].unflatten(1, (-1, _TILE)).transpose(0, 1)
    with full_precision():
        total_NN = block_NK[:, whole:] @ block_NK[:, whole:].T
        for some_TNK in tiles_TNK.split(max(1, (1 << 24) // len(block_NK) ** 2)):
            total_NN += torch.bmm(some_TNK, some_TNK.transpose(1, 2)).sum(0)
    return total_NN


def _compiled_gram(block_NK: Tensor) -> Tensor:
    n, columns = block_NK.shape
    out_NN = np.zeros((n + 2, n + 2))
    loops().gram(flat(block_NK), block_NK.stride(0), n, columns, _tile(n), out_NN)
    return _symmetric(out_NN, n)


def _tile(n: int) -> int:
    """Columns of which n rows fill half a megabyte of cache."""
    return max(256, min(_TILE, (1 << 17) // n // 256 * 256))


def _symmetric(out_NN: np.ndarray, n: int) -> Tensor:
    upper_NN = torch.from_numpy(out_NN)[:n, :n].triu()
    return upper_NN + upper_NN.triu(1).T


def _mix(out_CK: Tensor, weights_CN: Tensor, block_NK: Tensor) -> None:
    if block_NK.device.type != "cpu":
        with full_precision():
            out_CK.addmm_(weights_CN, block_NK)
        return
    for first in range(0, block_NK.shape[1], _MIX_COLUMNS):
        columns = slice(first, first + _MIX_COLUMNS)
        for weights_CG, block_GK in zip(weights_CN.split(_MIX_ROWS, 1), block_NK[:, columns].split(_MIX_ROWS)):
            out_CK[:, columns].addmm_(weights_CG, block_GK)


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
    buffer_NK = empty_rows(n, min(step, columns), dtype=dtype, device=block_NK.device)
    for first in range(0, columns, step):
        piece_NK = buffer_NK[:, : columns - first]
        yield first, piece_NK.copy_(block_NK[:, first : first + step])


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in true float32, whatever the training chose (TensorFloat-32 has 10 bits of mantissa)."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before


def _over_columns(block_NK: Tensor, part: Callable[[int, int], Any]) -> list[Any]:
    """`part(first, last)` of each share of the columns: on the CPU one for each of torch's threads, elsewhere all.

    Each thread computes alone: threads that meet after every small product would mostly wait for each other.
    """
    columns = block_NK.shape[1]
    threads = torch.get_num_threads() if block_NK.device.type == "cpu" else 1
    edges = [*range(0, columns, max(_TILE, -(-columns // threads // _TILE) * _TILE)), columns]
    if len(edges) <= 2:
        return [part(0, columns)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(part, edges[:-1], edges[1:]))
    finally:
        torch.set_num_threads(threads)


def load_loop() -> None:
    """Load or compile the loop of large Gram products now: the first such product takes a second and memory for it."""
    _compiled_gram(torch.ones(1, 1))
