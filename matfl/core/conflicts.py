"""Directions that spare every one of several gradients or updates: PCGrad and CAGrad, as functions of a Gram matrix.

Both answer with coefficients of the given vectors, so that N vectors of any length cost one (N, N) product and one
weighted sum. The server takes them over clients' updates, a client over its own tasks' gradients. A gradient and the
update that descends along it differ in sign alone, which neither rule sees.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq, nnls
from torch import Tensor

__all__ = ["conflict_averse", "projected"]

_VANISHED = 1e-10
"""A combination this much shorter than the vectors that it is of counts as zero: rounding is all that is left of it."""


def projected(gram_NN: Tensor, *, generator: torch.Generator) -> Tensor:
    """Coefficients (N, N), float64, whose row i makes g_i free of conflicts: PCGrad.

    p_i starts as g_i. For every other j, in an order of row i's own that `generator` draws: where <p_i, g_j> < 0, p_i
    loses its part along the original g_j,

        p_i <- p_i - <p_i, g_j> / <g_j, g_j> g_j.

    The method's direction is the mean of the rows. Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS
    2020, algorithm 1 (which adds the p_i up; the mean is its direction at the step of plain averaging).

    >>> opposed = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    >>> projected(opposed, generator=torch.Generator().manual_seed(0)).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    n = len(gram_NN)
    gram_NN = gram_NN.to("cpu", torch.float64)
    squares_N, rows_N = gram_NN.diagonal(), torch.arange(n)
    order_NN = torch.stack([torch.randperm(n, generator=generator) for _ in range(n)]) if n else gram_NN.long()
    coefficients_NN = torch.eye(n, dtype=torch.float64)
    for other_N in order_NN.T:  # every row's next partner at once
        inner_N = (coefficients_NN * gram_NN[other_N]).sum(1)
        conflict_N = (inner_N < 0) & (other_N != rows_N) & (squares_N[other_N] > 0)
        part_N = torch.where(conflict_N, inner_N / squares_N[other_N], 0)
        coefficients_NN[rows_N, other_N] -= part_N
    return coefficients_NN


def conflict_averse(gram_NN: Tensor, c: float = 0.4, *, rescale: bool = False) -> Tensor:
    """Coefficients (N,), float64, of CAGrad's direction d in the given vectors.

    d maximises the least improvement min_i <g_i, d> within a ball round the mean g_0, norm(d - g_0) <= c norm(g_0). By
    duality d = g_0 + c norm(g_0) / norm(g_w) g_w with g_w = sum_i w_i g_i and w on the simplex the minimiser of

        <g_w, g_0> + c norm(g_0) norm(g_w),

    a convex problem in N numbers. `rescale` divides d by 1 + c^2. Where g_w vanishes no direction in the ball improves
    on all, and d is g_0. Source: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021, algorithm 1.

    Raises ValueError when c is negative or not finite.
    """
    if not 0 <= c < float("inf"):
        raise ValueError(f"c={c}: choose the radius of the ball in units of the mean's length, 0 (the mean) or more")
    n = len(gram_NN)
    mean_N = torch.full((n,), 1 / max(n, 1), dtype=torch.float64)
    if n == 0 or c == 0:
        return mean_N
    values, vectors = torch.linalg.eigh(gram_NN.to("cpu", torch.float64))
    points_NN = (vectors * values.clamp(min=0).sqrt()).numpy()  # N vectors with these inner products
    longest, length = np.linalg.norm(points_NN, axis=1).max(), np.linalg.norm(points_NN.mean(0))
    if length <= _VANISHED * longest:
        return mean_N
    weights = _least(points_NN / length, c, longest / length)
    if weights is None:
        return mean_N
    ratio = c / float(np.linalg.norm(weights @ points_NN / length))
    return (mean_N + ratio * torch.from_numpy(weights)) / (1 + c**2 if rescale else 1)


def _least(points_NN: np.ndarray, c: float, longest: float) -> np.ndarray | None:
    """The w on the simplex that minimises <g_w, g_0> + c norm(g_w) for rows g_i whose mean has length 1.

    norm(g_w) is the least over t > 0 of (norm(g_w)^2 / t + t) / 2, so at a given t, w is the point of the convex hull
    of the c / t g_i + g_0 that lies nearest the origin; at the best t, norm(g_w) is t. None where that is 0.
    """
    n, mean = len(points_NN), points_NN.mean(0)

    def nearest(t: float) -> np.ndarray:
        # The x >= 0 that minimises norm(A x)^2 + (sum x - 1)^2 points at the hull's nearest point.
        found, _ = nnls(np.vstack([(c / t * points_NN + mean).T, np.ones(n)]), np.eye(n + 1)[n], maxiter=100 * n)
        return found / found.sum()

    def excess(t: float) -> float:
        return float(np.log(np.linalg.norm(nearest(t) @ points_NN) / t + 1e-300))

    low, high = _VANISHED * longest, longest * (1 + 1e-9)
    return None if excess(low) <= 0 else nearest(brentq(excess, low, high, xtol=1e-15, rtol=1e-14))
