"""The server's side of a round: who trains, what each client is sent, and what becomes of the replies.

    collection = server.begin(state)
    for client in collection.dispatch.participants:
        collection.add(train(server.model(state, ...)))
    state, record = collection.finish()

It knows nothing of data, files or transport. `matfl.runs.engine` drives it on one machine, `matfl.flower` over a
network, and both store what `Server.pack` and `RoundRecord` hold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from matfl.client.local import Local
from matfl.config.run_config import RunConfig
from matfl.core.streams import derive
from matfl.data import Client
from matfl.models.backbone import find_backbone, voting_layers
from matfl.models.network import build, start_heads
from matfl.server.codecs import codec_of
from matfl.server.collection import Collection
from matfl.server.layout import Layout
from matfl.server.methods import Dispatch, method_of
from matfl.server.models import Models
from matfl.server.optimizers import ServerOptimizer
from matfl.server.spool import Spool
from matfl.server.state import Owner, Reply, RoundRecord, ServerState
from matfl.tasks.joint import head_prefixes
from matfl.tasks.task import Pair, pairs

__all__ = ["Collection", "Owner", "Reply", "RoundRecord", "Server", "ServerState", "models_of"]

State = dict[str, Tensor]


class Server:
    """The fixed part of a run: its method, the layout of its backbone, and which client has which task."""

    def __init__(self, config: RunConfig, client_pairs: Sequence[Pair], *, device: torch.device | str = "cpu") -> None:
        """`client_pairs` names each client's task, by client number.

        Raises ValueError for an unknown method or codec.
        """
        self.config, self.device = config, torch.device(device)
        self.client_pairs = tuple(client_pairs)
        self.method = method_of(config)
        codec_of(config)
        backbone = build(config, self.client_pairs[0]).backbone
        rule = find_backbone(config).voters
        self.layout = Layout.of(backbone, voting=voting_layers(backbone, config.voting_layers, rule=rule))
        small = min((math.prod(self.layout.parameters[name].shape) for name in self.layout.voting), default=0)
        if config.sketch > small:
            raise ValueError(
                f"sketch={config.sketch}: the smallest voting layer has only {small} numbers; choose at most so many, "
                "or 0 to compare updates themselves"
            )
        self._counters = {
            name: tensor for name, tensor in backbone.state_dict().items() if name in self.layout.integers
        }
        self.own_backbones = self.method.scope == "client"
        self.step = ServerOptimizer.of(config)
        self.heads = self.method.heads or config.heads
        self.own_heads = self.own_backbones or self.heads == "local"

    @property
    def evaluated(self) -> tuple[Owner, ...]:
        """The models to evaluate after aggregation: one a pair, or one a client that has a model or head of its own."""
        if self.own_heads or self.method.personal:
            return tuple(Owner(pair=pair, client=index) for index, pair in enumerate(self.client_pairs))
        return tuple(Owner(pair=pair, client=-1) for pair in dict.fromkeys(self.client_pairs))

    def static(self) -> dict[str, np.ndarray]:
        """The arrays of diagnostics.npz that are the same in every round."""
        return {
            "client_pairs": np.array([pair.name for pair in self.client_pairs]),
            "layers": np.array(self.layout.voting),
        }

    def start(self, backbone: State, *, biases: Mapping[str, Sequence[float]] | None = None) -> ServerState:
        """Before round 1: every model with the same backbone, heads by `config.head_start`, the method's first state.

        `biases`: where the heads' last biases start, by pair name (see `start_heads`).
        """
        heads: dict[Hashable, State] = {}
        for index, pair in enumerate(self.client_pairs):
            owner, number = (index, index) if self.own_heads else (pair.name, None)
            if owner not in heads:
                head = start_heads(self.config, pair, number, biases=biases)
                heads[owner] = {name: tensor.to(self.device) for name, tensor in head.items()}
        on_device = {name: tensor.to(self.device) for name, tensor in backbone.items()}
        models = Models.start(self.layout, on_device, self._owners(), heads)
        state = ServerState(rounds_done=0, models=models, moments=self.step.start(models.theta_CP))
        before = replace(self.round(state), number=0, participants=())
        return replace(state, method=self.checked_state(self.method.start(before)))

    def checked_state(self, state: Mapping[str, Tensor]) -> State:
        """A method's state, detached. Raises ValueError naming the method where a name cannot be stored."""
        for name in state:
            if not name or "/" in name:
                raise ValueError(f"method {self.method.name!r}: state {name!r} needs a name without '/'")
        return {name: tensor.detach() for name, tensor in state.items()}

    def _owners(self) -> tuple[Hashable, ...]:
        if self.own_backbones:
            return tuple(range(len(self.client_pairs)))
        return tuple(dict.fromkeys(pair.name for pair in self.client_pairs))

    def owner(self, client: int) -> Hashable:
        """Whose backbone a client trains: its pair's name, or its own number."""
        return client if self.own_backbones else self.client_pairs[client].name

    def head_owner(self, client: int) -> Hashable:
        """Whose head a client trains."""
        return client if self.own_heads else self.client_pairs[client].name

    def participants(self, round: int) -> tuple[int, ...]:
        """Clients that train in a round (1-based), ascending: a share of them drawn from (seed, round)."""
        n = len(self.client_pairs)
        count = max(1, round_half_up(self.config.participation * n))
        if count == n:
            return tuple(range(n))
        draw = np.random.default_rng(derive(self.config.seed, "participants", round - 1))
        return tuple(sorted(int(i) for i in draw.choice(n, count, replace=False)))

    def evaluates(self, round: int) -> bool:
        """Whether the round (1-based) ends with an evaluation."""
        return round % self.config.evaluate_every == 0 or round == self.config.rounds

    def round(self, state: ServerState) -> Dispatch:
        """The round that starts from `state`, as a method sees it before the clients train."""
        return Dispatch(
            number=state.next_round,
            config=self.config,
            models=state.models,
            client_tasks=tuple(pair.name for pair in self.client_pairs),
            participants=self.participants(state.next_round),
            state=state.method,
        )

    def begin(self, state: ServerState, spool: Spool | None = None) -> Collection:
        """Where the replies of the round that starts from `state` are collected: in memory, or as `spool` says."""
        return Collection(self, state, spool)

    def dispatch(self, state: ServerState, client: int) -> State:
        """The model that a client starts the round from, by the names of `Model`: views, not copies."""
        return self.model(state, Owner(pair=self.client_pairs[client], client=client))

    def model(self, state: ServerState, owner: Owner) -> State:
        """A model by the names of `matfl.models.network.Model`: views, not copies."""
        backbone = {**state.models.backbone(owner.client if self.own_backbones else owner.pair.name), **self._counters}
        head = state.models.heads[owner.client if self.own_heads else owner.pair.name]
        return {**{f"backbone.{name}": t for name, t in backbone.items()}, **{f"head.{n}": t for n, t in head.items()}}

    def bytes_per_client(self, state: ServerState, client: int) -> int:
        """Of the model sent each way for one client: floating-point tensors in float32, without a head of its own.

        Nothing where models do not travel (`Method.sends`).
        """
        if not self.method.sends:
            return 0
        head = {} if self.own_heads else state.models.heads[self.client_pairs[client].name]
        return 4 * (self.layout.P + self.layout.B + sum(t.numel() for t in head.values() if t.is_floating_point()))

    def pack(self, state: ServerState) -> State:
        """The state as named tensors for a checkpoint.

        '<pair, or client-NUMBER>/<name in Model>' for the models, 'server/method.<name>' for the method's state,
        'server/moment.<m or v>' (C, P) for the server's optimiser.
        """
        tensors: State = {}
        for owner in state.models.owners:
            backbone = {**state.models.backbone(owner), **{n: t.clone() for n, t in self._counters.items()}}
            tensors |= {f"{_label(owner)}/backbone.{name}": t for name, t in backbone.items()}
        for owner, head in state.models.heads.items():
            tensors |= {f"{_label(owner)}/head.{name}": t for name, t in head.items()}
        tensors |= {f"server/moment.{name}": tensor for name, tensor in state.moments.items()}
        return tensors | {f"server/method.{name}": tensor.clone() for name, tensor in state.method.items()}

    def unpack(self, tensors: Mapping[str, Tensor], rounds_done: int) -> ServerState:
        """The state that `pack` wrote, after `rounds_done` rounds; tensors of others are passed over.

        Raises ValueError naming the method when its state is missing.
        """
        groups: dict[str, State] = {}
        for name, tensor in tensors.items():
            prefix, _, rest = name.rpartition("/")
            groups.setdefault(prefix, {})[rest] = tensor.to(self.device)
        owners = self._owners()
        theta_CP = self.layout.empty(len(owners), device=self.device)
        buffers_CB = torch.empty((len(owners), self.layout.B), device=self.device)
        for row, owner in enumerate(owners):
            backbone = _part(groups[_label(owner)], "backbone.")
            self.layout.flatten(backbone, out=theta_CP[row])
            self.layout.flatten_buffers(backbone, out=buffers_CB[row])
        head_owners = dict.fromkeys(
            index if self.own_heads else pair.name for index, pair in enumerate(self.client_pairs)
        )
        heads: dict[Hashable, State] = {owner: _part(groups[_label(owner)], "head.") for owner in head_owners}
        models = Models(layout=self.layout, owners=owners, theta_CP=theta_CP, buffers_CB=buffers_CB, heads=heads)
        own = groups.get("server", {})
        state = ServerState(
            rounds_done=rounds_done, models=models, method=_part(own, "method."), moments=_part(own, "moment.")
        )
        self._check_resumed(state)
        return state

    def _check_resumed(self, state: ServerState) -> None:
        """A method or an optimiser with server state finds it in the checkpoint."""
        if missing := [name for name in self.step.start(state.models.theta_CP[:, :0]) if name not in state.moments]:
            raise ValueError(
                f"the checkpoint lacks the moment {missing[0]!r} of server_optimizer={self.step.kind!r}: it was "
                "written without it; train the run anew (--fresh)"
            )
        needed = self.method.start(replace(self.round(state), number=0, participants=()))
        if missing := [name for name in needed if name not in state.method]:
            raise ValueError(
                f"the checkpoint lacks the state {missing[0]!r} of method {self.method.name!r}: it was written without "
                "it; train the run anew (--fresh)"
            )


