"""The general linear step: models, updates, groups of parameters and heads, and the server's optimisers."""

import math
from dataclasses import replace

import pytest
import torch
from test_aggregation import LAYOUT, round_of

from matfl.server.mixing import Mixing, mix, over_models
from matfl.server.optimizers import ServerOptimizer

TASKS = [*"aab"]


def test_models_are_mixed_before_updates_are_added():
    models, updates = round_of(TASKS)
    models.theta_CP[1] += 1
    before = models.copy()
    models_CC = torch.tensor([[0.5, 0.5], [-1.0, 2.0]])
    weights_NN = torch.eye(3)
    mix(models, updates, Mixing(weights_NN=weights_NN, models_CC=models_CC), TASKS)
    shares_CN = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(models.theta_CP, models_CC @ before.theta_CP + shares_CN @ updates.updates_NP)


def test_an_owner_without_replies_keeps_its_model_whatever_models_are_mixed():
    models, updates = round_of(TASKS)
    models.theta_CP[1] += 1
    before = models.copy()
    some = updates.select([0, 1])
    mix(models, some, Mixing(weights_NN=torch.eye(2), models_CC=torch.full((2, 2), 0.5)), ["a", "a"])
    assert torch.equal(models.theta_CP[1], before.theta_CP[1])
    assert not torch.equal(models.theta_CP[0], before.theta_CP[0])


def test_the_identity_of_models_is_the_plain_step():
    one, updates = round_of(TASKS)
    two = one.copy()
    weights_NN = torch.rand(3, 3, generator=torch.Generator().manual_seed(5))
    mix(one, updates, Mixing(weights_NN=weights_NN), TASKS)
    mix(two, updates, Mixing(weights_NN=weights_NN, models_CC=torch.eye(2)), TASKS)
    torch.testing.assert_close(one.theta_CP, two.theta_CP)


