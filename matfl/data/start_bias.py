"""Where heads start: biases that follow from sums over the training labels of all clients (`Task.start_bias`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from matfl.data.partition import Client
from matfl.data.split import Split
from matfl.tasks.task import Pair

__all__ = ["Sums", "combine", "label_sums", "start_biases"]


Sums = Mapping[str, tuple[float, ...]]
"""Of a client's labels, by the name of each of its tasks."""


def label_sums(client: Client, split: Split) -> dict[str, tuple[float, ...]]:
    """Each task's sums over one client's training labels; tasks whose head starts as drawn have none."""
    found = {}
    for part in client.pair.parts:
        labels = split.labels[part.task.name]
        each = [part.task.sums(labels[i]) for i in client.images]
        if each and each[0]:
            found[part.task.name] = tuple(float(total) for total in np.sum(each, 0))
    return found


def combine(sums: Iterable[tuple[Pair, Sums]]) -> dict[str, tuple[float, ...]]:
    """Biases by plain pair name from the `label_sums` of clients, in whatever order they come.

    A task's clients count together, whatever other tasks they have.
    """
    totals: dict[str, tuple[Pair, np.ndarray]] = {}
    for pair, of_client in sums:
        for part in pair.parts:
            if values := of_client.get(part.task.name):
                before = totals[part.plain][1] if part.plain in totals else np.zeros(len(values))
                totals[part.plain] = part, before + values
    biases = {name: part.task.start_bias(total.tolist(), part.channels) for name, (part, total) in totals.items()}
    return {name: bias for name, bias in biases.items() if bias is not None}


def start_biases(clients: Iterable[Client], splits: Mapping[str, Mapping[str, Split]]) -> dict[str, tuple[float, ...]]:
    """Biases by plain pair name; `splits`: domain name -> 'train' -> its split."""
    return combine((client.pair, label_sums(client, splits[client.pair.domain.name]["train"])) for client in clients)
