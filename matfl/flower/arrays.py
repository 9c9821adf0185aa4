"""Models as Flower's arrays: four flat ones each, so that a message is hardly larger than the numbers in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from matfl.server.layout import Layout

__all__ = ["DTYPES", "Precision", "Wire", "from_arrays", "size", "to_arrays"]

State = Mapping[str, Tensor]
Precision = Literal["fp32", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
"""Of parameters on the wire; Flower's arrays have no bfloat16."""

_HEADER = 1 << 14
"""Bytes in which numpy's header of an array ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """The order in which the tensors of one pair's model travel; client and server derive it from the config.

    Arrays 'backbone' and 'head' hold the parameters, 'backbone.buffers' and 'head.buffers' the batch-norm statistics.
    The latter are float32 in any case: they are few, and small variances would vanish in fp16. Integer buffers do not
    travel, since nothing depends on them.
    """

    parts: Mapping[str, Layout]
    """Of 'backbone' and 'head'."""

    def encode(self, state: State, precision: Precision, *, start: State | None = None) -> ArrayRecord:
        """A model's floating-point tensors, the parameters minus those of `start` if that is given."""
        record = ArrayRecord()
        for part, layout in self.parts.items():
            own = _part(state, part)
            row_P = layout.flatten(own)
            if start is not None:
                row_P -= layout.flatten(_part(start, part))
            record[part] = Array(row_P.to("cpu", DTYPES[precision]).numpy())
            record[f"{part}.buffers"] = Array(layout.flatten_buffers(own).to("cpu", torch.float32).numpy())
        return record

    def decode(
        self,
        record: ArrayRecord,
        precision: Precision,
        *,
        start: State | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """The model that was encoded, in float32 on `device`; the arrays are taken out of `record` one by one.

        Raises ValueError when an array is missing or unknown, or has another type or length than this network's.
        """
        state: dict[str, Tensor] = {}
        for part, layout in self.parts.items():
            row_P = _take(record, part, layout.P, DTYPES[precision]).to(device, torch.float32)
            if start is not None:
                row_P += layout.flatten(_part(start, part)).to(device)
            row_B = _take(record, f"{part}.buffers", layout.B, torch.float32).to(device)
            state |= {f"{part}.{name}": tensor for name, tensor in layout.unflatten(row_P, row_B).items()}
        if unknown := next(iter(record), None):
            raise ValueError(f"array {unknown!r} is unknown")
        return state


def to_arrays(tensors: State) -> ArrayRecord:
    """A method's tensors as they are, each an array of its name. Raises ValueError for a type that Flower lacks."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            raise ValueError(f"tensor {name!r} is bfloat16, which Flower's arrays lack: send float32 or float16")
        record[name] = Array(tensor.detach().cpu().numpy())
    return record


def from_arrays(
    record: ArrayRecord, device: torch.device | str = "cpu", *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """What `to_arrays` was given, on `device`. Raises ValueError naming an array that cannot be read.

    Where `shapes` are given, an array of another name or shape is not read: its place is taken by a tensor on the
    device 'meta' of the shape that it claims, for whoever checks names and shapes to refuse.
    """
    tensors = {}
    for name, array in record.items():
        shape, _ = _announced(name, array)
        if shapes is not None and tuple(shapes.get(name, (-1,))) != shape:
            tensors[name] = torch.empty(shape, device="meta")
            continue
        try:
            tensors[name] = torch.from_numpy(array.numpy()).clone().to(device)
        except (ValueError, TypeError, EOFError, OSError) as error:
            raise ValueError(f"array {name!r} cannot be read ({type(error).__name__})") from None
    return tensors


def _announced(name: str, array: Array) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type by the header of an array's bytes, which is all of them that is read.

    Raises ValueError where there is none, or where the bytes are not as many as it says.
    """
    head = BytesIO(array.data[:_HEADER])
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(head)
    except (ValueError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"array {name!r} cannot be read ({type(error).__name__})") from None
    if dtype.hasobject or len(array.data) - head.tell() != dtype.itemsize * math.prod(shape):
        raise ValueError(
            f"array {name!r} holds {len(array.data) - head.tell()} bytes, not those of {dtype} of shape {shape}: it "
            "cannot be read"
        )
    return tuple(int(side) for side in shape), dtype


def size(record: ArrayRecord) -> int:
    """Bytes of the record's arrays."""
    return sum(len(array.data) for array in record.values())


def _part(state: State, part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _take(record: ArrayRecord, name: str, length: int, dtype: torch.dtype) -> Tensor:
    if name not in record:
        raise ValueError(f"array {name!r} is missing")
    array = record.pop(name)
    shape, found = _announced(name, array)
    expected = str(dtype).removeprefix("torch.")
    if shape != (length,) or found != expected:
        raise ValueError(
            f"array {name!r} is {found} of shape {shape}, but this network's is {expected} of "
            f"shape ({length},): another network was trained"
        )
    try:
        return torch.from_numpy(array.numpy())
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise ValueError(f"array {name!r} cannot be read ({type(error).__name__})") from None
