"""What leaves a client after training: a late client's change, made private, packed. Nothing of it by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.server.codecs import changed, codec_of, learned, moved, pack, statistics, unpack
from matfl.server.privacy import privatise

__all__ = ["Outgoing", "leave", "start_of"]

State = Mapping[str, Tensor]
_LATE, _LOST = "late.", "codec.lost"
_LEAST_VARIANCE = 1e-6
"""Below which noise may not take a batch-norm variance."""


class Outgoing(NamedTuple):
    """What a client sends, and keeps to send the next time."""

    state: State
    """The model as it arrives at the server."""
    packed: dict[str, Tensor] | None
    """What travels of it; None: the model as it is."""
    kept: dict[str, Tensor]


def start_of(dispatched: State, config: RunConfig, kept: State, *, round: int, client: int) -> State:
    """The model that a client trains on: the dispatched one, or, where it is late, the one before that it still has."""
    before = {name.removeprefix(_LATE): t for name, t in kept.items() if name.startswith(_LATE)}
    if not config.late or not before:
        return dispatched
    late = torch.rand((), generator=stream(config.seed, "late", round, client)) < config.late
    return {**dispatched, **before} if late else dispatched


@torch.no_grad()
def leave(
    state: State, start: State, dispatched: State, config: RunConfig, kept: State, *, round: int, client: int
) -> Outgoing:
    """What becomes of a trained model before it leaves its client (`state`, trained from `start`)."""
    after: dict[str, Tensor] = {}
    names, measured = learned(dispatched), statistics(dispatched)
    if config.late:
        after |= {f"{_LATE}{name}": dispatched[name].detach().clone() for name in (*names, *measured)}
        if start is not dispatched:
            state = {**state, **moved(dispatched, changed(state, start, names), names)}
    if config.dp_clip:
        everything = [*names, *measured]
        draw = stream(config.seed, "private", round, client)
        change_K = changed(state, dispatched, everything)
        private_K = privatise(change_K, clip=config.dp_clip, noise=config.dp_noise, generator=draw)
        state = {**state, **moved(dispatched, private_K, everything)}
        for name in measured:
            if name.endswith("running_var"):
                state[name] = state[name].clamp(min=_LEAST_VARIANCE)
    codec = codec_of(config)
    if codec is None:
        return Outgoing(state, None, after)
    packed, lost_K = pack(state, dispatched, codec, kept.get(_LOST))
    if codec.feedback:
        after[_LOST] = lost_K
    integers = {name: tensor for name, tensor in state.items() if not tensor.is_floating_point()}
    return Outgoing({**unpack(packed, dispatched, codec), **integers}, packed, after)
