"""Losses against closed forms written pixel by pixel; the pairs and their names."""

import math
import pickle

import numpy as np
import pytest
import torch

from matfl.data import READERS
from matfl.data.augment import RULES
from matfl.tasks.task import DOMAINS, IGNORE, TASK_SETS, TASKS, Pair, pair, pairs, unit

EVERY = [p.name for p in (*pairs("scenes9"), *pairs("paper9"))]


def random_batch(name, n=3, height=5, width=6, seed=0):
    rng = np.random.default_rng(seed)
    p = pair(name)
    prediction = torch.from_numpy(rng.normal(size=(n, p.channels, height, width)) * 2).float().requires_grad_()
    if p.task.name == "normals":
        target = rng.normal(size=(n, 3, height, width))
        target /= np.linalg.norm(target, axis=1, keepdims=True)
        target[:, :, 0] = 0
        return p, prediction, torch.from_numpy(target).half()
    if p.task.name == "depth":
        target = rng.uniform(0.5, 9, (n, height, width))
        target[:, 0] = 0
        return p, prediction, torch.from_numpy(target).half()
    target = rng.integers(0, max(2, p.channels), (n, height, width), dtype=np.uint8)
    target[:, 0] = IGNORE
    return p, prediction, torch.from_numpy(target)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def expected_loss(p, prediction, target):
    """The loss from single pixels in float64."""
    x, y = prediction.detach().double().numpy(), target.double().numpy()
    pixels = [(b, i, j) for b, i, j in np.ndindex(len(x), *x.shape[2:])]
    name = p.task.name
    if name in ("semseg", "human_parts"):
        pixels = [at for at in pixels if y[at] != IGNORE]
        scores = {at: x[at[0], :, at[1], at[2]] for at in pixels}
        return sum(math.log(np.exp(scores[at]).sum()) - scores[at][int(y[at])] for at in pixels) / len(pixels)
    if name in ("sal", "edge"):
        pixels = [at for at in pixels if y[at] != IGNORE]
        positive = sum(y[at] == 0 for at in pixels) / len(pixels) if name == "sal" else 0.95
        total = 0.0
        for at in pixels:
            probability = sigmoid(x[at[0], 0, at[1], at[2]])
            total -= positive * math.log(probability) if y[at] else (1 - positive) * math.log(1 - probability)
        return total / len(pixels)
    if name == "depth":
        errors = [abs(x[b, 0, i, j] - y[b, i, j]) for b, i, j in pixels if y[b, i, j] != 0]
        return sum(errors) / len(errors)
    errors = []
    for b, i, j in pixels:
        if np.linalg.norm(y[b, :, i, j]) > 0:
            errors += list(abs(x[b, :, i, j] / np.linalg.norm(x[b, :, i, j]) - y[b, :, i, j]))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("name", EVERY)
