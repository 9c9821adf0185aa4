"""What clients send back: backbone updates as the rows of one matrix, in memory or in files that the clients left.

`Layout` orders a backbone's tensors; `Updates` holds one round's replies. Everything after it reads the matrix by
column ranges (`Updates.columns`), so nothing needs all updates in memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from matfl.server.files import FileMatrix, FileTensors, save_tensors
from matfl.server.kernels import empty_rows

__all__ = ["ClientUpdate", "Layout", "Slot", "Updates", "save_update"]

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
    """Parameters whose similarity groups the clients (section 5.2), see `matfl.models.network.voting_layers`."""

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
    _check(name, None if tensor is None else tuple(tensor.shape), slot)
    assert tensor is not None
    return tensor.detach()


def _check(name: str, shape: tuple[int, ...] | None, slot: Slot) -> None:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientUpdate:
    """What one client sends after local training."""

    client: int
    """The client's number."""
    state: nn.Module | State
    """Its trained backbone, or a state dict of it."""
    start_P: Tensor
    """The parameters that were dispatched to it (a row of the server's models)."""
    head: State = field(default_factory=dict)
    """The state dict of its head; empty when the head stays with the client."""


@dataclass(frozen=True, kw_only=True)
class Updates:
    """One round's replies: row n of every field is client `clients[n]`."""

    layout: Layout
    clients: tuple[int, ...]
    """Who replied, in the order of the rows."""
    updates_NP: Tensor | FileMatrix
    """Parameters after local training minus those dispatched (section 3.1)."""
    buffers_NB: Tensor
    """Floating-point buffers after local training."""
    heads: tuple[State, ...]
    """State dicts of the clients' heads."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Clients whose files could not be read, and why; they have no row."""
    zero: tuple[int, ...] = ()
    """Clients whose update is zero everywhere, once `matfl.server.aggregation.screen` has looked."""

    def __post_init__(self) -> None:
        n = len(self.clients)
        expected = {"updates_NP": (n, self.layout.P), "buffers_NB": (n, self.layout.B)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, but {n} clients of this "
                    f"backbone need {shape}"
                )
        if len(self.heads) != n or len(set(self.clients)) != n:
            raise ValueError(f"clients={self.clients}, {len(self.heads)} heads: give each client once, with one head")

    @classmethod
    def of(
        cls,
        layout: Layout,
        replies: Iterable[ClientUpdate],
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Updates:
        """The replies, each written once into its row as it comes (`replies` may be a generator that trains).

        `capacity` is the most replies to expect, needed when `replies` has no length. Tensors are on the device of
        `start_P`. Raises ValueError naming the client and the tensor when a shape is wrong.
        """
        if capacity is None:
            replies = list(replies)
            capacity = len(replies)
        clients: list[int] = []
        heads: list[State] = []
        updates_NP, buffers_NB = layout.empty(0, dtype=dtype), torch.empty(0, layout.B)
        for row, reply in enumerate(replies):
            if row == 0:
                updates_NP = layout.empty(capacity, dtype=dtype, device=reply.start_P.device)
                buffers_NB = torch.empty((capacity, layout.B), device=reply.start_P.device)
            if row == capacity:
                raise ValueError(f"capacity={capacity}: more replies came; give the number of clients in the round")
            try:
                layout.subtract(reply.state, reply.start_P, out=updates_NP[row])
                layout.flatten_buffers(reply.state, out=buffers_NB[row])
            except ValueError as error:
                raise ValueError(f"client {reply.client}: {error}") from None
            clients.append(reply.client)
            heads.append({name: tensor.detach().clone() for name, tensor in reply.head.items()})
        n = len(clients)
        return cls(
            layout=layout,
            clients=tuple(clients),
            updates_NP=updates_NP[:n],
            buffers_NB=buffers_NB[:n],
            heads=tuple(heads),
        )

    @classmethod
    def stream(
        cls,
        layout: Layout,
        files: Mapping[int, str | Path],
        *,
        memory: int = 128 << 20,
        device: torch.device | str = "cpu",
    ) -> Updates:
        """The updates in the clients' files (`save_update`), read anew by column ranges whenever they are needed.

        Columns pass through a buffer of about `memory` bytes; only batch-norm statistics are held. A client whose file
        is absent or damaged is `unreadable`. Raises ValueError naming client and tensor when a shape is wrong.
        """
        unreadable: dict[int, str] = {}
        updates: dict[int, FileTensors] = {}
        buffers: dict[int, Tensor] = {}
        heads: dict[int, FileTensors] = {}
        for client, path in files.items():
            try:
                tensors = FileTensors.of(path)
                updates[client], heads[client] = tensors.part("update/"), tensors.part("head/")
                for name, slot in layout.parameters.items():
                    _check(name, updates[client].shape(name), slot)
                buffers[client] = layout.flatten_buffers(tensors.part("buffer/")).float()
            except OSError as error:
                unreadable[client] = str(error)
            except ValueError as error:
                raise ValueError(f"client {client}: {error}") from None
        clients = tuple(client for client in files if client not in unreadable)
        matrix = FileMatrix(
            files=tuple(updates[client] for client in clients),
            names=tuple(layout.parameters),
            edges=(*(slot.start for slot in layout.parameters.values()), layout.P),
            memory=memory,
            device=torch.device(device),
        )
        buffers_NB = torch.stack([buffers[client] for client in clients]) if clients else torch.empty(0, layout.B)
        return cls(
            layout=layout,
            clients=clients,
            updates_NP=matrix,
            buffers_NB=buffers_NB.to(device),
            heads=tuple(heads[client] for client in clients),
            unreadable=unreadable,
        )

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def device(self) -> torch.device:
        """Where the columns are."""
        return self.updates_NP.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the columns."""
        return self.updates_NP.dtype

    def columns(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(first column, columns (N, K)) that together cover [start, stop), all parameters by default.

        In memory this is one view; from files, pieces that are each valid until the next.
        """
        stop = self.layout.P if stop is None else stop
        if isinstance(self.updates_NP, FileMatrix):
            yield from self.updates_NP.columns(start, stop)
        elif start < stop:
            yield start, self.updates_NP[:, start:stop]

    def select(self, rows: Sequence[int]) -> Updates:
        """The replies in some of the rows, in that order; a copy of their updates when they are in memory."""
        if list(rows) == list(range(len(self))):
            return self
        matrix = self.updates_NP
        return replace(
            self,
            clients=tuple(self.clients[n] for n in rows),
            updates_NP=matrix.rows(rows) if isinstance(matrix, FileMatrix) else matrix[list(rows)],
            buffers_NB=self.buffers_NB[list(rows)],
            heads=tuple(self.heads[n] for n in rows),
        )


def save_update(path: str | Path, layout: Layout, update: ClientUpdate) -> None:
    """Write what one client sends to a safetensors file that `Updates.stream` reads.

    Its tensors are `update/<name>` (parameters minus those dispatched), `buffer/<name>` and `head/<name>`.
    """
    row_P = layout.subtract(update.state, update.start_P)
    views = layout.unflatten(row_P, layout.flatten_buffers(update.state))
    tensors = {f"{'update' if name in layout.parameters else 'buffer'}/{name}": view for name, view in views.items()}
    save_tensors(path, tensors | {f"head/{name}": tensor for name, tensor in update.head.items()})
