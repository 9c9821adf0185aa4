"""What a method is: a value with parameters, that turns a round's updates into mixing weights.

A simple one is a function from `Round` to weights_NN, in whose row i client i says how much of each client's update it
takes:

    @method(title="Nearest", description="self and the most similar client")
    def nearest(round):
        s_NN = round.similarity().mean(0)
        return normalise(s_NN.where(s_NN >= s_NN.topk(2).values[:, 1:], 0))

One with parameters, server state or a part on the client is a subclass of `Method`, registered under its name:

    @register
    @dataclass(frozen=True, kw_only=True)
    class FedProx(Method):
        name, title, description = "fedprox", "FedProx", "fedavg with a proximal term in local training"
        mu: float = 0.01

        def mix(self, round):
            return Mixing(weights_NN=round.rows(torch.ones(round.n, round.n)))

        def client(self, local):
            local.train(correct=local.pull(self.mu))
            return {}
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from matfl.config.parameters import METHODS
from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.server.grouping import cosine, normalise, similarity
from matfl.server.kernels import add_mixed, product_dtype
from matfl.server.mixing import Mixing
from matfl.server.models import Models
from matfl.server.sketches import Sketcher, sketch, sketch_gram
from matfl.server.updates import Updates

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["METHODS", "Dispatch", "Method", "Result", "Round", "method", "method_of", "register"]

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a client reports beside its model."""

    client: int
    loss: float
    """Mean training loss; not finite where training broke down."""
    images: int
    """Image passes."""
    seconds: float
    """Its part of the round took so long."""
    steps: int = 0
    """Optimiser steps."""
    message: Tensors = field(default_factory=dict)
    """What the method's `client` returned."""


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """A round before its clients train."""

    number: int
    """1-based; 0 where the state before the first round is made (`Method.start`)."""
    config: RunConfig
    models: Models
    """The server's models as they are dispatched."""
    client_tasks: tuple[str, ...]
    """The name of each client's pair, by client number."""
    participants: tuple[int, ...] = ()
    """The clients that train in the round, ascending."""
    state: Tensors = field(default_factory=dict)
    """The method's own server state."""

    def generator(self, *keys: int | str) -> torch.Generator:
        """A fresh CPU generator that depends on the run's seed, its method, the round and `keys` alone."""
        return stream(self.config.seed, "method", self.config.method, self.number, *keys)


@dataclass(frozen=True, kw_only=True)
class Round(Dispatch):
    """A round whose replies have come. Row n of everything is client `updates.clients[n]`, ascending.

    >>> import matfl, torch
    >>> @matfl.method(title="Same task", description="the mean of the clients of one's task")
    ... def same_task(round):
    ...     return round.rows(round.same(round.tasks).float())
    >>> matfl.run("smoke", method="same_task").diagnostics["weights"][0, 0].round(2)
    array([0.5, 0.5, 0. , 0. ], dtype=float32)
    """

    updates: Updates
    tasks: tuple[Hashable, ...]
    """The task of each row."""
    replies: tuple[Result, ...] = ()
    """What the client of each row reported."""
    starts: tuple[int, ...] = ()
    """The row of `models` from which the client of each row started."""

    @property
    def n(self) -> int:
        """Clients whose replies can be mixed; 0 where none came."""
        return len(self.updates)

    def similarity(self) -> Tensor:
        """(L, N, N): cosines of the voting layers' updates (equation 5), or estimates of them with `config.sketch`."""
        updates, layers = self.updates, self.updates.layout.voting
        if not self.config.sketch:
            return similarity(updates, layers)
        sketcher = Sketcher(length=self.config.sketch, seed=self.config.seed)
        return cosine(sketch_gram(sketch(updates, layers, sketcher))).to(product_dtype(updates.dtype))

    def rows(self, weights_NN: Tensor) -> Tensor:
        """Rows of weights scaled to sum to 1 (`normalise`), on the updates' device, in their products' precision."""
        updates = self.updates
        return normalise(weights_NN.to(updates.device, torch.float64)).to(product_dtype(updates.dtype))

    def same(self, labels: tuple[Hashable, ...] | list[int]) -> Tensor:
        """bool (N, N): which clients share a label (`round.same(round.tasks)`)."""
        return torch.tensor([[a == b for b in labels] for a in labels], dtype=torch.bool).view(len(labels), len(labels))

    def trained(self, weights_KN: Tensor) -> Tensor:
        """(K, P): combinations of the clients' trained backbones, weights_KN @ (what they started from + updates)."""
        theta_CP = self.models.theta_CP
        out_KP = self.models.layout.empty(len(weights_KN), dtype=theta_CP.dtype, device=theta_CP.device).zero_()
        starts_CN = torch.zeros(len(theta_CP), self.n, dtype=torch.float64)
        starts_CN[list(self.starts), range(self.n)] = 1
        add_mixed(out_KP, weights_KN.double().cpu() @ starts_CN.T, theta_CP)
        for first, block_NK in self.updates.columns():
            add_mixed(out_KP[:, first : first + block_NK.shape[1]], weights_KN, block_NK)
        return out_KP


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to aggregate, as a value: the fields of a subclass are its parameters, with defaults.

    `__post_init__` of a subclass checks their ranges (ValueError with the remedy).

    >>> import matfl, torch
    >>> from dataclasses import dataclass
    >>> @matfl.register
    ... @dataclass(frozen=True, kw_only=True)
    ... class Selfish(matfl.Method):
    ...     name, title, description = "selfish", "Selfish", "the mean of all clients, oneself more often"
    ...     own: float = 1.0
    ...     def mix(self, round):
    ...         return matfl.Mixing(weights_NN=round.rows(torch.ones(round.n, round.n) + self.own * torch.eye(round.n)))
    >>> run = matfl.run("smoke", method="selfish", **{"selfish.own": 4})
    >>> run.diagnostics["weights"][0, 0]
    array([0.625, 0.125, 0.125, 0.125], dtype=float32)
    """

    name: ClassVar[str]
    """As in `RunConfig.method`."""
    title: ClassVar[str]
    """As written in tables and figures."""
    description: ClassVar[str] = ""
    """One line."""
    source: ClassVar[str] = ""
    """Where it comes from."""
    family: ClassVar[str] = "own"
    """The group in which tables list it: 'baseline', 'paper', 'authors', ..."""
    scope: ClassVar[Literal["task", "client"]] = "task"
    """Whose models the server keeps: one a task, or one a client."""
    sends: ClassVar[bool] = True
    """Whether models travel between clients and server; with False every client keeps its own."""
    heads: ClassVar[Literal["task", "local"] | None] = None
    """Where heads live, if the method decides that; None leaves it to `RunConfig.heads`."""
    personal: ClassVar[bool] = False
    """Whether clients use models of their own, those that `model` gives, rather than those that the server dispatches;
    scores of kind 'global' are then of these, one a client."""

    sketched: ClassVar[bool] = False
    """Whether it looks at nothing of updates but `round.similarity()`, so that sketches (`config.sketch`) suffice."""

    def mix(self, round: Round) -> Mixing:
        """The round's weights. Called with any number of clients, also none."""
        raise NotImplementedError(f"method {self.name!r} lacks mix(round): return a Mixing")

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where the parameters do not fit the run, more clusters than clients say."""

    def start(self, before: Dispatch) -> Tensors:
        """The server state before the first round, by names without '/'. It is stored with every round."""
        return {}

    def message(self, before: Dispatch, client: int) -> Tensors:
        """What a client is sent beside its model."""
        return {}

    def client(self, local: Local) -> Tensors:
        """What a client does in a round, by `local`'s building blocks; what its model then holds goes to the server.

        Returns what it sends beside the model, of the names and shapes that `reply_shapes` announces.
        """
        local.train()
        return {}

    def reply_shapes(self, before: Dispatch, client: int) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of what `client` returns: a reply that differs, or holds NaN, is left out of the round."""
        return {}

    def problem(self, before: Dispatch, message: Tensors) -> str | None:
        """What is wrong with the values of what a client returned, finite and of the announced shapes; None: nothing.

        A reply with a problem is left out of the round, whose record names its client and says this.
        """
        return None

    def model(self, local: Local) -> Tensors:
        """The model that a client uses after a round, by the names of `Model`; asked where `personal` is true.

        `local.state` is what the server would dispatch now, `local.memory` what the client keeps.
        """
        return local.state


