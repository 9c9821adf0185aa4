"""How an update is packed on its way to the server: fewer bits a number, or fewer numbers.

    bf16    the upper half of each float32: 2 bytes a number
    int8    127 steps of the largest number among each 1024: 1 byte a number, with error feedback
    topk    the largest numbers alone, each with its place: 8 bytes a number that is sent, with error feedback

Error feedback (Seide et al. 2014; Karimireddy et al. 2019): what packing lost is kept by the client and added to its
next update, so that nothing is lost for good. A codec sees the change of all learned tensors, backbone and head, as one
row; batch-norm statistics travel as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.registry import Registry

__all__ = ["CODECS", "Codec", "changed", "codec_of", "expected", "learned", "pack", "statistics", "unpack"]

State = Mapping[str, Tensor]
Form = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class Codec:
    """A way to pack a row of numbers. Subclasses say how; `CODECS.register` makes one known to server and clients."""

    name: ClassVar[str]
    feedback: ClassVar[bool] = False
    """Whether the client keeps what packing lost."""

    def of(self, config: RunConfig) -> Codec:
        """The codec with the run's parameters."""
        return self

    def encode(self, row_K: Tensor) -> dict[str, Tensor]:
        """What travels of a float32 row."""
        raise NotImplementedError

    def decode(self, packed: State, length: int) -> Tensor:
        """The row (K,) in float32. What is packed has the form that `forms` announces."""
        raise NotImplementedError

    def forms(self, length: int) -> dict[str, Form]:
        """Shape and type of what `encode` gives of a row of `length` numbers."""
        raise NotImplementedError


CODECS: Registry[Codec] = Registry("codec", builtin="matfl.server.codecs")


class Halves(Codec):
    """bfloat16."""

    name = "bf16"

    def encode(self, row_K: Tensor) -> dict[str, Tensor]:
        return {"values": row_K.bfloat16().view(torch.int16)}  # a type that any transport has

    def decode(self, packed: State, length: int) -> Tensor:
        return packed["values"].view(torch.bfloat16).float()

    def forms(self, length: int) -> dict[str, Form]:
        return {"values": ((length,), torch.int16)}


class Bytes(Codec):
    """int8 with a scale for every block of numbers."""

    name, feedback = "int8", True
    block: ClassVar[int] = 1024

    def encode(self, row_K: Tensor) -> dict[str, Tensor]:
        blocks_BK = torch.nn.functional.pad(row_K, (0, -len(row_K) % self.block)).view(-1, self.block)
        scale_B = blocks_BK.abs().amax(1) / 127
        steps_BK = (blocks_BK / scale_B.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
        return {"values": steps_BK.nan_to_num().to(torch.int8).view(-1)[: len(row_K)], "scales": scale_B}

    def decode(self, packed: State, length: int) -> Tensor:
        scale_K = packed["scales"].repeat_interleave(self.block)[:length]
        return packed["values"].float() * scale_K

    def forms(self, length: int) -> dict[str, Form]:
        return {"values": ((length,), torch.int8), "scales": ((-(-length // self.block),), torch.float32)}


@dataclass(frozen=True)
class TopK(Codec):
    """The largest numbers and their places."""

    name, feedback = "topk", True
    share: float = 0.01
    """Of the numbers that are sent; one at least."""

    def of(self, config: RunConfig) -> Codec:
        return replace(self, share=config.codec_share)

    def encode(self, row_K: Tensor) -> dict[str, Tensor]:
        places = row_K.abs().topk(self._count(len(row_K))).indices.sort().values
        return {"places": places.to(torch.int32), "values": row_K[places]}

    def decode(self, packed: State, length: int) -> Tensor:
        places = packed["places"].long()
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < length:
            raise ValueError(f"a place outside 0..{length - 1} among the numbers sent")
        row_K = torch.zeros(length, device=places.device)
        row_K[places] = packed["values"]
        return row_K

    def forms(self, length: int) -> dict[str, Form]:
        count = self._count(length)
        return {"places": ((count,), torch.int32), "values": ((count,), torch.float32)}

    def _count(self, length: int) -> int:
        return min(length, max(1, round(self.share * length)))


with CODECS.filling():
    for _codec in (Halves(), Bytes(), TopK()):
        CODECS.register(_codec)


def codec_of(config: RunConfig) -> Codec | None:
    """The config's codec; None for 'none'. Raises ValueError naming those that are known here."""
    if config.codec == "none":
        return None
    if config.codec not in CODECS:
        raise ValueError(
            f"codec={config.codec!r} is unknown here: choose 'none', {', '.join(map(repr, CODECS))}; one from a "
            "plug-in must be installed on the server and on every client"
        )
    return CODECS[config.codec].of(config)


def learned(state: State) -> list[str]:
    """The names of the floating-point tensors that are trained, sorted: a state that was stored has another order."""
    return sorted(name for name, t in state.items() if t.is_floating_point() and not _measured(name))


def statistics(state: State) -> list[str]:
    """The names of the batch-norm statistics, sorted."""
    return sorted(name for name, t in state.items() if t.is_floating_point() and _measured(name))


def _measured(name: str) -> bool:
    return name.rpartition(".")[2].startswith("running_")


def _flat(state: State, names: list[str]) -> Tensor:
    return torch.cat([state[name].detach().flatten().float() for name in names] or [torch.zeros(0)])


def changed(state: State, start: State, names: list[str]) -> Tensor:
    """(K,) float32: the tensors of these names minus those of `start`, one after another."""
    return _flat(state, names) - _flat(start, names)


def moved(start: State, change_K: Tensor, names: list[str]) -> dict[str, Tensor]:
    """`start` plus a change of the tensors of these names; the others as they are."""
    found, first = dict(start), 0
    for name in names:
        tensor = start[name]
        step = change_K[first : first + tensor.numel()].view(tensor.shape)
        found[name], first = (tensor + step.to(tensor)).to(tensor.dtype), first + tensor.numel()
    return found


def pack(state: State, start: State, codec: Codec, residual_K: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """(what travels of a trained model by names without '/', what packing lost).

    `residual_K` is what it lost the last time.
    """
    names = learned(start)
    change_K = changed(state, start, names)
    if residual_K is not None:
        change_K = change_K + residual_K
    packed = codec.encode(change_K)
    lost_K = change_K - codec.decode(packed, len(change_K))
    return {**packed, "statistics": _flat(state, statistics(start))}, lost_K


def expected(start: State, codec: Codec) -> dict[str, Form]:
    """Shape and type of what `pack` gives of a model that was sent as `start`."""
    length = sum(start[name].numel() for name in learned(start))
    count = sum(start[name].numel() for name in statistics(start))
    return {**codec.forms(length), "statistics": ((count,), torch.float32)}


def unpack(packed: State, start: State, codec: Codec) -> dict[str, Tensor]:
    """The model that arrives. Raises ValueError naming what has another form than `expected` says."""
    for name, (shape, dtype) in expected(start, codec).items():
        if name not in packed or tuple(packed[name].shape) != shape or packed[name].dtype != dtype:
            raise ValueError(f"packed {name!r} is missing or no {dtype} of shape {shape}: another codec or network")
    names = learned(start)
    length = sum(start[name].numel() for name in names)
    state = moved(start, codec.decode(packed, length), names)
    first = 0
    for name in statistics(start):
        count = start[name].numel()
        state[name] = packed["statistics"][first : first + count].view(start[name].shape).to(start[name])
        first += count
    return state
