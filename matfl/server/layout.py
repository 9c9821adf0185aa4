"""How a backbone's tensors lie in flat rows, so that a round's updates are one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from matfl.server.kernels import empty_rows

__all__ = ["Layout", "Slot", "State", "check_shape"]

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in a flat row: elements `start` to `stop`, in the tensor's `shape`."""

    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The order of a backbone's tensors in flat rows: that of its state dict."""

    parameters: Mapping[str, Slot]
    """Floating-point parameters: mixed as updates, in rows of `P` elements."""
    buffers: Mapping[str, Slot]
    """Floating-point buffers (batch-norm statistics): mixed as values, in rows of `B` elements."""
    integers: tuple[str, ...]
    """Everything else (`num_batches_tracked`): never mixed; a model keeps its own."""
    voting: tuple[str, ...] = ()
    """Parameters whose similarity groups the clients (section 5.2), see `matfl.models.backbone.voting_layers`."""

    @classmethod
    def of(
        cls, source: nn.Module | State, *, parameters: Iterable[str] | None = None, voting: Iterable[str] = ()
    ) -> Layout:
        """The layout of a module, or of a state dict together with the names of its `parameters`.

        Raises ValueError when a name is not among the floating-point parameters.
        """
        if isinstance(source, nn.Module):
            if parameters is None:
                parameters = [name for name, _ in source.named_parameters(remove_duplicate=False)]
            source = source.state_dict()
        elif parameters is None:
            raise ValueError(
                "a state dict does not say which tensors are parameters: pass parameters=[names], or the module itself"
            )
        chosen, voting = frozenset(parameters), tuple(voting)
        floating = {name: tuple(tensor.shape) for name, tensor in source.items() if tensor.is_floating_point()}
        slots = _slots({name: shape for name, shape in floating.items() if name in chosen})
        for name in (*chosen, *voting):
            if name not in slots:
                raise ValueError(
                    f"{name!r} is not a floating-point parameter of the backbone: choose from its "
                    f"{len(slots)} parameters ({', '.join(list(slots)[:3])}, ...)"
                )
        return cls(
            parameters=slots,
            voting=voting,
            integers=tuple(name for name in source if name not in floating),
            buffers=_slots({name: shape for name, shape in floating.items() if name not in chosen}),
        )

    @property
    def P(self) -> int:
        """Number of parameters."""
        return _length(self.parameters)

    @property
    def B(self) -> int:
        """Number of floating-point buffer elements."""
        return _length(self.buffers)

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Parameters and floating-point buffers by the first part of their names: 'conv1', 'bn1', 'layer1', ..."""
        found: dict[str, tuple[str, ...]] = {}
        for name in (*self.parameters, *self.buffers):
            first = name.partition(".")[0]
            found[first] = (*found.get(first, ()), name)
        return found

    def empty(self, n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """An uninitialised (n, P) matrix, laid out for fast products (`matfl.server.kernels.empty_rows`)."""
        return empty_rows(n, self.P, dtype=dtype, device=device)

    def flatten(self, source: nn.Module | State, *, out: Tensor | None = None) -> Tensor:
        """The parameters as one row (P,), copied once; into `out` when given, else in the parameters' own dtype."""
        return _fill(self.parameters, _state(source), out)

    def flatten_buffers(self, source: nn.Module | State, *, out: Tensor | None = None) -> Tensor:
        """The floating-point buffers as one row (B,), copied once; into `out` when given."""
        return _fill(self.buffers, _state(source), out)

    def subtract(self, source: nn.Module | State, start_P: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The update (P,) of a trained backbone: its parameters minus `start_P`, those that were dispatched to it."""
        state = _state(source)
        row_P = torch.empty_like(start_P) if out is None else out
        for name, slot in self.parameters.items():
            tensor = _tensor(state, name, slot)
            part = slice(slot.start, slot.stop)
            torch.sub(tensor, start_P[part].view(slot.shape), out=row_P[part].view(slot.shape))
        return row_P

    def unflatten(self, row_P: Tensor, row_B: Tensor | None = None) -> dict[str, Tensor]:
        """Named views into the rows: the parameters, and the buffers when `row_B` is given."""
        return _views(self.parameters, row_P) | ({} if row_B is None else self.unflatten_buffers(row_B))

    def unflatten_buffers(self, row_B: Tensor) -> dict[str, Tensor]:
        """Named views into a row of buffers."""
        return _views(self.buffers, row_B)


def _slots(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot]:
    ends = list(accumulate((math.prod(shape) for shape in shapes.values()), initial=0))
    return {name: Slot(start, stop, shape) for (name, shape), start, stop in zip(shapes.items(), ends, ends[1:])}


def _views(slots: Mapping[str, Slot], row: Tensor) -> dict[str, Tensor]:
    return {name: row[slot.start : slot.stop].view(slot.shape) for name, slot in slots.items()}


def _length(slots: Mapping[str, Slot]) -> int:
    return max((slot.stop for slot in slots.values()), default=0)


def _state(source: nn.Module | State) -> State:
    return source.state_dict() if isinstance(source, nn.Module) else source


def _tensor(state: State, name: str, slot: Slot) -> Tensor:
    tensor = state.get(name)
    check_shape(name, None if tensor is None else tuple(tensor.shape), slot)
    assert tensor is not None
    return tensor.detach()


def check_shape(name: str, shape: tuple[int, ...] | None, slot: Slot) -> None:
    """Raise ValueError naming the tensor where it is missing (`shape` is None) or has another shape than its slot."""
    if shape is None:
        raise ValueError(f"tensor {name!r} is missing: send the whole backbone")
    if shape != slot.shape:
        raise ValueError(
            f"tensor {name!r} has shape {shape}, but the backbone's is {slot.shape}: the client trained another network"
        )


def _fill(slots: Mapping[str, Slot], state: State, out: Tensor | None) -> Tensor:
    tensors = [_tensor(state, name, slot) for name, slot in slots.items()]
    if out is None:
        like = tensors[0] if tensors else torch.empty(0)
        out = torch.empty(_length(slots), dtype=like.dtype, device=like.device)
    for tensor, slot in zip(tensors, slots.values()):
        out[slot.start : slot.stop].view(slot.shape).copy_(tensor)
    return out
