"""Sketches: linear, the same in parts, unbiased with the stated variance, and good enough to group by."""

import math

import numpy as np
import pytest
import torch

from matfl.server.grouping import cosine, friends, gram, votes
from matfl.server.sketches import Sketcher, sketch, sketch_gram
from matfl.server.updates import Layout, Updates

LAYERS = ("first.weight", "second.weight")


def updates_of(rows_NP, sizes):
    layout = Layout.of(dict(zip(LAYERS, map(torch.zeros, sizes), strict=True)), parameters=LAYERS, voting=LAYERS)
    n = len(rows_NP)
    return Updates(
        layout=layout, clients=tuple(range(n)), updates_NP=rows_NP, buffers_NB=torch.zeros(n, 0), heads=({},) * n
    )


def planted(n, parameters, *, tasks, seed=0):
    """Updates of a common direction a task plus noise."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(tasks, parameters, generator=draw)
    return directions[torch.arange(n) % tasks] + 1.5 * torch.randn(n, parameters, generator=draw)


def test_a_sketch_is_linear_and_does_not_depend_on_the_parts_it_comes_in():
    rows = torch.randn(3, 1000, dtype=torch.float64)
    sketcher = Sketcher(length=64, seed=7)
    whole = sketcher.of(rows, "layer")
    parts = sketcher.of(rows[:, :333], "layer") + sketcher.of(rows[:, 333:], "layer", first=333)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(sketcher.of(2 * rows[:1] - rows[1:2], "layer"), 2 * whole[:1] - whole[1:2])


def test_every_element_lands_in_one_bucket_with_one_sign():
    sketches = Sketcher(length=16, seed=1).of(torch.eye(500, dtype=torch.float64), "layer")
    assert (sketches.abs().sum(1) == 1).all()
    assert 0.4 < (sketches.sum(1) > 0).double().mean() < 0.6
    filled = sketches.abs().sum(0)
    assert filled.min() > 10
    assert filled.max() < 60


def test_inner_products_are_unbiased_with_the_stated_variance():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=400), draw.normal(size=400)
    b += 0.5 * a
    rows, d = torch.from_numpy(np.stack([a, b])), 50
    estimates = []
    for seed in range(4000):
        first, second = Sketcher(length=d, seed=seed).of(rows, "layer")
        estimates.append(float(first @ second))
    exact = a @ b
    variance = (a @ a * (b @ b) + exact**2 - 2 * (a**2 @ b**2)) / d
    assert np.mean(estimates) == pytest.approx(exact, abs=4 * math.sqrt(variance / len(estimates)))
    assert np.var(estimates) == pytest.approx(variance, rel=0.1)


def test_layers_and_seeds_hash_differently():
    row = torch.randn(1, 200)
    base = Sketcher(length=32, seed=0).of(row, "a")
    assert not torch.equal(base, Sketcher(length=32, seed=0).of(row, "b"))
    assert not torch.equal(base, Sketcher(length=32, seed=1).of(row, "a"))


def test_cosines_from_sketches_stay_within_their_deviation_and_group_as_the_exact_ones():
    rows = planted(12, 6000, tasks=6)
    updates = updates_of(rows, (2000, 4000))
    sketcher = Sketcher(length=1024, seed=3)
    exact = cosine(gram(updates, LAYERS))
    estimated = cosine(sketch_gram(sketch(updates, LAYERS, sketcher)))
    error = (estimated - exact)[:, ~torch.eye(12, dtype=torch.bool)]
    assert float(error.abs().max()) < 5 * sketcher.deviation(1.0)
    assert float(error.square().mean().sqrt()) < 1.3 * sketcher.deviation(0.0)
    chosen = friends(votes(exact, 2), 2, similarity=exact)
    assert torch.equal(friends(votes(estimated, 2), 2, similarity=estimated), chosen)


def test_clients_sketches_come_in_any_order_and_must_agree():
    sketches = torch.randn(2, 3, 8)
    by_client = {2: sketches[:, 2], 0: sketches[:, 0], 1: sketches[:, 1]}
    torch.testing.assert_close(sketch_gram(by_client), sketch_gram(sketches))
    with pytest.raises(ValueError, match=r"client 1: its sketch has shape \(2, 9\), the others' \(2, 8\)"):
        sketch_gram({0: torch.zeros(2, 8), 1: torch.zeros(2, 9)})
    with pytest.raises(ValueError, match="at least 1 number"):
        Sketcher(length=0)
    with pytest.raises(ValueError, match="'nowhere' is not a parameter"):
        sketch(updates_of(torch.zeros(2, 4), (2, 2)), ["nowhere"], Sketcher(length=4))
