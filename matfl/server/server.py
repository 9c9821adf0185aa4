"""The server's side of a round: who trains, what each client is sent, and what becomes of the replies.

It knows nothing of data, files or transport. `matfl.runs.engine` drives it on one machine, `matfl.flower` over a
network, and both store what `Server.pack` and `RoundRecord` hold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import derive
from matfl.models.network import build, start_head, voting_layers
from matfl.server.aggregation import Mixing, Models, method, mix, screen
from matfl.server.grouping import similarity, start_cosine
from matfl.server.updates import ClientUpdate, Layout, Updates
from matfl.tasks.task import Pair, pairs

__all__ = ["Owner", "Reply", "RoundRecord", "Server", "ServerState", "models_of"]

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What comes back from one client."""

    client: int
    state: Mapping[str, Tensor]
    """Its trained model: 'backbone.*' and 'head.*'. Read before the next reply is asked for."""
    loss: float
    """Mean training loss; not finite where training broke down."""
    images: int
    """Image passes."""
    seconds: float
    """Its training took so long."""


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything that the next round starts from."""

    round: int
    """Finished rounds, which is also the next one's number counted from 0."""
    models: Models
    """Backbones and heads by owner: a pair's name, or a client's number where clients keep their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A model that is evaluated after aggregation."""

    pair: Pair
    client: int
    """The client whose own it is, or -1 for the pair's."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a round leaves to be stored."""

    row: dict[str, Any]
    """For rounds.jsonl: losses, who took part, who was left out and why, bytes."""
    diagnostics: dict[str, np.ndarray]
    """For diagnostics.npz, over all N clients; those that did not take part have NaN, 0 or False."""

    @property
    def loss(self) -> float:
        """Mean training loss of the clients that took part; NaN where none did."""
        return math.nan if self.row["loss"] is None else self.row["loss"]


