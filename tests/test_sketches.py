"""Sketches: linear, the same in parts, unbiased with the stated variance, and good enough to group by."""

import math

import numpy as np
import pytest
import torch
from rounds import make_round
from test_hostile import honest, server_of
from tiny import tiny

from matfl.server.grouping import cosine, friends, gram, similarity, similarity_weights, votes
from matfl.server.methods import METHODS
from matfl.server.methods.sketched import cosines, private_sketch
from matfl.server.server import Reply
from matfl.server.sketches import ClientSketch, Sketcher, gathered, sketch, sketch_gram
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


def test_a_client_whose_sketch_was_made_otherwise_is_named():
    server = Sketcher(length=8, seed=1)
    good = ClientSketch(values_Ld=torch.ones(2, 8), layers=LAYERS, sketcher=server)
    assert gathered({3: good, 1: good}, LAYERS, server).shape == (2, 2, 8)
    for wrong, message in (
        (Sketcher(length=8, seed=2), "client 4: its sketch has seed 2, the server's 1: .* give the client the server"),
        (Sketcher(length=9, seed=1), "client 4: its sketch has length 9, the server's 8"),
    ):
        with pytest.raises(ValueError, match=message):
            gathered(
                {3: good, 4: ClientSketch(values_Ld=torch.ones(2, 8), layers=LAYERS, sketcher=wrong)}, LAYERS, server
            )
    with pytest.raises(ValueError, match=r"client 0: its sketch has layers .* the server's"):
        gathered({0: ClientSketch(values_Ld=torch.ones(2, 8), layers=LAYERS[::-1], sketcher=server)}, LAYERS, server)
    with pytest.raises(ValueError, match=r"client 0: its sketch has shape \(1, 8\), the server's \(2, 8\)"):
        gathered({0: ClientSketch(values_Ld=torch.ones(1, 8), layers=LAYERS, sketcher=server)}, LAYERS, server)


def test_grouping_from_sketches_is_a_setting_of_the_run():
    round = make_round("aabbcc", sketch=8, seed=5)
    layers = round.updates.layout.voting
    estimated = cosine(sketch_gram(sketch(round.updates, layers, Sketcher(length=8, seed=0))))
    torch.testing.assert_close(round.similarity(), estimated)
    mixing = METHODS["matfl"].mix(round)
    chosen = friends(votes(estimated, 3), 3, similarity=estimated)
    torch.testing.assert_close(mixing.weights_NN, similarity_weights(estimated, chosen))
    exact = make_round("aabbcc")
    torch.testing.assert_close(exact.similarity(), similarity(exact.updates, layers))
    assert [name for name, method in METHODS.items() if method.sketched] == [
        "matfl",
        "matfl_uniform",
        "similarity_only",
        "matfl_self",
    ]


def test_sketches_that_cannot_serve_are_refused():
    with pytest.raises(ValueError, match=r"sketch=8: method 'fedavg' needs more .* set sketch=0, or choose matfl"):
        server_of(tiny(method="fedavg", sketch=8))
    with pytest.raises(ValueError, match=r"sketch=1000000: the smallest voting layer has only [0-9]+ numbers"):
        server_of(tiny(sketch=10**6))
    with pytest.raises(ValueError, match=r"length=0: choose at least 1"):
        tiny(method="matfl_sketches", **{"matfl_sketches.length": 0})
    with pytest.raises(ValueError, match=r"noise=-1.0: choose 0"):
        tiny(method="matfl_sketches", **{"matfl_sketches.noise": -1.0})


def test_matfl_by_sketches_is_algorithm_1_on_their_cosines():
    draw = torch.Generator().manual_seed(0)
    made = [private_sketch(torch.randn(3, 16, generator=draw), noise=0.0, generator=draw) for _ in range(6)]
    assert all(float(one.norm()) == pytest.approx(1.0) for one in made)
    round = make_round("aabbcc", method="matfl_sketches", messages=[{"sketch": one} for one in made])
    expected = cosine(sketch_gram(torch.stack(made, 1)))
    torch.testing.assert_close(cosines(torch.stack(made, 1)), expected)
    chosen = friends(votes(expected, 3), 3, similarity=expected)
    torch.testing.assert_close(METHODS["matfl_sketches"].mix(round).weights_NN, similarity_weights(expected, chosen))


def test_noisy_sketches_give_unbiased_cosines():
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(2, 3, 32, generator=draw, dtype=torch.float64)
    base[1] = base[0] + 0.8 * base[1]
    exact = cosine(
        torch.stack([private_sketch(one, noise=0.0, generator=draw) for one in base], 1)
        @ torch.stack([private_sketch(one, noise=0.0, generator=draw) for one in base], 1).transpose(1, 2)
    )[:, 0, 1]
    noisy = torch.stack(
        [
            cosines(torch.stack([private_sketch(one, noise=0.05, generator=draw) for one in base], 1))[:, 0, 1]
            for _ in range(2000)
        ]
    )
    assert (noisy.mean(0) - exact).abs().max() < 4 * noisy.std(0).max() / 2000**0.5 + 0.01
    assert torch.equal(private_sketch(torch.zeros(2, 4), noise=0.0, generator=draw), torch.zeros(2, 4))


def test_a_reply_whose_sketch_has_another_shape_is_left_out():
    server, state = server_of(tiny(method="matfl_sketches", **{"matfl_sketches.length": 16}))
    collection = server.begin(state)
    layers = len(server.layout.voting)
    for client in range(4):
        shape = (layers, 17 if client == 1 else 16)
        collection.add(Reply(**honest(server, state, client), message={"sketch": torch.ones(shape)}))
    _, record = collection.finish()
    assert record.row["excluded"] == {"1": f"message 'sketch' has shape ({layers}, 17), not ({layers}, 16)"}
