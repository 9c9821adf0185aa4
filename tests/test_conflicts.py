"""PCGrad and CAGrad from inner products, against the papers' algorithms on whole vectors."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from matfl.core.conflicts import conflict_averse, projected


def vectors(n, size=40, seed=0, common=0.0):
    """(n, size) float64; `common` > 0 adds a direction that all share."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, size, generator=generator, dtype=torch.float64)
    return drawn + common * torch.randn(size, generator=generator, dtype=torch.float64)


def surgery(gradients, orders):
    """Algorithm 1 of the paper on whole vectors, one pair at a time."""
    result = []
    for i, g in enumerate(gradients):
        p = list(g)
        for j in orders[i]:
            if j != i:
                inner = sum(a * b for a, b in zip(p, gradients[j]))
                if inner < 0:
                    square = sum(b * b for b in gradients[j])
                    p = [a - inner / square * b for a, b in zip(p, gradients[j])]
        result.append(p)
    return result


@pytest.mark.parametrize("n", [1, 2, 5, 18])
def test_projections_are_those_of_whole_vectors(n):
    g = vectors(n, seed=n)
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(n, generator=generator).tolist() for _ in range(n)]
    found = projected(g @ g.T, generator=torch.Generator().manual_seed(3)) @ g
    expected = torch.tensor(surgery(g.tolist(), orders), dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_projection_leaves_what_does_not_conflict_and_is_repeatable():
    g = vectors(6, common=3.0)
    assert (g @ g.T > 0).all()
    assert torch.equal(projected(g @ g.T, generator=torch.Generator()), torch.eye(6, dtype=torch.float64))
    h = vectors(6, size=3)
    twice = [projected(h @ h.T, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*twice)
    assert not torch.equal(twice[0], projected(h @ h.T, generator=torch.Generator().manual_seed(6)))


def test_projection_of_a_zero_vector_changes_nothing():
    g = torch.cat([vectors(3, size=2), torch.zeros(1, 2, dtype=torch.float64)])
    coefficients = projected(g @ g.T, generator=torch.Generator().manual_seed(0))
    assert coefficients.isfinite().all()
    assert coefficients[:3, 3].eq(0).all()
    assert projected(torch.zeros(0, 0), generator=torch.Generator()).shape == (0, 0)


def least_gain(g, d):
    return float((g @ d).min())


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_conflict_averse_direction_solves_the_problem_on_whole_vectors(n, c):
    g = vectors(n, size=8, seed=10 * n)
    mean, radius = g.mean(0), c * float(g.mean(0).norm())
    found = conflict_averse(g @ g.T, c) @ g
    assert float((found - mean).norm()) == pytest.approx(radius)
    start = np.append(mean.numpy(), least_gain(g, mean) - 0.1)
    solved = minimize(
        lambda x: -x[-1],
        start,
        jac=lambda x: np.append(np.zeros(8), -1.0),
        constraints=[
            {"type": "ineq", "fun": lambda x: g.numpy() @ x[:-1] - x[-1]},
            {"type": "ineq", "fun": lambda x: radius**2 - ((x[:-1] - mean.numpy()) ** 2).sum()},
        ],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert least_gain(g, torch.from_numpy(solved.x[:-1])) == pytest.approx(solved.x[-1], abs=1e-8)  # feasible
    assert least_gain(g, found) == pytest.approx(solved.x[-1], abs=1e-5)
    torch.testing.assert_close(found, torch.from_numpy(solved.x[:-1]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("n", [1, 2, 18, 64])
def test_conflict_averse_gap_to_its_dual_is_rounding(n, scale):
    """The least gain of d and the dual value of its weights enclose the optimum: their difference proves it."""
    g = scale * vectors(n, seed=n) * torch.logspace(-1, 1, n, dtype=torch.float64)[:, None]
    mean = g.mean(0)
    for c in (0.2, 0.9):
        found = conflict_averse(g @ g.T, c)
        weights = (found - 1 / n) / (found - 1 / n).sum()
        assert (weights > -1e-12).all()
        dual = (weights @ g) @ mean + c * mean.norm() * (weights @ g).norm()
        assert abs(float(dual) - least_gain(g, found @ g)) < 1e-8 * float(mean @ mean)


def test_conflict_averse_closed_forms():
    equal = torch.full((3, 3), 4.0)
    torch.testing.assert_close(conflict_averse(equal, 0.5).sum(), torch.tensor(1.5, dtype=torch.float64))
    torch.testing.assert_close(conflict_averse(equal, 0.5, rescale=True).sum(), torch.tensor(1.2, dtype=torch.float64))
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert torch.equal(conflict_averse(vectors(3) @ vectors(3).T, 0.0), third)
    assert torch.equal(conflict_averse(torch.zeros(3, 3), 0.4), third)  # all updates zero
    assert conflict_averse(torch.zeros(0, 0), 0.4).shape == (0,)
    # On a line, -0.6 is the point of the ball round -1 that harms the vector 1 least.
    line = torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    assert (conflict_averse(line @ line.T, 0.4) @ line).item() == pytest.approx(-0.6)
    # Nothing improves a client whose update is zero: its weights are all on itself, and the mean stays.
    still = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(conflict_averse(still @ still.T, 0.4), third)


def test_conflict_averse_radius_must_be_a_number():
    for c in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="choose the radius"):
            conflict_averse(torch.eye(2), c)
