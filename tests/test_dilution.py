"""Steps and cosines from inner products, against the vectors themselves and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from matfl.paper.dilution import antiparallel, fading, fit_fading, orthogonal, partner_cosines, steps


def clients(tasks: int, each: int) -> np.ndarray:
    label = np.repeat(np.arange(tasks), each)
    return (label[:, None] == label[None, :]) & ~np.eye(len(label), dtype=bool)


def products(updates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norm = np.linalg.norm(updates, axis=-1)
    return norm, updates @ updates.T / norm[:, None] / norm[None, :]


def test_steps_are_those_of_the_vectors() -> None:
    generator = np.random.default_rng(0)
    updates = generator.normal(size=(6, 40))
    weights = generator.uniform(size=(6, 6))
    weights /= weights.sum(1, keepdims=True)
    same = clients(3, 2)
    norm, cosine = products(updates)
    found = steps(norm[None], cosine[None], weights[None], same, np.ones((1, 6), bool), server_lr=1.5)
    lengths, own, others = [], [], []
    for i in range(6):
        task = np.flatnonzero(same[i] | (np.arange(6) == i))
        step = 1.5 * (weights[task] @ updates).mean(0)
        mine = updates[task].mean(0)
        rest = np.delete(updates, task, axis=0).mean(0)
        lengths.append(np.linalg.norm(step) / np.linalg.norm(mine))
        own.append(step @ mine / (mine @ mine))
        others.append(step @ rest / np.linalg.norm(rest) / np.linalg.norm(mine))
    assert found.norm == pytest.approx([np.mean(lengths)])
    assert found.own == pytest.approx([np.mean(own)])
    assert found.others == pytest.approx([np.mean(others)])
    assert found.self_weight + found.partner_weight + found.other_weight == pytest.approx([1.0])


@pytest.mark.parametrize("tasks, each", [(5, 2), (9, 2), (5, 4), (3, 1)])
def test_orthogonal_updates_are_diluted_by_the_number_of_tasks(tasks: int, each: int) -> None:
    same, n = clients(tasks, each), tasks * each
    assert orthogonal(np.full((n, n), 1 / n), same) == pytest.approx((tasks**-0.5, 1 / tasks))
    assert orthogonal(np.full((n, n), 1 / n), same, server_lr=tasks) == pytest.approx((tasks**0.5, 1))
    single = (same | np.eye(n, dtype=bool)) / each
    assert orthogonal(single, same) == pytest.approx((1, 1))


def test_rounds_without_everybody() -> None:
    updates = np.random.default_rng(0).normal(size=(4, 30))
    norm, cosine = products(updates)
    weights = np.full((4, 4), 0.25)
    weights[:, 3], weights[3] = 0, 0
    weights[:3, :3] = 1 / 3
    present = np.array([[True, True, True, False], [False] * 4])
    cosine = np.where(np.outer(present[0], present[0]), cosine, np.nan)
    found = steps(np.stack([norm] * 2), np.stack([cosine] * 2), np.stack([weights] * 2), clients(2, 2), present)
    assert np.isfinite(found.norm[0])
    assert np.isnan(found.norm[1])
    partners, others = partner_cosines(np.stack([cosine] * 2), clients(2, 2), present)
    assert partners[0] == pytest.approx(cosine[0, 1])
    assert others[0] == pytest.approx((cosine[0, 2] + cosine[1, 2]) / 2)
    assert np.isnan(partners[1])


def test_antiparallel_pull_of_two_quadratics() -> None:
    """Two clients with quadratic losses, averaged every round, follow the closed form to the digit."""
    first, second, theta = np.array([3.0, 1.0]), np.array([3.0, -1.0]), np.zeros(2)
    keep = 0.8  # share of the way to its optimum that a client leaves undone in a round
    cosines = []
    for _ in range(12):
        updates = [(1 - keep) * (optimum - theta) for optimum in (first, second)]
        cosines.append(updates[0] @ updates[1] / np.linalg.norm(updates[0]) / np.linalg.norm(updates[1]))
        theta = theta + (updates[0] + updates[1]) / 2
    assert cosines == pytest.approx(antiparallel(12, ratio=3.0, decay=keep))
    assert cosines[0] > 0.7
    assert antiparallel(200, 3.0, keep)[-1] == pytest.approx(-1)


def test_residuals_of_two_partners_are_opposite() -> None:
    updates = np.random.default_rng(0).normal(size=(2, 50))
    residual = updates - updates.mean(0)
    assert residual[0] == pytest.approx(-residual[1])


def test_noise_of_constant_length_draws_the_cosine_to_its_limit() -> None:
    """Orthogonal parts, drawn as vectors: common, opposite, and noise of each client's own."""
    common, opposite, noise = 3.0, 1.0, 2.0
    cosines = []
    for round in range(30):
        c, first, second = common * 0.8**round, [noise, 0], [0, noise]
        updates = [np.array([c, opposite, *first]), np.array([c, -opposite, *second])]
        cosines.append(updates[0] @ updates[1] / np.linalg.norm(updates[0]) / np.linalg.norm(updates[1]))
    assert cosines == pytest.approx(antiparallel(30, ratio=3.0, decay=0.8, noise=4.0))
    assert cosines[-1] == pytest.approx(-1 / 5, abs=1e-4)


def test_the_fit_finds_what_made_the_cosines() -> None:
    truth = antiparallel(40, 2.0, 0.9, noise=3.0)
    found = fit_fading(truth)
    assert found == pytest.approx((1.0, 0.9, -0.25, 1.0), rel=1e-3)
    noisy = truth + np.random.default_rng(0).normal(0, 0.02, 40)
    assert fit_fading(noisy).explained > 0.9
    assert np.isnan(fit_fading([0.1, 0.2]).explained)


def test_the_fit_tells_a_pull_from_noise_alone_and_from_a_common_part_that_stays() -> None:
    draws = np.random.default_rng(1).normal(0, 0.005, (3, 60))
    for limit, noise in zip((-0.05, 0.0, 0.05), draws):
        found = fit_fading(fading(60, 0.3, 0.93, limit) + noise)
        assert found.limit == pytest.approx(limit, abs=0.01)
