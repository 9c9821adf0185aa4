"""Where heads start: biases that follow from sums over the training labels of all clients (`Task.start_bias`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from matfl.data.partition import Client
from matfl.data.split import Split
from matfl.tasks.task import Pair

__all__ = ["combine", "label_sums", "start_biases"]


def label_sums(client: Client, split: Split) -> tuple[float, ...]:
    """The task's sums over one client's training labels; () for a task whose head starts as drawn."""
    labels = split.labels[client.pair.task.name]
    each = [client.pair.task.sums(labels[i]) for i in client.images]
    return tuple(float(total) for total in np.sum(each, 0)) if each and each[0] else ()


def combine(sums: Iterable[tuple[Pair, tuple[float, ...]]]) -> dict[str, tuple[float, ...]]:
    """Biases by pair name from the `label_sums` of clients, in whatever order they come."""
    totals: dict[Pair, np.ndarray] = {}
    for pair, values in sums:
        if values:
            totals[pair] = totals.get(pair, np.zeros(len(values))) + values
    biases = {pair.name: pair.task.start_bias(total.tolist(), pair.channels) for pair, total in totals.items()}
    return {name: bias for name, bias in biases.items() if bias is not None}


def start_biases(clients: Iterable[Client], splits: Mapping[str, Mapping[str, Split]]) -> dict[str, tuple[float, ...]]:
    """Biases by pair name; `splits`: domain name -> 'train' -> its split."""
    return combine((client.pair, label_sums(client, splits[client.pair.domain.name]["train"])) for client in clients)
