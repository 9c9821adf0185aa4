"""Safetensors files read piece by piece: one client's tensors, and a matrix whose rows are files.

A file's bytes are read where they are needed and never mapped, so that the memory in use stays that of one buffer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matfl.core.files import replace_file
from matfl.server.kernels import empty_rows

__all__ = ["NARROW", "WINDOW", "FileMatrix", "FileTensors", "save_tensors"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


WINDOW = 1 << 18
"""Columns of one piece of a matrix of updates."""
NARROW = 1 << 12
"""Of one piece that more than `_WHOLE` clients' updates in files are read by, where `WINDOW` does not fit."""
_WHOLE = 64


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """First byte, counted from the beginning of the file."""


@dataclass(frozen=True, slots=True)
class FileTensors(Mapping[str, Tensor]):
    """The tensors of one safetensors file by name, each read when it is asked for."""

    path: Path
    entries: Mapping[str, _Entry]

    @classmethod
    def of(cls, path: str | Path) -> FileTensors:
        """All tensors of a file. Raises OSError naming the file when it is absent or damaged."""
        path = Path(path)
        try:
            with safe_open(path, framework="pt"):  # checks lengths, offsets and shapes
                pass
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
        except SafetensorError as error:
            raise OSError(f"{path} is not a whole safetensors file ({error})") from error
        header.pop("__metadata__", None)
        if unknown := {item["dtype"] for item in header.values()} - set(_DTYPES):
            raise OSError(f"{path} holds numbers of type {unknown.pop()}: use one of {', '.join(_DTYPES)}")
        return cls(
            path,
            {
                name: _Entry(_DTYPES[item["dtype"]], tuple(item["shape"]), 8 + size + item["data_offsets"][0])
                for name, item in header.items()
            },
        )

    def part(self, prefix: str) -> FileTensors:
        """The tensors whose names start with `prefix`, which is left out of them."""
        found = {name: entry for name, entry in self.entries.items() if name.startswith(prefix)}
        return FileTensors(self.path, {name.removeprefix(prefix): entry for name, entry in found.items()})

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor; None when there is none of that name."""
        return self.entries[name].shape if name in self.entries else None

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        out = torch.empty(entry.shape, dtype=entry.dtype)
        with open(self.path, "rb", buffering=0) as file:
            _read(file.fileno(), entry.offset, out.view(-1), self.path)
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _read(descriptor: int, offset: int, out: Tensor, path: Path) -> None:
    """Fill the contiguous tensor `out` from a file's bytes at `offset`."""
    target = memoryview(out.view(torch.uint8).numpy().data) if out.numel() else memoryview(b"")
    while target:
        count = os.preadv(descriptor, [target], offset)
        if count == 0:
            raise OSError(f"{path} ends early: it changed while it was read")
        target, offset = target[count:], offset + count


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole, so that readers never see half of it."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    replace_file(Path(path), lambda temporary: save_file(whole, temporary))


@dataclass(frozen=True, kw_only=True)
class FileMatrix:
    """A matrix whose row n is the tensors of file n, flattened one after another in the order of `names`."""

    files: Sequence[FileTensors]
    names: Sequence[str]
    edges: Sequence[int]
    """First column of each tensor, and the number of columns."""
    memory: int
    """Bytes of the buffer through which columns pass."""
    device: torch.device
    scales: Sequence[float] = ()
    """Factor on each row; none: 1."""

    @property
    def shape(self) -> tuple[int, int]:
        """(files, columns)."""
        return len(self.files), self.edges[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the columns that come out: float64 when a file holds that, else float32."""
        wide = any(file.entries[name].dtype == torch.float64 for file in self.files for name in self.names)
        return torch.float64 if wide else torch.float32

    def rows(self, index: Sequence[int]) -> FileMatrix:
        """The matrix of some of the files."""
        scales = tuple(self.scales[n] for n in index) if self.scales else ()
        return replace(self, files=tuple(self.files[n] for n in index), scales=scales)

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(first column, columns (N, K)) over [start, stop), piece by piece; a piece is valid until the next one."""
        n, dtype = len(self.files), self.dtype
        fitting = self.memory // (max(n, 1) * dtype.itemsize)
        piece = WINDOW if n <= _WHOLE or fitting >= WINDOW else NARROW
        width = min(max(fitting // piece, 1) * piece, stop - start)
        buffer_NK = empty_rows(n, max(width, 0), dtype=dtype)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for first in range(start, stop, max(width, 1)):
                last = min(first + width, stop)
                piece_NK = buffer_NK[:, : last - first]
                list(pool.map(lambda row, a=first, b=last: self._fill(row, a, b, buffer_NK), range(n)))
                for low in range(0, last - first, WINDOW):
                    yield first + low, piece_NK[:, low : low + WINDOW].to(self.device)

    def _fill(self, row: int, start: int, stop: int, buffer_NK: Tensor) -> None:
        file = self.files[row]
        with open(file.path, "rb", buffering=0) as opened:
            for name, low, high in zip(self.names, self.edges[:-1], self.edges[1:]):
                a, b = max(low, start), min(high, stop)
                if a >= b:
                    continue
                entry = file.entries[name]
                target = buffer_NK[row, a - start : b - start]
                read = target if entry.dtype == target.dtype else torch.empty(b - a, dtype=entry.dtype)
                _read(opened.fileno(), entry.offset + (a - low) * entry.dtype.itemsize, read, file.path)
                if read is not target:
                    target.copy_(read)
        if self.scales and self.scales[row] != 1:
            buffer_NK[row, : stop - start].mul_(self.scales[row])
