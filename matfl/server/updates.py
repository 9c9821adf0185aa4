"""What clients send back: backbone updates as the rows of one matrix, in memory or in files that the clients left.

`Updates` holds one round's replies. Everything after it reads the matrix by column ranges (`Updates.columns`), so
nothing needs all updates in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from matfl.server.files import WINDOW, FileMatrix, FileTensors, save_tensors
from matfl.server.layout import Layout, Slot, State, check_shape

__all__ = ["ClientUpdate", "Layout", "Rows", "Slot", "Updates", "save_update"]


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
    """One round's replies: row n of every field is client `clients[n]`.

    >>> import matfl, torch
    >>> from matfl.server.updates import ClientUpdate, Layout
    >>> layout = Layout.of({"w": torch.zeros(2)}, parameters=["w"], voting=["w"])
    >>> zero_P = torch.zeros(2)
    >>> trained = [torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])]
    >>> replies = [ClientUpdate(client=n, state={"w": w}, start_P=zero_P) for n, w in enumerate(trained)]
    >>> updates = matfl.Updates.of(layout, replies)
    >>> len(updates), updates.clients
    (2, (0, 1))
    >>> [(first, tuple(block_NK.shape)) for first, block_NK in updates.columns()]
    [(0, (2, 2))]
    """

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
    """Clients whose update is zero everywhere, once `matfl.server.screening.screen` has looked."""

    taken: Callable[[Tensor], Tensor] | None = None
    """What becomes of columns (N, K) as they are read (`through`)."""

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
    def of(cls, layout: Layout, replies: Sequence[ClientUpdate], *, dtype: torch.dtype = torch.float32) -> Updates:
        """All of `replies` in memory. Raises ValueError naming the client and the tensor when a shape is wrong."""
        rows = Rows(layout, len(replies), dtype=dtype)
        for reply in replies:
            rows.add(reply)
        return rows.updates()

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
                    check_shape(name, updates[client].shape(name), slot)
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

        Pieces of `WINDOW` columns, in memory and from files alike, so that both give the same sums to the bit; those
        from files are each valid until the next.
        """
        stop = self.layout.P if stop is None else stop
        for first, block_NK in self._columns(start, stop):
            yield first, self.taken(block_NK) if self.taken and len(self) else block_NK

    def _columns(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        if isinstance(self.updates_NP, FileMatrix):
            yield from self.updates_NP.columns(start, stop)
            return
        for first in range(start, stop, WINDOW):
            yield first, self.updates_NP[:, first : min(first + WINDOW, stop)]

    def through(self, take: Callable[[Tensor], Tensor]) -> Updates:
        """The replies with `take(columns)` in the place of the columns (N, K) that are read, and of the buffers."""
        return replace(self, taken=take, buffers_NB=take(self.buffers_NB) if len(self) else self.buffers_NB)

    def scaled(self, factors: Sequence[float]) -> Updates:
        """The replies with each update times its factor; those in memory are changed in place."""
        matrix = self.updates_NP
        if isinstance(matrix, FileMatrix):
            return replace(self, updates_NP=replace(matrix, scales=tuple(factors)))
        for row_P, factor in zip(matrix, factors):
            if factor != 1:
                row_P.mul_(factor)
        return self

    def holding(self, updates_NP: Tensor) -> Updates:
        """The same replies with other updates, in memory."""
        return replace(self, updates_NP=updates_NP)

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


class Rows:
    """Replies that are written into the rows of one matrix as they come.

    >>> layout = Layout.of({"w": torch.zeros(2)}, parameters=["w"])
    >>> rows = Rows(layout, 2)
    >>> rows.add(ClientUpdate(client=4, state={"w": torch.ones(2)}, start_P=torch.zeros(2)))
    >>> rows.updates().clients
    (4,)
    """

    def __init__(self, layout: Layout, capacity: int, *, dtype: torch.dtype = torch.float32) -> None:
        """`capacity` is the most replies to expect."""
        self.layout, self.capacity, self.dtype = layout, capacity, dtype
        self.clients: list[int] = []
        self.heads: list[State] = []
        self._updates_NP, self._buffers_NB = layout.empty(0, dtype=dtype), torch.empty(0, layout.B)

    def add(self, reply: ClientUpdate) -> None:
        """Copy a reply into the next row, on the device of its `start_P`.

        Raises ValueError naming the client and the tensor when a shape is wrong; the row is then free again.
        """
        row = len(self.clients)
        if row == self.capacity:
            raise ValueError(f"capacity={self.capacity}: more replies came; give the number of clients in the round")
        if row == 0:
            device = reply.start_P.device
            self._updates_NP = self.layout.empty(self.capacity, dtype=self.dtype, device=device)
            self._buffers_NB = torch.empty((self.capacity, self.layout.B), device=device)
        try:
            self.layout.subtract(reply.state, reply.start_P, out=self._updates_NP[row])
            self.layout.flatten_buffers(reply.state, out=self._buffers_NB[row])
        except ValueError as error:
            raise ValueError(f"client {reply.client}: {error}") from None
        self.clients.append(reply.client)
        self.heads.append({name: tensor.detach().clone() for name, tensor in reply.head.items()})

    def close(self) -> None:
        """Let go of the matrix."""
        self._updates_NP, self._buffers_NB = self.layout.empty(0, dtype=self.dtype), torch.empty(0, self.layout.B)

    def updates(self) -> Updates:
        """What has come so far; views of the rows."""
        n = len(self.clients)
        return Updates(
            layout=self.layout,
            clients=tuple(self.clients),
            updates_NP=self._updates_NP[:n],
            buffers_NB=self._buffers_NB[:n],
            heads=tuple(self.heads),
        )


def save_update(path: str | Path, layout: Layout, update: ClientUpdate) -> None:
    """Write what one client sends to a safetensors file that `Updates.stream` reads.

    Its tensors are `update/<name>` (parameters minus those dispatched), `buffer/<name>` and `head/<name>`.
    """
    row_P = layout.subtract(update.state, update.start_P)
    views = layout.unflatten(row_P, layout.flatten_buffers(update.state))
    tensors = {f"{'update' if name in layout.parameters else 'buffer'}/{name}": view for name, view in views.items()}
    save_tensors(path, tensors | {f"head/{name}": tensor for name, tensor in update.head.items()})