class Server:
    """The fixed part of a run: its method, the layout of its backbone, and which client has which task."""

    def __init__(self, config: RunConfig, client_pairs: Sequence[Pair], *, device: torch.device | str = "cpu") -> None:
        """`client_pairs` names each client's task, by client number. Raises ValueError for an unknown method."""
        self.config, self.device = config, torch.device(device)
        self.client_pairs = tuple(client_pairs)
        self.method = method(config.method)
        backbone = build(config, self.client_pairs[0]).backbone
        self.layout = Layout.of(backbone, voting=voting_layers(backbone, config.voting_layers))
        self._counters = {
            name: tensor for name, tensor in backbone.state_dict().items() if name in self.layout.integers
        }
        self._own_backbones = self.method.scope == "client"
        self._own_heads = self._own_backbones or config.heads == "local"

    @property
    def mu(self) -> float:
        """Strength of the proximal term in local training, 0 for methods without one."""
        return self.config.mu if self.method.proximal else 0.0

    @property
    def evaluated(self) -> tuple[Owner, ...]:
        """The models to evaluate after aggregation: one a pair, or one a client that has a head of its own."""
        if self._own_heads:
            return tuple(Owner(pair=pair, client=index) for index, pair in enumerate(self.client_pairs))
        return tuple(Owner(pair=pair, client=-1) for pair in dict.fromkeys(self.client_pairs))

    def static(self) -> dict[str, np.ndarray]:
        """The arrays of diagnostics.npz that are the same in every round."""
        return {
            "client_pairs": np.array([pair.name for pair in self.client_pairs]),
            "layers": np.array(self.layout.voting),
        }

    def start(self, backbone: State, *, depth_means: Mapping[str, float] | None = None) -> ServerState:
        """Round 0: every model with the same backbone, heads by `config.head_start`.

        `depth_means`: mean depth in metres of the training labels, by pair name (see `start_head`).
        """
        means = depth_means or {}
        heads: dict[Hashable, State] = {}
        for index, pair in enumerate(self.client_pairs):
            owner, number = (index, index) if self._own_heads else (pair.name, None)
            if owner not in heads:
                head = start_head(self.config, pair, number, depth_mean=means.get(pair.name))
                heads[owner] = {name: tensor.to(self.device) for name, tensor in head.items()}
        on_device = {name: tensor.to(self.device) for name, tensor in backbone.items()}
        return ServerState(round=0, models=Models.start(self.layout, on_device, self._owners(), heads))

    def _owners(self) -> tuple[Hashable, ...]:
        if self._own_backbones:
            return tuple(range(len(self.client_pairs)))
        return tuple(dict.fromkeys(pair.name for pair in self.client_pairs))

    def participants(self, round: int) -> tuple[int, ...]:
        """Clients that train in a round (counted from 0), ascending: a share of them drawn from (seed, round)."""
        n = len(self.client_pairs)
        count = max(1, round_half_up(self.config.participation * n))
        if count == n:
            return tuple(range(n))
        draw = np.random.default_rng(derive(self.config.seed, "participants", round))
        return tuple(sorted(int(i) for i in draw.choice(n, count, replace=False)))

    def evaluates(self, round: int) -> bool:
        """Whether the round (counted from 0) ends with an evaluation."""
        return (round + 1) % self.config.evaluate_every == 0 or round + 1 == self.config.rounds

    def dispatch(self, state: ServerState, client: int) -> State:
        """The model that a client starts the round from, by the names of `Model`: views, not copies."""
        return self.model(state, Owner(pair=self.client_pairs[client], client=client))

    def model(self, state: ServerState, owner: Owner) -> State:
        """A model by the names of `matfl.models.network.Model`: views, not copies."""
        backbone = {**state.models.backbone(owner.client if self._own_backbones else owner.pair.name), **self._counters}
        head = state.models.heads[owner.client if self._own_heads else owner.pair.name]
        return {**{f"backbone.{name}": t for name, t in backbone.items()}, **{f"head.{n}": t for n, t in head.items()}}

    def bytes_per_client(self, state: ServerState, client: int) -> int:
        """Sent each way for one client: floating-point tensors in float32, nothing where it keeps all of its own."""
        if self._own_backbones:
            return 0
        head = {} if self._own_heads else state.models.heads[self.client_pairs[client].name]
        return 4 * (self.layout.P + self.layout.B + sum(t.numel() for t in head.values() if t.is_floating_point()))

    def aggregate(self, state: ServerState, replies: Iterable[Reply]) -> tuple[ServerState, RoundRecord]:
        """Move the models by the replies, which may come from a generator that trains one client after another.

        Replies that are not finite are left out and recorded. The models of `state` are changed in place.
        """
        seen: list[Reply] = []
        everyone = self.participants(state.round)
        updates = Updates.of(self.layout, self._rows(state, replies, seen), capacity=len(everyone))
        updates, excluded = screen(updates, expected=everyone)
        broken = {reply.client: "its loss is not finite" for reply in seen if not math.isfinite(reply.loss)}
        excluded = {**excluded, **broken}
        updates = updates.select([row for row, client in enumerate(updates.clients) if client not in broken])
        tasks = [self.client_pairs[client].name for client in updates.clients]
        mixing = self.method.mix(updates, tasks, self.config)
        owners = updates.clients if self._own_backbones else tasks
        rows = [state.models.owners.index(owner) for owner in owners]
        diagnostics = self._diagnostics(updates, mixing, start_cosine(updates, state.models.theta_CP, rows))
        mix(state.models, updates, mixing, tasks, scope=self.method.scope, heads=self.config.heads)
        record = RoundRecord(row=self._row(state, seen, updates.clients, excluded), diagnostics=diagnostics)
        return ServerState(round=state.round + 1, models=state.models), record

    def _rows(self, state: ServerState, replies: Iterable[Reply], seen: list[Reply]) -> Iterator[ClientUpdate]:
        """The replies as `Updates` takes them, one at a time; what is kept of each, without weights, goes to `seen`."""
        for reply in replies:
            seen.append(
                Reply(client=reply.client, state={}, loss=reply.loss, images=reply.images, seconds=reply.seconds)
            )
            owner = reply.client if self._own_backbones else self.client_pairs[reply.client].name
            parts: dict[str, State] = {"backbone": {}, "head": {}}
            for name, tensor in reply.state.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            head = {name: tensor.detach().clone() for name, tensor in parts["head"].items()}
            start_P = state.models.theta_CP[state.models.owners.index(owner)]
            yield ClientUpdate(client=reply.client, state=parts["backbone"], start_P=start_P, head=head)

    def _row(
        self, state: ServerState, seen: Sequence[Reply], kept: Sequence[int], excluded: Mapping[int, str]
    ) -> dict[str, Any]:
        losses = [reply.loss for reply in seen if reply.client in kept]
        sent = {reply.client: self.bytes_per_client(state, reply.client) for reply in seen}
        return {
            "loss": sum(losses) / len(losses) if losses else None,
            "participants": list(kept),
            "excluded": {str(client): reason for client, reason in excluded.items()},
            "bytes_down": sum(self.bytes_per_client(state, client) for client in self.participants(state.round)),
            "bytes_up": sum(sent.values()),
            "clients": [
                {
                    "client": reply.client,
                    "loss": reply.loss if math.isfinite(reply.loss) else None,
                    "images": reply.images,
                    "seconds": round(reply.seconds, 4),
                    "bytes": sent[reply.client],
                }
                for reply in seen
            ],
        }

    def _diagnostics(self, updates: Updates, mixing: Mixing, cos_start_N: Tensor) -> dict[str, np.ndarray]:
        """The round's small tensors spread over all N clients."""
        layers, n = len(self.layout.voting), len(self.client_pairs)
        where = list(updates.clients)
        found = mixing.diagnostics
        # Methods that do not group are recorded as well, so that what grouping would have seen can be compared.
        similar = found["similarity"] if "votes" in found else similarity(updates, self.layout.voting)
        kind = np.uint8 if self.config.k < 256 else np.uint16
        arrays = {
            "participants": np.zeros(n, bool),
            "weights": np.zeros((n, n), np.float32),
            "similarity": np.full((layers, n, n), np.nan, np.float16),
            "votes": np.zeros((layers, n, n), kind),
            "friends": np.zeros((n, n), bool),
            "cos_start": np.full(n, np.nan, np.float32),
        }
        rows, columns = np.ix_(where, where)
        arrays["participants"][where] = True
        arrays["weights"][rows, columns] = mixing.weights_NN.cpu().numpy()
        arrays["similarity"][:, rows, columns] = similar.cpu().numpy()
        arrays["cos_start"][where] = cos_start_N.cpu().numpy()
        if "votes" in found:
            arrays["votes"][:, rows, columns] = found["votes"].cpu().numpy()
        if "friends" in found:
            arrays["friends"][rows, columns] = found["friends"].cpu().numpy()
        return arrays

    def pack(self, state: ServerState) -> State:
        """The models as named tensors for a checkpoint: '<pair, or client-NUMBER>/<name in Model>'."""
        tensors: State = {}
        for owner in state.models.owners:
            backbone = {**state.models.backbone(owner), **{n: t.clone() for n, t in self._counters.items()}}
            tensors |= {f"{_label(owner)}/backbone.{name}": t for name, t in backbone.items()}
        for owner, head in state.models.heads.items():
            tensors |= {f"{_label(owner)}/head.{name}": t for name, t in head.items()}
        return tensors

    def unpack(self, tensors: Mapping[str, Tensor], round: int) -> ServerState:
        """The state that `pack` wrote, after `round` rounds."""
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
            index if self._own_heads else pair.name for index, pair in enumerate(self.client_pairs)
        )
        heads: dict[Hashable, State] = {owner: _part(groups[_label(owner)], "head.") for owner in head_owners}
        models = Models(layout=self.layout, owners=owners, theta_CP=theta_CP, buffers_CB=buffers_CB, heads=heads)
        return ServerState(round=round, models=models)


def models_of(config: RunConfig, tensors: Mapping[str, Tensor]) -> dict[str, State]:
    """A checkpoint's model of each pair by name; where clients keep their own, that of the pair's first client."""
    client_pairs = [pair for pair in pairs(config.tasks) for _ in range(config.clients_per_task)]
    server = Server(config, client_pairs)
    state = server.unpack(tensors, 0)
    first = {pair.name: client for client, pair in reversed(list(enumerate(client_pairs)))}
    return {name: server.dispatch(state, client) for name, client in first.items()}


def round_half_up(value: float) -> int:
    """Nearest integer, halves upwards (Python rounds them to even)."""
    return math.floor(value + 0.5)


def _label(owner: Hashable) -> str:
    return f"client-{owner}" if isinstance(owner, int) else str(owner)


def _part(group: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in group.items() if name.startswith(prefix)}
