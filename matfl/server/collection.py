"""A round under way on the server: replies are added one by one, then mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from matfl.core.records import ClientRow, RoundRow
from matfl.server.attacks import ATTACKS, attack, attackers
from matfl.server.grouping import cosine, similarity, whole_updates
from matfl.server.methods import Dispatch, Result, Round
from matfl.server.mixing import Mixing, mix, over_models
from matfl.server.screening import Moved, clip_factors, form, moved, screen, too_far
from matfl.server.spool import FileRows, Spool
from matfl.server.state import Reply, RoundRecord, ServerState
from matfl.server.updates import ClientUpdate, Rows, Updates

if TYPE_CHECKING:
    from matfl.server.server import Server

__all__ = ["Collection"]


def _sound(state: ServerState) -> bool:
    """Whether every number of the models and moments is finite; a method's own state may hold NaN for 'not yet'."""
    models = state.models
    heads = (tensor for head in models.heads.values() for tensor in head.values())
    whole = (models.theta_CP, models.buffers_CB, *heads, *state.moments.values())
    return all(bool(tensor.isfinite().all()) for tensor in whole)


def _size(message: Mapping[str, Tensor]) -> int:
    """Bytes of what travels beside a model."""
    return sum(tensor.nbytes for tensor in message.values())


class Collection:
    """The replies of one round. `add` each as it comes, in any order of clients, then `finish`."""

    def __init__(self, server: Server, state: ServerState, spool: Spool | None = None) -> None:
        self.server, self.state = server, state
        self.dispatch: Dispatch = server.round(state)
        """The round as the method saw it before the clients trained; `dispatch.participants` are asked."""
        self.results: dict[int, Result] = {}
        """Of the clients whose replies were taken."""
        self.excluded: dict[int, str] = {}
        self._packed: dict[int, int] = {}
        clients = len(self.dispatch.participants)
        self._rows: Rows | FileRows = Rows(server.layout, clients)
        if spool and spool.needed(server.layout, clients):
            if server.config.attack in ATTACKS:
                raise ValueError(
                    f"attack={server.config.attack!r}: simulated attacks need the round's updates in memory, and "
                    f"{clients} clients' do not fit: set memory=0"
                )
            self._rows = FileRows(server.layout, spool, server.device)

    def add(self, reply: Reply) -> str | None:
        """Copy a reply; what it holds may change afterwards. Returns why it is left out of the round, or None."""
        client = reply.client
        if client not in self.dispatch.participants:
            raise ValueError(f"client {client} was not asked in round {self.dispatch.number}")
        if client in self.results or client in self.excluded:
            raise ValueError(f"client {client} replied twice in round {self.dispatch.number}")
        why = form(
            {name: getattr(reply, name) for name in ("loss", "images", "steps", "seconds")},
            reply.state,
            self.server.dispatch(self.state, client),
            reply.message,
            self.server.method.reply_shapes(self.dispatch, client),
        ) or self.server.method.problem(self.dispatch, reply.message)
        if why:
            self.results[client] = Result(client=client, loss=math.nan, images=0, seconds=0.0)
            self.excluded[client] = why
            return why
        self.results[client] = Result(**{item.name: getattr(reply, item.name) for item in fields(Result)})
        if reply.bytes is not None:
            self._packed[client] = reply.bytes
        parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
        for name, tensor in reply.state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        start_P = self.state.models.theta_CP[self.state.models.row(self.server.owner(client))]
        self._rows.add(ClientUpdate(client=client, state=parts["backbone"], start_P=start_P, head=parts["head"]))
        return None

    def so_far(self) -> Round:
        """The round with the replies that have come, by client and unscreened, as a method would see it."""
        updates = self._rows.updates()
        return self._round(updates.select(sorted(range(len(updates)), key=updates.clients.__getitem__)))

    def finish(self) -> tuple[ServerState, RoundRecord]:
        """Mix the replies: the state that the next round starts from, and the record of this one.

        The state that the round began from is left as it was. A reply that would take a model out of the range of
        numbers is left out, so that there is always a sound state to go on from.
        """
        server, before = self.server, self.dispatch
        updates = self._rows.updates()
        updates = updates.select(sorted(range(len(updates)), key=updates.clients.__getitem__))
        updates = self._attacked(updates)
        expected = [client for client in before.participants if client not in self.excluded]
        updates, dropped = screen(updates, expected=expected)
        distances = self._moved(updates)
        dropped |= too_far(updates.clients, distances, server.config.norm_bound)
        updates = self._without(updates, dropped)
        updates, clipped = self._clip(updates)
        while True:
            round = self._round(updates)
            mixing = self._decided(round)
            after = self._mixed(round, mixing)
            if not len(updates) or _sound(after):
                break
            worst = max(zip(self._peaks(updates), updates.clients))[1]
            dropped[worst] = "with its reply the mix is not finite"
            updates = self._without(updates, dropped)
        diagnostics = self._diagnostics(updates, mixing, *whole_updates(updates, before.models.theta_CP, round.starts))
        row = self._row(updates.clients, self.excluded | dropped)
        if clipped:
            row["clipped"] = clipped
        if hostile := sorted(set(attackers(server.config)) & set(before.participants)):
            row["attackers"] = hostile
        self._rows.close()
        return after, RoundRecord(row=row, diagnostics=diagnostics)

    def _attacked(self, updates: Updates) -> Updates:
        """With what simulated hostile clients send."""
        config = self.server.config
        if config.attack not in ATTACKS:
            return updates
        return attack(
            updates,
            attackers(config),
            config.attack,
            strength=config.attack_strength,
            seed=config.seed,
            round=self.dispatch.number,
        )

    def _without(self, updates: Updates, dropped: Mapping[int, str]) -> Updates:
        return updates.select([row for row, client in enumerate(updates.clients) if client not in dropped])

    def _moved(self, updates: Updates) -> dict[str, Moved]:
        config, models = self.server.config, self.state.models
        if not (config.norm_bound or config.clip_norm) or not len(updates):
            return {}
        starts = [models.row(self.server.owner(client)) for client in updates.clients]
        heads = [self.server.head_owner(client) for client in updates.clients]
        return moved(updates, models, starts, heads)

    def _clip(self, updates: Updates) -> tuple[Updates, dict[str, float]]:
        """The updates shortened to `clip_norm`, and by which factor each that was."""
        clip_norm = self.server.config.clip_norm
        if not clip_norm or not len(updates):
            return updates, {}
        factors = clip_factors(self._moved(updates)["the backbone"].distance_N, clip_norm)
        clipped = {str(client): factor for client, factor in zip(updates.clients, factors) if factor != 1}
        return updates.scaled(factors), clipped

    def _round(self, updates: Updates) -> Round:
        before = self.dispatch
        return Round(
            **{item.name: getattr(before, item.name) for item in fields(before)},
            updates=updates,
            tasks=tuple(self.server.client_pairs[client].name for client in updates.clients),
            replies=tuple(self.results[client] for client in updates.clients),
            starts=tuple(before.models.row(self.server.owner(client)) for client in updates.clients),
        )

    def _decided(self, round: Round) -> Mixing:
        """What the method decided, on what the run mixes."""
        mixing = self.server.method.mix(round)
        if self.server.config.mixes == "updates":
            return mixing
        owners = [self.server.owner(client) for client in round.updates.clients]
        return over_models(mixing, round.models.owners, owners)

    def _mixed(self, round: Round, mixing: Mixing) -> ServerState:
        server, models = self.server, self.state.models.copy()
        moments = {name: tensor.clone() for name, tensor in self.state.moments.items()}
        mix(
            models,
            round.updates,
            mixing,
            round.tasks,
            scope=server.method.scope,
            heads=server.heads,
            step=server.step,
            moments=moments,
        )
        method = self.state.method if mixing.state is None else server.checked_state(mixing.state)
        return ServerState(rounds_done=round.number, models=models, method=method, moments=moments)

    @staticmethod
    def _peaks(updates: Updates) -> list[float]:
        """The largest number in each update."""
        peaks = [0.0] * len(updates)
        for _, block_NK in updates.columns():
            peaks = [max(peak, float(row_K.abs().max())) for peak, row_K in zip(peaks, block_NK)]
        return peaks

    def _row(self, kept: tuple[int, ...], excluded: Mapping[int, str]) -> RoundRow:
        server, seen = self.server, [self.results[client] for client in sorted(self.results)]
        losses = [result.loss for result in seen if result.client in kept]
        sent = {result.client: server.bytes_per_client(self.state, result.client) for result in seen}
        sent |= {client: size for client, size in self._packed.items() if sent[client]}
        sent = {client: size + _size(self.results[client].message) for client, size in sent.items()}
        down = sum(
            server.bytes_per_client(self.state, client) + _size(server.method.message(self.dispatch, client))
            for client in self.dispatch.participants
        )
        return RoundRow(
            round=self.dispatch.number,
            loss=sum(losses) / len(losses) if losses else None,
            participants=list(kept),
            excluded={str(client): excluded[client] for client in sorted(excluded)},
            bytes_down=down,
            bytes_up=sum(sent.values()),
            clients=[
                ClientRow(
                    client=result.client,
                    loss=result.loss if math.isfinite(result.loss) else None,
                    images=result.images,
                    seconds=round(result.seconds, 4),
                    bytes=sent[result.client],
                )
                for result in seen
            ],
        )

    def _diagnostics(
        self, updates: Updates, mixing: Mixing, cos_start_N: Tensor, gram_NN: Tensor
    ) -> dict[str, np.ndarray]:
        """The round's small tensors spread over all N clients."""
        server = self.server
        layers, n = len(server.layout.voting), len(server.client_pairs)
        where = list(updates.clients)
        found = dict(mixing.diagnostics)
        # Methods that do not group are recorded as well, so that what grouping would have seen can be compared.
        similar = found.pop("similarity", None)
        if similar is None or "votes" not in found:
            similar = similarity(updates, server.layout.voting)
        kind = np.uint8 if server.config.k < 256 else np.uint16
        arrays = {
            "participants": np.zeros(n, bool),
            "weights": np.zeros((n, n), np.float32),
            "similarity": np.full((layers, n, n), np.nan, np.float16),
            "votes": np.zeros((layers, n, n), kind),
            "friends": np.zeros((n, n), bool),
            "cos_start": np.full(n, np.nan, np.float32),
            "norms": np.full(n, np.nan, np.float32),
            "cosines": np.full((n, n), np.nan, np.float16),
        }
        arrays["participants"][where] = True
        found |= {"weights": mixing.weights_NN, "similarity": similar, "cos_start": cos_start_N}
        found |= {"norms": gram_NN.diagonal().sqrt(), "cosines": cosine(gram_NN)}
        for name, value in found.items():
            small = value.cpu().numpy()
            ways = 2 if small.ndim > 1 and small.shape[-2] == len(where) else 1
            if name not in arrays:
                arrays[name] = np.full((*small.shape[:-ways], *(n,) * ways), np.nan, np.float32)
            if ways == 2:
                rows, columns = np.ix_(where, where)
                arrays[name][..., rows, columns] = small
            else:
                arrays[name][..., where] = small
        return arrays
