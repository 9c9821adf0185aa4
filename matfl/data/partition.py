"""Which client trains which task on which images (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.core.streams import derive
from matfl.data.cache import DataError
from matfl.data.split import Split
from matfl.tasks.task import Pair, pairs

__all__ = ["Client", "partition"]


@dataclass(frozen=True)
class Client:
    """One client: it has one task, and images of its domain that no other client has."""

    index: int
    pair: Pair
    images: tuple[int, ...]
    """Indices into the domain's training split, ascending."""


def partition(config: RunConfig, splits: Mapping[str, Split]) -> tuple[Client, ...]:
    """The clients in the order of `pairs(config.tasks)`, `clients_per_task` of each.

    Each domain's images (`splits`: domain name -> training split) are shuffled by (config.seed, domain) and dealt
    evenly to the clients of its tasks; shares differ by one image at most. The shuffle is over the sorted ids, so it
    does not depend on how a split is stored, and one domain's shares do not depend on the other domain. After that,
    clients keep only images that count for their task (human_parts: with a person), and every client at most
    `config.images_per_client`.

    Raises DataError, naming the client and the remedy, when a client is left without an image.
    """
    chosen = pairs(config.tasks)
    shares: dict[str, Iterator[np.ndarray]] = {}
    for domain in dict.fromkeys(p.domain for p in chosen):
        if domain.name not in splits:
            raise ValueError(f"no training split of domain {domain.name!r} was given: load it with load_split")
        ids = np.array(splits[domain.name].ids)
        number = sum(p.domain == domain for p in chosen) * config.clients_per_task
        order = np.random.default_rng(derive(config.seed, "partition", domain.name)).permutation(len(ids))
        shares[domain.name] = iter(np.array_split(np.argsort(ids, kind="stable")[order], number))
    clients: list[Client] = []
    for p in chosen:
        for _ in range(config.clients_per_task):
            clients.append(_client(config, len(clients), p, next(shares[p.domain.name]), splits[p.domain.name]))
    return tuple(clients)


def _client(config: RunConfig, index: int, pair: Pair, share: np.ndarray, split: Split) -> Client:
    images = share[split.counting(pair.task.name, share)]
    if not len(images):
        number = config.clients_per_task
        empty = "its share of the images is empty"
        if len(share):
            empty = f"none of its {len(share)} images {pair.task.counting or 'counts'}"
        raise DataError(
            f"client {index} ({pair.name}) has no image to train on: {empty}, out of {len(split)} in the "
            f"training split shared with clients_per_task={number}; raise images_train or lower "
            "clients_per_task"
        )
    if config.images_per_client:
        images = images[: config.images_per_client]
    return Client(index, pair, tuple(sorted(int(i) for i in images)))
