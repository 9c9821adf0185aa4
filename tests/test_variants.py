"""MaT-FL's variants beyond the paper: what each changes in algorithm 1, and that nothing else does."""

import naive
import numpy as np
import pytest
import torch
from rounds import BUFFERS, VOTING, decided, layout, make_round
from test_rivals import close

from matfl.server.layout import Layout
from matfl.server.methods import METHODS
from matfl.server.methods.variants import MatflLayers, gain_weights, own_weights, stages


def slices(rows, names):
    """rows[i] as lists of numbers by layer."""
    slots = [layout().parameters[name] for name in names]
    return [[row[slot.start : slot.stop].tolist() for slot in slots] for row in rows]


def algorithm_1(rows, names, k):
    s = naive.similarity(slices(rows, names))
    chosen = naive.friends(naive.votes(s, k), s, k)
    return naive.weights(s, chosen), chosen


def test_stages_hold_every_tensor_once():
    found = stages(layout())
    assert list(found) == ["layer1", "layer2"]
    assert found["layer1"][:2] == ("stem.weight", "layer1.0.conv.weight")
    assert sorted(name for names in found.values() for name in names) == sorted([*layout().parameters, *BUFFERS])
    deep = {f"{name}.weight": torch.zeros(2, 2) for name in ("stem", "blocks.0.a", "blocks.0.b", "blocks.1.a", "head")}
    assert stages(Layout.of(deep, parameters=deep)) == {
        "blocks.0": ("stem.weight", "blocks.0.a.weight", "blocks.0.b.weight"),
        "blocks.1": ("blocks.1.a.weight", "head.weight"),
    }
    flat = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    assert stages(Layout.of(flat, parameters=flat)) == {"all": ("a.weight", "b.weight")}


@pytest.mark.parametrize("first", [0, 1, 3])
def test_layers_is_algorithm_1_within_each_stage(first):
    round = make_round("aabbc", seed=6, k=2)
    _, models = decided("matfl_layers", round, first=first)
    g = round.updates.updates_NP
    for names, voting, k in zip(stages(layout()).values(), (VOTING[:1], VOTING[1:]), (first or 5, 2)):
        weights, _ = algorithm_1(g, voting, k)
        for name in names:
            if name in BUFFERS:
                slot = layout().buffers[name]
                values = np.array(weights) @ round.updates.buffers_NB[:, slot.start : slot.stop].numpy()
                close(models.buffers_CB[0, slot.start : slot.stop], values[:2].mean(0), 1e-10)
            else:
                slot = layout().parameters[name]
                part = slice(slot.start, slot.stop)
                moved = (models.theta_CP - round.models.theta_CP)[:, part]
                close(moved[0], (np.array(weights) @ g[:, part].numpy())[:2].mean(0), 1e-10)
    assert (MatflLayers(first=first).mix(round).weights_NN.sum(1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0])
def test_self_replaces_only_the_own_weight(own):
    round = make_round("aabbc", seed=7, k=3)
    weights, chosen = algorithm_1(round.updates.updates_NP, VOTING, 3)
    expected = np.zeros((5, 5))
    for i, row in enumerate(weights):
        others = sum(row[j] for j in chosen[i] if j != i)
        for j in chosen[i]:
            expected[i, j] = (own if others else 1) if j == i else (1 - own) * row[j] / others if others else 0
    close(decided("matfl_self", round, own=own)[0].weights_NN, expected, 1e-10)
    lonely = torch.tensor([[1.0, 0.0], [0.2, 0.8]])
    assert own_weights(lonely, 0.5).tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_task_is_algorithm_1_on_the_tasks_mean_updates():
    round = make_round("aabbbc", seed=8, k=3, clients_per_task=2)
    g = round.updates.updates_NP
    means = torch.stack([g[:2].mean(0), g[2:5].mean(0), g[5]])
    weights, _ = algorithm_1(means, VOTING, 2)  # 3 clients' worth of tasks of 2 clients
    _, models = decided("matfl_task", round)
    close(models.theta_CP - round.models.theta_CP, np.array(weights) @ means.numpy(), 1e-10)


def test_task_ignores_what_partners_cancel():
    round = make_round("aabb", seed=9)
    before = decided("matfl_task", round)[1]
    pull = 5 * torch.randn(layout().P, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    round.updates.updates_NP[0] += pull
    round.updates.updates_NP[1] -= pull
    close(decided("matfl_task", round)[1].theta_CP, before.theta_CP, 1e-9)
    assert not torch.allclose(
        decided("matfl", round)[0].weights_NN, METHODS["matfl"].mix(make_round("aabb", seed=9)).weights_NN
    )


def test_gain_takes_the_k_that_lower_the_loss_most_per_length():
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(4, layout().P, generator=generator, dtype=torch.float64)
    round = make_round("aabb", messages=[{"gradient": row} for row in gradients], k=2, seed=10)
    g = round.updates.updates_NP
    expected = []
    for i in range(4):
        gain = [float(-(gradients[i] @ g[j]) / g[j].norm()) for j in range(4)]
        best = sorted(range(4), key=lambda j: -gain[j])[:2]
        kept = [max(gain[j], 0) if j in best else 0 for j in range(4)]
        expected.append([x / sum(kept) for x in kept] if sum(kept) else [float(i == j) for j in range(4)])
    close(METHODS["matfl_gain"].mix(round).weights_NN, expected, 1e-10)


def test_gain_ties_and_rows_without_help():
    weights, friends = gain_weights(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, -2.0, -3.0]]), 2)
    assert friends.tolist() == [[True, True, False], [True, True, False], [False, False, False]]
    assert weights[2].tolist() == [0, 0, 1]
    assert weights[1].tolist() == [0.5, 0.5, 0]


def test_matfl_itself_is_recovered():
    round = make_round("aabbc", seed=11, k=5)
    plain = METHODS["matfl"].mix(round).weights_NN
    alone = make_round("abcde", seed=11, k=5, clients_per_task=1)  # one client a task: its mean is its update
    close(METHODS["matfl_task"].mix(alone).weights_NN, METHODS["matfl"].mix(alone).weights_NN, 1e-10)
    own = plain.diagonal()
    for i in range(5):
        close(own_weights(plain, float(own[i]))[i], plain[i], 1e-10)
