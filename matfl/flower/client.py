"""Flower's client app: who this node is, one round of local training, and the evaluation of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

import matfl
from matfl.client import training as local
from matfl.config.run_config import RunConfig, override
from matfl.data import Client, Split, load_split, partition
from matfl.data.start_bias import label_sums
from matfl.flower import memory
from matfl.flower.arrays import Wire, from_arrays, to_arrays
from matfl.flower.settings import NodeSettings, agreed_data, run_config
from matfl.models.network import Model, build
from matfl.runs import engine as federation
from matfl.runs.clients import client_round, personal_model
from matfl.server.codecs import codec_of
from matfl.server.layout import Layout
from matfl.server.methods import method_of
from matfl.tasks.task import Pair, pairs

__all__ = ["app", "share"]

app = ClientApp()

_log = logging.getLogger("flwr")

Records = dict[str, Any]


class Refusal(ValueError):
    """The server takes this node for another client, or runs another matfl."""


def _answers(
    handler: Callable[[RecordDict, RunConfig, NodeSettings], Records],
) -> Callable[[Message, Context], Message]:
    """A message handler that replies with `handler`'s records, or with why it failed: never with a path."""

    @wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            config = run_config(context.run_config)
            node = NodeSettings.of(context.node_config, config)
            with _place(node):
                records = handler(message.content, config, node)
        except Exception as error:  # whatever fails here must neither end the federation nor leak a folder's name
            _log.error("matfl: no result for message %r", message.metadata.message_type, exc_info=error)
            reason = without_paths(f"{type(error).__name__}: {error}")
            records = {"error": ConfigRecord({"reason": reason, "refusal": isinstance(error, Refusal)})}
        return Message(RecordDict(records), reply_to=message)

    return answer