def test_loss_of_every_pair(name):
    p, prediction, target = random_batch(name)
    loss = p.task.loss(prediction, target)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss(p, prediction, target), rel=1e-5)
    loss.backward()
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[:, :, 0] == 0).all()  # the first row is ignored
    assert (prediction.grad[:, :, 1:] != 0).any(1).all()


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_change_nothing(name):
    p, prediction, target = random_batch(name)
    other = prediction.detach().clone()
    other[:, :, 0] += 100
    torch.testing.assert_close(p.task.loss(other, target), p.task.loss(prediction.detach(), target), atol=0, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_target_costs_nothing_and_has_finite_gradients(name):
    p, prediction, target = random_batch(name)
    loss = p.task.loss(prediction, torch.full_like(target, p.task.ignore))
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("value", [0, 1])
def test_saliency_of_one_kind_only(value):
    """Without positives the negatives weigh 1 - 1 = 0, and the reverse: the balanced loss has nothing to balance."""
    prediction = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = TASKS["sal"].loss(prediction, torch.full((2, 4, 4), value, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_extreme_predictions_have_finite_gradients(name, size):
    p, prediction, target = random_batch(name)
    prediction = (prediction.detach() * size).requires_grad_()
    loss = p.task.loss(prediction, target)
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_predictions_are_measured_in_float32(name):
    p, prediction, target = random_batch(name)
    half = prediction.detach().bfloat16()
    assert torch.equal(p.task.loss(half, target), p.task.loss(half.float(), target))


def test_a_learned_prediction_has_no_loss():
    _, _, target = random_batch("indoor/depth")
    assert TASKS["depth"].loss(target[:, None].float(), target).item() == 0
    _, _, target = random_batch("indoor/normals")
    assert TASKS["normals"].loss(target.float() * 5, target).item() < 1e-3
    _, _, target = random_batch("outdoor/edge")
    assert TASKS["edge"].loss(torch.where(target == 1, 30.0, -30.0)[:, None], target).item() < 1e-6


def test_unit_is_normalize_at_any_length():
    vectors = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for scale in (1e-4, 1, 1e10):
        torch.testing.assert_close(unit(vectors * scale), torch.nn.functional.normalize(vectors, dim=1))
    assert unit(torch.zeros(1, 3, 2, 2)).abs().max() == 0
    assert unit(vectors.half()).dtype == torch.float32


def test_the_nine_pairs_of_the_paper():
    names = [
        "pascal/semseg",
        "pascal/human_parts",
        "pascal/sal",
        "pascal/normals",
        "pascal/edge",
        "nyud/semseg",
        "nyud/normals",
        "nyud/edge",
        "nyud/depth",
    ]
    assert [p.name for p in pairs("paper9")] == names
    assert [p.channels for p in pairs("paper9")] == [21, 7, 1, 3, 1, 40, 3, 1, 1]
    assert [str(p).split("/")[1] for p in pairs("scenes9")] == [n.split("/")[1] for n in names]
    assert pairs("pascal5") == pairs("paper9")[:5]
    assert pairs("outdoor5") == pairs("scenes9")[:5]
    assert set(TASK_SETS) == {"outdoor5", "scenes9", "pascal5", "paper9", "photos8"}


def test_pairs_from_a_list():
    chosen = pairs("indoor/depth, outdoor/semseg")
    assert [p.name for p in chosen] == ["indoor/depth", "outdoor/semseg"]
    assert chosen[0] == pair("indoor/depth") == Pair(DOMAINS["indoor"], TASKS["depth"])
    assert len({pair(name) for name in EVERY + EVERY}) == len(set(EVERY)) == 18
    assert pickle.loads(pickle.dumps(chosen)) == chosen


@pytest.mark.parametrize(
    "tasks, message",
    [
        (
            "scenes",
            r"tasks='scenes': choose a set \(outdoor5, scenes9, pascal5, paper9, photos8\), a domain \(outdoor, ",
        ),
        ("", "tasks='': choose a set"),
        ("outdoor/depth", "unknown .* pair 'outdoor/depth': choose from outdoor/semseg, outdoor/human_parts"),
        ("moon/semseg", "unknown .* pair 'moon/semseg'"),
        ("outdoor/semseg/x", "unknown .* pair 'outdoor/semseg/x'"),
        ("outdoor/semseg,", "unknown .* pair ''"),
        ("outdoor/sal,outdoor/sal", "names a pair twice: list each once and set clients_per_task"),
    ],
)
def test_wrong_task_lists(tasks, message):
    with pytest.raises(ValueError, match=message):
        pairs(tasks)


def test_every_domain_and_task_is_consistent():
    for task in TASKS.values():
        assert task.loss_weight > 0
        assert task.geometry in ("nearest", "distance", "direction")
        assert (task.target_dtype == torch.uint8) == (task.ignore == IGNORE)
        assert task.target_channels in (0, 3)
    for name, domain in DOMAINS.items():
        assert domain.name == name
        assert domain.reader in READERS
        assert domain.augmentation in RULES
        assert set(domain.channels) <= set(TASKS)
        assert all(0 < channels < IGNORE for channels in domain.channels.values())
    for stand_in, real in (("outdoor", "pascal"), ("indoor", "nyud")):
        assert list(DOMAINS[stand_in].channels) == list(DOMAINS[real].channels)
        assert DOMAINS[stand_in].indoor == DOMAINS[real].indoor
