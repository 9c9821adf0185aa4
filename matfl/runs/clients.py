"""One client's part of a round, whoever carries the messages: the engine on this machine, or Flower."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from matfl.client.local import Local
from matfl.config.run_config import RunConfig
from matfl.data import Client, Split
from matfl.models.network import Model
from matfl.runs.hostile import disguise, true_task, undisguise
from matfl.runs.outgoing import Outgoing, leave, start_of
from matfl.server.methods import Method
from matfl.server.state import Reply

__all__ = ["Turn", "client_round", "personal_model"]

State = Mapping[str, Tensor]

_MOMENTS = "moments."
_ASIDE = ("lie.", "late.", "codec.", _MOMENTS)
"""Prefixes of what is kept for a client beside what its method keeps."""


class Turn(NamedTuple):
    """What a client's part of a round gives."""

    reply: Reply
    memory: dict[str, Tensor]
    """What the client keeps until its next round."""
    packed: dict[str, Tensor] | None = None
    """What travels of the reply's state, where the run has a codec."""


def client_round(
    model: Model,
    dispatched: State,
    client: Client,
    split: Split,
    config: RunConfig,
    *,
    method: Method,
    round: int,
    message: State | None = None,
    memory: State | None = None,
) -> Turn:
    """One client's part of a round (1-based): `method.client` on `model`, from what the server dispatched.

    The reply's state is the model's own, valid until the model is used again, or what arrives of it where the run makes
    updates late, private or small (`matfl.runs.outgoing`). A client whose loss stops being finite replies with loss NaN
    and keeps its memory as it was, and the server leaves it out. Raises ValueError naming the method when what it
    returns or keeps is not as it said.
    """
    before = dict(memory or {})
    aside = {name: tensor for name, tensor in before.items() if name.startswith(_ASIDE)}
    own = {name: tensor for name, tensor in before.items() if name not in aside}
    start = start_of(dispatched, config, aside, round=round, client=client.index)
    true, trains, acts, from_state = true_task(config, client), model, client, start
    if true:
        trains, from_state, acts = disguise(config, client, true, start, aside)
    trains.load_state_dict(dict(from_state))
    local = _local(trains, from_state, acts, split, config, round=round, message=message, memory=own)
    local.moments = {n.removeprefix(_MOMENTS): tensor for n, tensor in aside.items() if n.startswith(_MOMENTS)}
    began = time.perf_counter()
    sent: State = {}
    kept, sound = before, True
    try:
        sent = method.client(local)
        kept = _named(local.memory, method, "local.memory")
        kept |= {f"{_MOMENTS}{name}": tensor for name, tensor in local.moments.items()}
        if not local.results:
            raise ValueError(f"method {method.name!r}: client(local) did not call local.train")
        steps = sum(result.steps for result in local.results)
        loss = local.results[0].loss
        if len(local.results) > 1:
            loss = sum(result.loss * result.steps for result in local.results) / steps
        images = sum(result.images for result in local.results)
    except FloatingPointError as error:
        warnings.warn(f"left out of the round: {error}", stacklevel=2)
        loss, images, steps, sent, sound = float("nan"), 0, 0, {}, False
    state: State = trains.state_dict()
    if true:
        state, own_head = undisguise(model, state, dispatched)
        kept = {**kept, **own_head} if sound else before
    gone = leave(state if sound else dispatched, start, dispatched, config, aside, round=round, client=client.index)
    reply = Reply(
        client=client.index,
        state=gone.state if sound else state,
        loss=loss,
        images=images,
        steps=steps,
        seconds=time.perf_counter() - began,
        message=_named(sent, method, "what client(local) returns"),
        bytes=_size(gone),
    )
    return Turn(reply, {**kept, **gone.kept} if sound else before, gone.packed)


def _size(gone: Outgoing) -> int | None:
    return None if gone.packed is None else sum(tensor.nbytes for tensor in gone.packed.values())


def personal_model(
    model: Model,
    dispatched: State,
    client: Client,
    split: Split,
    config: RunConfig,
    *,
    method: Method,
    round: int,
    memory: State | None = None,
) -> State:
    """The model that a client of a `personal` method uses after `round` rounds."""
    model.load_state_dict(dict(dispatched))
    own = {name: tensor for name, tensor in (memory or {}).items() if not name.startswith(_ASIDE)}
    local = _local(model, dispatched, client, split, config, round=round, memory=own)
    return {**dispatched, **method.model(local)}


def _local(
    model: Model,
    dispatched: State,
    client: Client,
    split: Split,
    config: RunConfig,
    *,
    round: int,
    message: State | None = None,
    memory: State | None = None,
) -> Local:
    return Local(
        config=config,
        client=client,
        split=split,
        round=round,
        model=model,
        state=dispatched,
        message=message or {},
        memory=dict(memory or {}),
    )


def _named(tensors: State, method: Method, what: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not name or "/" in name:
            raise ValueError(f"method {method.name!r}: {what} holds {name!r}: give tensors names without '/'")
    return {name: tensor.detach() for name, tensor in tensors.items()}