def test_weights_over_trained_models_are_the_mean_of_what_clients_hold():
    models, updates = round_of(TASKS)
    models.theta_CP[1] += 1
    before, weights_NN = models.copy(), torch.tensor([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    trained_NP = before.theta_CP[[0, 0, 1]] + updates.updates_NP
    mix(models, updates, over_models(Mixing(weights_NN=weights_NN), models.owners, TASKS), TASKS)
    expected = torch.stack([(weights_NN[:2] @ trained_NP).mean(0), weights_NN[2] @ trained_NP])
    torch.testing.assert_close(models.theta_CP, expected)


def test_weights_within_a_task_are_the_same_over_updates_and_over_models():
    one, updates = round_of(TASKS)
    one.theta_CP[1] += 1
    two, some = one.copy(), updates.select([0, 1])
    mixing = Mixing(weights_NN=torch.full((2, 2), 0.5))
    mix(one, some, mixing, ["a", "a"])
    mix(two, some, over_models(mixing, two.owners, ["a", "a"]), ["a", "a"])
    torch.testing.assert_close(one.theta_CP, two.theta_CP)
    nobody, before = updates.select([]), two.copy()
    mix(two, nobody, over_models(Mixing(weights_NN=torch.zeros(0, 0)), two.owners, []), [])
    assert torch.equal(two.theta_CP, before.theta_CP)


def test_what_has_no_one_weight_a_client_is_not_mixed_over_models():
    said = Mixing(weights_NN=torch.eye(3), models_CC=torch.eye(2))
    assert over_models(said, ["a", "b"], TASKS) is said
    by_group = Mixing(weights_NN=torch.eye(3), groups={("stem",): torch.eye(3)})
    medians = Mixing(weights_NN=torch.eye(3), columns=lambda block_NK: block_NK)
    longer = Mixing(weights_NN=torch.eye(3) * 1.01)
    for mixing in (by_group, medians, longer):
        with pytest.raises(ValueError, match="leave mixes='updates'"):
            over_models(mixing, ["a", "b"], TASKS)
    with pytest.raises(ValueError, match=r"weights_NN of shape \(3, 2\)"):
        over_models(Mixing(weights_NN=torch.ones(3, 2)), ["a", "b"], TASKS)


def test_groups_of_parameters_take_weights_of_their_own():
    models, updates = round_of(TASKS)
    before, average = models.copy(), torch.full((3, 3), 1 / 3)
    groups = {("conv1", "norm.mean"): average, ("conv2",): torch.zeros(3, 3)}
    mix(models, updates, Mixing(weights_NN=torch.eye(3), groups=groups), TASKS)
    for owner, own in (("a", [0, 1]), ("b", [2])):
        moved = {name: tensor - before.backbone(owner)[name] for name, tensor in models.backbone(owner).items()}
        mine = LAYOUT.unflatten(updates.updates_NP[own].mean(0))
        everyone = LAYOUT.unflatten(updates.updates_NP.mean(0))
        torch.testing.assert_close(moved["stem"], mine["stem"])
        torch.testing.assert_close(moved["conv1"], everyone["conv1"])
        assert torch.equal(moved["conv2"], torch.zeros_like(moved["conv2"]))
        values = models.backbone(owner)
        mean, variance = LAYOUT.unflatten_buffers(updates.buffers_NB.mean(0)), updates.buffers_NB[own].mean(0)
        torch.testing.assert_close(values["norm.mean"], mean["norm.mean"])
        torch.testing.assert_close(values["norm.var"], LAYOUT.unflatten_buffers(variance)["norm.var"])


def test_groups_that_name_a_tensor_twice_or_none_are_refused():
    models, updates = round_of(TASKS)
    for groups, word in (
        ({("conv1",): torch.eye(3), ("conv1", "conv2"): torch.eye(3)}, "'conv1' is in two groups"),
        ({("conv9",): torch.eye(3)}, "'conv9' is in two groups or no parameter"),
        ({("conv1",): torch.eye(2)}, r"groups\[conv1, ...\] of shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=word):
            mix(models, updates, Mixing(weights_NN=torch.eye(3), groups=groups), TASKS)
    with pytest.raises(ValueError, match=r"models_CC of shape \(3, 3\).*\(2, 2\)"):
        mix(models, updates, Mixing(weights_NN=torch.eye(3), models_CC=torch.eye(3)), TASKS)


def test_stages_cover_the_backbone_once():
    named = [name for names in LAYOUT.stages.values() for name in names]
    assert sorted(named) == sorted([*LAYOUT.parameters, *LAYOUT.buffers])
    assert LAYOUT.stages["norm"] == ("norm.mean", "norm.var")


def test_heads_are_mixed_as_updates_where_a_method_says_so():
    models, updates = round_of(TASKS)
    before = {owner: head["weight"].clone() for owner, head in models.heads.items()}
    changes = [updates.heads[n]["weight"] - before[task] for n, task in enumerate(TASKS)]
    weights_NN = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.25, 0.25, 1.0]])
    mix(models, updates, Mixing(weights_NN=torch.eye(3), heads={("weight",): weights_NN}), TASKS)
    expected = [sum(float(w) * change for w, change in zip(row, changes)) for row in weights_NN]
    torch.testing.assert_close(models.heads["a"]["weight"], before["a"] + (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(models.heads["b"]["weight"], before["b"] + expected[2])


def test_heads_of_different_shapes_are_not_mixed():
    models, updates = round_of(TASKS)
    wide = {"weight": torch.zeros(3, 2), "count": torch.tensor(0)}
    models.heads["b"] = wide
    updates = replace(updates, heads=(*updates.heads[:2], wide))
    weights_NN = torch.eye(3)
    mix(models, updates, Mixing(weights_NN=torch.eye(3), heads={("weight",): weights_NN}), TASKS)
    weights_NN[0, 2] = 0.1
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 2\) at client 0 and \(3, 2\) at client 2"):
        mix(models, updates, Mixing(weights_NN=torch.eye(3), heads={("weight",): weights_NN}), TASKS)


def by_hand(kind, updates, *, lr, beta1, beta2, tau):
    """One number under a server optimiser, in Python's floats, from the formulas of Reddi et al."""
    theta, m, v = 0.0, 0.0, tau**2
    for u in updates:
        if kind == "none":
            theta += lr * u
            continue
        if kind == "avgm":
            m = beta1 * m + u
            theta += lr * m
            continue
        m = beta1 * m + (1 - beta1) * u
        if kind == "adam":
            v = beta2 * v + (1 - beta2) * u * u
        else:
            v -= (1 - beta2) * u * u * math.copysign(1, v - u * u)
        theta += lr * m / (math.sqrt(v) + tau)
    return theta


@pytest.mark.parametrize("kind", ["none", "avgm", "adam", "yogi"])
@pytest.mark.parametrize("through_models", [False, True])
def test_server_optimisers_by_hand(kind, through_models):
    options = {"lr": 0.7, "beta1": 0.6, "beta2": 0.8, "tau": 0.05}
    step = ServerOptimizer(kind=kind, **options)
    models, updates = round_of(TASKS)
    models = replace(models, theta_CP=models.theta_CP.double().zero_())
    moments = step.start(models.theta_CP)
    mixing = Mixing(weights_NN=torch.eye(3), models_CC=torch.eye(2) if through_models else None)
    sequence = (1.0, -0.3, 0.2, 0.05)
    for u in sequence:
        mix(
            models,
            replace(updates, updates_NP=updates.updates_NP.double().fill_(u)),
            mixing,
            TASKS,
            step=step,
            moments=moments,
        )
    expected = by_hand(kind, sequence, **options)
    torch.testing.assert_close(models.theta_CP, torch.full_like(models.theta_CP, expected), rtol=1e-9, atol=1e-12)
    assert set(moments) == {"none": set(), "avgm": {"m"}}.get(kind, {"m", "v"})


def test_a_server_step_leaves_statistics_heads_and_tasks_without_replies():
    step = ServerOptimizer(kind="adam", lr=2.0)
    plain, updates = round_of(TASKS)
    moved = plain.copy()
    moments = step.start(moved.theta_CP)
    some = updates.select([0, 1])
    mix(plain, some, Mixing(weights_NN=torch.eye(2)), ["a", "a"])
    before = moved.theta_CP[1].clone()
    mix(moved, some, Mixing(weights_NN=torch.eye(2)), ["a", "a"], step=step, moments=moments)
    assert torch.equal(moved.buffers_CB, plain.buffers_CB)
    assert torch.equal(moved.heads["a"]["weight"], plain.heads["a"]["weight"])
    assert torch.equal(moved.theta_CP[1], before)
    assert torch.equal(moments["m"][1], torch.zeros_like(before))
    assert moments["m"][0].any()


def test_the_server_step_is_linear_in_its_length():
    one, updates = round_of(TASKS)
    two, start = one.copy(), one.theta_CP.clone()
    weights_NN = torch.full((3, 3), 1 / 3)
    mix(one, updates, Mixing(weights_NN=weights_NN), TASKS)
    mix(two, updates, Mixing(weights_NN=weights_NN), TASKS, step=ServerOptimizer(lr=3.0))
    torch.testing.assert_close(two.theta_CP - start, 3 * (one.theta_CP - start))
