"""Invariants of the partition into clients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matfl.config.run_config import RunConfig, quick
from matfl.data import Client, DataError, Split, partition
from matfl.tasks.task import DOMAINS, pairs

CONFIG = replace(quick(), k=1, images_per_client=0, seed=3)


def split(domain: str, n: int, *, people: float = 0.5, ids: list[str] | None = None) -> Split:
    """A split of tiny pictures, the first share of them with a person."""
    parts = np.zeros((n, 2, 2), np.uint8)
    parts[: round(people * n), 0, 0] = 2
    parts[round(people * n) :, 0, 0] = 255
    labels = dict.fromkeys(DOMAINS[domain].channels, parts)
    return Split(
        domain=DOMAINS[domain],
        ids=tuple(ids or (f"{i:05d}" for i in range(n))),
        images=np.zeros((n, 3, 2, 2), np.uint8),
        labels=labels,
    )


def both(n: int = 103, m: int = 91) -> dict[str, Split]:
    return {"outdoor": split("outdoor", n), "indoor": split("indoor", m)}


def shares(clients: tuple[Client, ...], domain: str) -> list[set[int]]:
    return [set(client.images) for client in clients if client.pair.domain.name == domain]


@pytest.mark.parametrize("per_task", [1, 2, 4])
@pytest.mark.parametrize("n, m", [(103, 91), (40, 64)])
def test_even_disjoint_and_complete(per_task: int, n: int, m: int) -> None:
    splits = {"outdoor": split("outdoor", n, people=1), "indoor": split("indoor", m)}
    clients = partition(replace(CONFIG, clients_per_task=per_task), splits)
    assert [client.index for client in clients] == list(range(9 * per_task))
    assert [client.pair for client in clients] == [pair for pair in pairs("scenes9") for _ in range(per_task)]
    for domain, count in (("outdoor", n), ("indoor", m)):
        parts = shares(clients, domain)
        assert sum(map(len, parts)) == len(set().union(*parts)) == count
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for client in clients:
        assert list(client.images) == sorted(client.images)
        assert all(type(i) is int for i in client.images)


def test_only_the_seed_and_the_ids_decide() -> None:
    splits = both()
    clients = partition(CONFIG, splits)
    assert clients == partition(replace(CONFIG, lr=0.5, rounds=1, method="fedavg"), both())
    assert clients != partition(replace(CONFIG, seed=4), splits)
    # The same images in another order, and in memory of another kind, go to the same clients by name.
    order = np.random.default_rng(0).permutation(103)
    ids = splits["outdoor"].ids
    shuffled = replace(
        splits["outdoor"],
        ids=tuple(ids[i] for i in order),
        labels={task: label[order].astype(np.int16) for task, label in splits["outdoor"].labels.items()},
    )
    for a, b in zip(clients, partition(CONFIG, {**splits, "outdoor": shuffled})):
        names = shuffled.ids if b.pair.domain.name == "outdoor" else splits["indoor"].ids
        assert {splits[a.pair.domain.name].ids[i] for i in a.images} == {names[i] for i in b.images}


def test_a_domains_shares_do_not_depend_on_the_other_domain() -> None:
    together = partition(CONFIG, both())
    alone = partition(replace(CONFIG, tasks="outdoor5"), {"outdoor": split("outdoor", 103)})
    assert [client.images for client in together][:10] == [client.images for client in alone]


def test_persons_are_filtered_after_the_split() -> None:
    splits = both()
    clients = partition(CONFIG, splits)
    everything = partition(CONFIG, {**splits, "outdoor": split("outdoor", 103, people=1)})
    for client, whole in zip(clients, everything):
        if client.pair.task.name == "human_parts":
            expected = [i for i in whole.images if i < 52]  # those with a person; 255 is none
            assert list(client.images) == expected
            assert 0 < len(expected) < len(whole.images)
        else:
            assert client.images == whole.images


def test_flags_from_the_native_labels_count_more_than_the_small_ones() -> None:
    splits = both()
    everyone = replace(splits["outdoor"], counted={"human_parts": np.ones(103, bool)})
    clients = partition(CONFIG, {**splits, "outdoor": everyone})
    assert sum(map(len, shares(clients, "outdoor"))) == 103


def test_the_cap_is_a_part_of_the_share() -> None:
    splits = {"outdoor": split("outdoor", 103, people=1), "indoor": split("indoor", 91)}
    whole = partition(CONFIG, splits)
    capped = partition(replace(CONFIG, images_per_client=4), splits)
    for a, b in zip(whole, capped):
        assert len(b.images) == 4
        assert set(b.images) < set(a.images)
    assert partition(replace(CONFIG, images_per_client=1000), splits) == whole


def test_the_split_is_random_and_uniform() -> None:
    counts = np.zeros((10, 50))
    splits = {"outdoor": split("outdoor", 50, people=1)}
    for seed in range(300):
        for client in partition(replace(CONFIG, tasks="outdoor5", seed=seed), splits):
            counts[client.index, list(client.images)] += 1
    # 300 draws with probability 1/10 each: mean 30, standard deviation 5.2
    assert counts.min() > 30 - 5 * 5.2
    assert counts.max() < 30 + 5 * 5.2


def test_a_client_without_an_image_is_an_error_with_a_remedy() -> None:
    with pytest.raises(
        DataError,
        match=r"client 2 \(outdoor/human_parts\) has no image .*none of its 11 images shows "
        r"a person.*raise images_train or lower clients_per_task",
    ):
        partition(CONFIG, {**both(), "outdoor": split("outdoor", 103, people=0)})
    with pytest.raises(DataError, match=r"client 16 \(indoor/depth\) .*its share of the images is empty, out of 6"):
        partition(CONFIG, {**both(), "indoor": split("indoor", 6)})


def test_a_missing_split_is_named() -> None:
    with pytest.raises(ValueError, match="no training split of domain 'indoor'"):
        partition(CONFIG, {"outdoor": split("outdoor", 50)})


def test_the_papers_real_domains_and_single_pairs() -> None:
    config = RunConfig(tasks="nyud/depth,pascal/sal", k=2)
    clients = partition(config, {"pascal": split("pascal", 9), "nyud": split("nyud", 8)})
    assert [client.pair.name for client in clients] == ["nyud/depth"] * 2 + ["pascal/sal"] * 2
    assert sorted(map(len, shares(clients, "pascal"))) == [4, 5]