def without_paths(text: str) -> str:
    """At most 300 characters of `text`, with whatever looks like a path replaced."""
    return re.sub(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\][^\s'\",;:()]+", "<path>", text)[:300]


@contextmanager
def _place(node: NodeSettings) -> Iterator[None]:
    """Numbers that repeat, as in a local run, on the node's threads."""
    device = federation.pick_device(node.device)
    with federation.repeatable(device):
        if device.type == "cpu":
            torch.set_num_threads(node.threads)
        yield


@lru_cache(maxsize=4)
def _split(config: RunConfig, node: NodeSettings, name: str) -> Split:
    if node.own_data:
        config = replace(config, images_train=0, images_val=0)
    return load_split(config, node.pair.domain, name, data_dir=node.data_dir, cache_dir=node.cache_dir)


@lru_cache(maxsize=2)
def _model(config: RunConfig, pair: Pair, device: torch.device) -> tuple[Model, Wire, dict[str, Tensor]]:
    """A module for the pair, whatever state it holds, and what does not travel: its integer buffers as it was built.

    Simulated clients of one process share it.
    """
    model = build(config, pair).to(device)
    parts = {part: Layout.of(model.get_submodule(part)) for part in ("backbone", "head")}
    fixed = {name: t.clone() for name, t in model.state_dict().items() if not t.is_floating_point()}
    return model, Wire(parts=parts), fixed


def share(config: RunConfig, node: NodeSettings) -> Client:
    """The node's training images: those that `matfl.data.partition` gives its client, or all of its own.

    Only its own domain's split is needed, since a domain's shares do not depend on the others. Raises DataError when
    no image is left.
    """
    train = _split(config, node, "train")
    count = 1 if node.own_data else config.clients_per_task
    tasks = [
        p.name for p in pairs(config.tasks) if p == node.pair or (p.domain == node.pair.domain and not node.own_data)
    ]
    alone = override(config, tasks=",".join(tasks), clients_per_task=count, k=1, balance="sum")
    dealt = partition(alone, {node.pair.domain.name: train})
    mine = [client for client in dealt if client.pair.name == node.pair.name]
    return replace(mine[node.client % count], index=node.client, pair=node.pair)


@app.query()
@_answers
def query(content: RecordDict, config: RunConfig, node: NodeSettings) -> Records:
    """Who this node is, once its data are there, and the sums over its labels from which its task's heads start."""
    codec_of(config)  # one that is not known here is said before anything is trained
    client = share(config, node)
    _split(config, node, "val")
    who = {
        "client": client.index,
        "task": client.pair.name,
        "own-data": node.own_data,
        "images": len(client.images),
        "matfl": matfl.__version__,
        "hash": config.hash,
        "data": agreed_data(config, own_data=node.own_data),
    }
    records: Records = {"who": ConfigRecord(cast(Any, who))}
    if sums := label_sums(client, _split(config, node, "train")):
        records["labels"] = MetricRecord({task: list(values) for task, values in sums.items()})
    return records


@app.train()
@_answers
def train(content: RecordDict, config: RunConfig, node: NodeSettings) -> Records:
    """Local training from the dispatched model; in a round that is evaluated also the trained model's metrics."""
    ask, model, wire, start = _begin(content, config, node)
    client = share(config, node)
    place = memory.Place.of(node.cache_dir, cast(str, ask["run"]), node.client)
    extra = content.get("message")
    reply, kept, packed = client_round(
        model,
        start,
        client,
        _split(config, node, "train"),
        config,
        method=method_of(config),
        round=cast(int, ask["round"]),
        message=from_arrays(cast(ArrayRecord, extra), _device(model)) if extra is not None else {},
        memory=place.load(cast(int, ask["memory"]), _device(model)),
    )
    if kept:
        place.save(cast(int, ask["round"]), kept, keep=cast(int, ask["memory"]))
    updates = cast(Any, ask["updates"])
    records: Records = {
        "model": to_arrays(packed)
        if packed is not None
        else wire.encode(reply.state, updates, start=None if updates == "fp32" else start),
        "result": MetricRecord(
            {
                "loss": reply.loss,
                "images": reply.images,
                "seconds": reply.seconds,
                "steps": reply.steps,
                "memory": int(bool(kept)),
            }
        ),
    }
    if reply.message:
        records["message"] = to_arrays(reply.message)
    if ask["evaluate"] and np.isfinite(reply.loss) and all(t.isfinite().all() for t in model.parameters()):
        records["metrics"] = _measure(model, config, node)
    return records


@app.evaluate()
@_answers
def evaluate(content: RecordDict, config: RunConfig, node: NodeSettings) -> Records:
    """The metrics of the model that the server sent, on this node's validation split."""
    ask, model, _, start = _begin(content, config, node)
    method = method_of(config)
    if method.personal:
        place = memory.Place.of(node.cache_dir, cast(str, ask["run"]), node.client)
        start = dict(
            personal_model(
                model,
                start,
                share(config, node),
                _split(config, node, "train"),
                config,
                method=method,
                round=cast(int, ask["round"]),
                memory=place.load(cast(int, ask["memory"]), _device(model)),
            )
        )
    model.load_state_dict(start)
    return {"metrics": _measure(model, config, node)}


def _begin(
    content: RecordDict, config: RunConfig, node: NodeSettings
) -> tuple[Mapping[str, Any], Model, Wire, dict[str, Tensor]]:
    """What is asked, a module for it, and the state that came with it."""
    ask = cast(dict[str, Any], content["ask"])
    if ask["hash"] != config.hash:
        raise Refusal(
            f"the server's config has hash {ask['hash']}, this client's {config.hash}: install the same matfl on both"
        )
    if ask["client"] != node.client:
        raise Refusal(f"this node is client {node.client}, not {ask['client']}")
    device = federation.pick_device(node.device)
    model, wire, fixed = _model(config, node.pair, device)
    dispatched = wire.decode(cast(ArrayRecord, content["model"]), cast(Any, ask["models"]), device=device)
    return ask, model, wire, {**dispatched, **fixed}


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def _measure(model: Model, config: RunConfig, node: NodeSettings) -> ConfigRecord:
    device = next(model.parameters()).device
    meters = local.measure(model, _split(config, node, "val"), node.pair, config, device=device)
    found = [(part.label, *named) for part, meter in meters.items() for named in meter.compute().items()]
    tasks, names, values = zip(*found)
    return ConfigRecord({"tasks": list(tasks), "names": list(names), "values": list(map(float, values))})