def models_of(config: RunConfig, tensors: Mapping[str, Tensor]) -> dict[str, State]:
    """A checkpoint's model of each pair by name; where clients keep their own, that of the pair's first client.

    Clients with several tasks have a model for each: their backbone and that task's head.
    """
    client_pairs = [pair for pair in pairs(config.tasks) for _ in range(config.clients_per_task)]
    server = Server(config, client_pairs)
    state = server.unpack(tensors, 0)
    found: dict[str, State] = {}
    for pair in dict.fromkeys(client_pairs):
        used = _used(server, state, client_pairs.index(pair), tensors)
        backbone = {name: tensor for name, tensor in used.items() if name.startswith("backbone.")}
        for part, prefix in zip(pair.parts, head_prefixes(pair.name), strict=True):
            head = _part(used, f"head.{prefix}")
            found[part.name] = {**backbone, **{f"head.{name}": tensor for name, tensor in head.items()}}
    return found


def _used(server: Server, state: ServerState, client: int, tensors: Mapping[str, Tensor]) -> State:
    """The model that a client uses: the dispatched one, or by a `personal` method one of its own."""
    dispatched = server.dispatch(state, client)
    if not server.method.personal:
        return dispatched
    pair = server.client_pairs[client]
    local = Local(
        config=server.config,
        client=Client(client, pair, ()),
        split=None,
        round=max(state.rounds_done, 1),
        model=build(server.config, pair),
        state=dispatched,
        memory=_part(
            {name.rpartition("/")[2]: t for name, t in tensors.items() if name.startswith(f"client-{client}/")},
            "memory.",
        ),
    )
    return {**dispatched, **server.method.model(local)}


def round_half_up(value: float) -> int:
    """Nearest integer, halves upwards (Python rounds them to even)."""
    return math.floor(value + 0.5)


def _label(owner: Hashable) -> str:
    return f"client-{owner}" if isinstance(owner, int) else str(owner)


def _part(group: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in group.items() if name.startswith(prefix)}