M = TypeVar("M", bound="Method | type[Method]")


def register(entry: M) -> M:
    """Add a method, or a class of methods with its default parameters, to `METHODS`; usable as a decorator.

    >>> import matfl, torch
    >>> from dataclasses import dataclass
    >>> @matfl.register
    ... @dataclass(frozen=True, kw_only=True)
    ... class Alone(matfl.Method):
    ...     name, title, description = "alone", "Alone", "every client keeps its own update"
    ...     def mix(self, round):
    ...         return matfl.Mixing(weights_NN=round.rows(torch.eye(round.n)))
    >>> matfl.METHODS["alone"].title
    'Alone'
    """
    METHODS.register(entry() if isinstance(entry, type) else entry)
    return entry


def method(
    *,
    title: str,
    description: str = "",
    source: str = "",
    family: str = "own",
    scope: Literal["task", "client"] = "task",
    sends: bool = True,
    sketched: bool = False,
) -> Callable[[Callable[[Round], Tensor | Mixing]], Method]:
    """Register a function from `Round` to weights_NN, or to a `Mixing`, as the method of its name.

    >>> import matfl
    >>> @matfl.method(title="Nearest", description="self and the most similar client")
    ... def nearest(round):
    ...     s_NN = round.similarity().mean(0)
    ...     return matfl.normalise(s_NN.where(s_NN >= s_NN.topk(2).values[:, 1:], 0))
    >>> (matfl.run("smoke", method="nearest").diagnostics["weights"] > 0).sum(-1).max()
    np.int64(2)
    """

    def wrap(function: Callable[[Round], Tensor | Mixing]) -> Method:
        def mix(self: Method, round: Round) -> Mixing:
            decided = function(round)
            return decided if isinstance(decided, Mixing) else Mixing(weights_NN=decided)

        about = {
            "title": title,
            "description": description,
            "source": source,
            "family": family,
            "scope": scope,
            "sends": sends,
            "sketched": sketched,
        }
        origin = {"__module__": function.__module__, "__qualname__": function.__qualname__, "__doc__": function.__doc__}
        kind = type(function.__name__, (Method,), {**origin, **about, "name": function.__name__, "mix": mix})
        return register(kind())

    return wrap


def method_of(config: RunConfig) -> Method:
    """The config's method with its parameters. Raises ValueError for an unknown one, or where they do not fit."""
    found = METHODS.find(config.method)
    chosen: Method = config.params(found)
    chosen.check(config)
    if config.sketch and not chosen.sketched:
        able = ", ".join(name for name, other in METHODS.items() if other.sketched)
        raise ValueError(
            f"sketch={config.sketch}: method {chosen.name!r} needs more of updates than their similarities: set "
            f"sketch=0, or choose {able}"
        )
    return chosen
