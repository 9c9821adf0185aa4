"""What mixing does to a task's step, from the inner products of the clients' updates alone.

Client i's update is g_i, the mixing matrix A, so the model that client i starts from next moves by u_i = sum_j A_ij g_j
(times the server's step). With G_ij = <g_i, g_j> every norm and projection of a step is a bilinear form in G: nothing
here reads a weight. R rounds, N clients; `same_NN` marks different clients of one task, `present_RN` who trained.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fading", "Steps", "antiparallel", "fading", "fit_fading", "orthogonal", "partner_cosines", "steps"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Steps(NamedTuple):
    """Means over the clients that trained, one value a round (R,)."""

    norm: Array
    """Length of the step over that of the task's own: the mean update of its clients."""
    own: Array
    """Component of the step along the task's own, in units of it: 1 is the step of single-task FL."""
    others: Array
    """Component along what all other tasks would do (the mean of their updates), in units of the task's own length."""
    self_weight: Array
    partner_weight: Array
    other_weight: Array
    """Weight of a client's own update, of its partners' together, of all others' together."""


def steps(
    norm_RN: NDArray[np.floating],
    cosine_RNN: NDArray[np.floating],
    weights_RNN: NDArray[np.floating],
    same_NN: Mask,
    present_RN: Mask,
    *,
    server_lr: float = 1.0,
) -> Steps:
    """The round's steps from stored diagnostics: `norms`, `cosines` of whole updates, and mixing `weights`."""
    rounds = [
        _one_round(norm_RN[r], cosine_RNN[r], weights_RNN[r], same_NN, present_RN[r], server_lr)
        for r in range(len(norm_RN))
    ]
    return Steps(*np.array(rounds).T)


def _one_round(
    norm_N: NDArray[np.floating],
    cosine_NN: NDArray[np.floating],
    weights_NN: NDArray[np.floating],
    same_NN: Mask,
    present_N: Mask,
    server_lr: float,
) -> tuple[float, ...]:
    here = np.flatnonzero(present_N)
    if not len(here):
        return (np.nan,) * len(Steps._fields)
    norm_M = norm_N[here].astype(float)
    gram_MM = cosine_NN[np.ix_(here, here)].astype(float) * norm_M[:, None] * norm_M[None, :]
    weights_MM = weights_NN[np.ix_(here, here)].astype(float)
    same_MM = same_NN[np.ix_(here, here)]
    task_MM = (same_MM | np.eye(len(here), dtype=bool)).astype(float)
    # A task's model moves by the mean of its clients' mixed updates; `own` is what it would do by itself.
    own_MM = task_MM / task_MM.sum(1, keepdims=True)
    moved_MM = server_lr * own_MM @ weights_MM
    rest_MM = 1 - task_MM
    others_MM = rest_MM / np.maximum(rest_MM.sum(1, keepdims=True), 1)

    def product(a_MM: Array, b_MM: Array) -> Array:
        result: Array = np.einsum("mi,ij,mj->m", a_MM, gram_MM, b_MM)
        return result

    own_sq_M = product(own_MM, own_MM)
    own_length_M = np.sqrt(np.maximum(own_sq_M, np.finfo(float).tiny))
    other_length_M = np.sqrt(np.maximum(product(others_MM, others_MM), np.finfo(float).tiny))
    some_M = rest_MM.any(1)
    along_M = np.where(some_M, product(moved_MM, others_MM) / other_length_M / own_length_M, 0.0)
    return (
        float(np.mean(np.sqrt(np.maximum(product(moved_MM, moved_MM), 0)) / own_length_M)),
        float(np.mean(product(moved_MM, own_MM) / own_length_M**2)),
        float(np.mean(along_M)),
        float(np.diagonal(weights_MM).mean()),
        float((weights_MM * same_MM).sum(1).mean()),
        float((weights_MM * rest_MM).sum(1).mean()),
    )


def orthogonal(weights_NN: NDArray[np.floating], same_NN: Mask, *, server_lr: float = 1.0) -> tuple[float, float]:
    """(norm, own) of `Steps` if all updates were orthogonal and of one length: what the weights alone decide.

    Plain averaging of C tasks gives (server_lr / sqrt(C), server_lr / C), single-task FL (server_lr, server_lr).

    >>> import numpy as np
    >>> partners_NN = np.kron(np.eye(2), [[0, 1], [1, 0]]).astype(bool)
    >>> norm, own = orthogonal(np.full((4, 4), 0.25), partners_NN)
    >>> round(norm, 3), round(own, 3)
    (0.707, 0.5)
    """
    n = len(weights_NN)
    ones, everyone = np.ones((1, n)), np.ones((1, n), bool)
    found = steps(ones, np.eye(n)[None], np.asarray(weights_NN, float)[None], same_NN, everyone, server_lr=server_lr)
    return float(found.norm[0]), float(found.own[0])


def partner_cosines(cosine_RNN: NDArray[np.floating], same_NN: Mask, present_RN: Mask) -> tuple[Array, Array]:
    """(partners (R,), others (R,)): mean cosine of whole updates of two clients of one task, and of different tasks."""
    n = len(same_NN)
    both_RNN = present_RN[:, :, None] & present_RN[:, None, :] & np.triu(np.ones((n, n), bool), 1)

    def mean(mask_NN: Mask) -> Array:
        chosen = both_RNN & mask_NN
        counts = chosen.sum((1, 2))
        total = np.where(chosen, np.nan_to_num(cosine_RNN.astype(float)), 0).sum((1, 2))
        result: Array = np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        return result

    return mean(same_NN), mean(~same_NN)


def fading(rounds: int, common: float, decay: float, limit: float) -> Array:
    """(rounds,) cosine of two updates of which a common part c fades and the rest stays.

    With q = |c|^2 / |rest|^2, which starts at `common` and falls by decay^2 a round, the cosine is

        (q + limit) / (q + 1),

    where `limit` is the cosine of the rests alone.

    >>> fading(3, common=1.0, decay=0.5, limit=0.0).round(2).tolist()
    [0.5, 0.2, 0.06]
    """
    q = common * decay ** (2.0 * np.arange(rounds))
    result: Array = (q + limit) / (q + 1)
    return result


def antiparallel(rounds: int, ratio: float, decay: float, noise: float = 0.0) -> Array:
    """(rounds,) cosine of two partners' updates when both start every round from the mean of their models.

    Each update has a common part c, which takes the mean towards the mean of the two optima, a part of opposite sign,
    +d and -d, which pulls towards each client's own optimum, and noise n of its own (batches, augmentation). With all
    parts orthogonal the cosine is

        (|c|^2 - |d|^2) / (|c|^2 + |d|^2 + |n|^2),

    which is `fading` with a rest of d and n and the limit -|d|^2 / (|d|^2 + |n|^2). The common part shrinks as the mean
    arrives, by `decay` a round for a quadratic loss; the pull does not, since averaging undoes it every time. `ratio`
    is |c| / |d| in the first round and `noise` |n|^2 / |d|^2. Without noise the cosine ends at -1, whatever the two
    clients have in common (at -1 / (m - 1) on average for m clients); where noise is all, at 0.
    """
    return fading(rounds, ratio**2 / (1 + noise), decay, -1 / (1 + noise))


class Fading(NamedTuple):
    """`fading` fitted to measured cosines."""

    common: float
    decay: float
    limit: float
    """Below 0 where a pull apart outlasts the common part, above 0 where a part of the common one does not fade."""
    explained: float
    """R^2: the share of the cosines' variance over the rounds."""


def fit_fading(cosines_R: NDArray[np.floating]) -> Fading:
    """`fading` closest to the measured cosines, by least squares; NaN with fewer than four, or a NaN among them.

    Rounded to five decimals: beyond them the search ends elsewhere on another kind of processor.
    """
    from scipy.optimize import least_squares

    measured = np.asarray(cosines_R, dtype=float)
    if len(measured) < 4 or np.isnan(measured).any():
        return Fading(*[np.nan] * 4)

    def parameters(x: Array) -> tuple[float, float, float]:
        return float(np.exp(x[0])), float(1 / (1 + np.exp(-x[1]))), float(x[2])

    starts = [(c, d, e) for c in (-2.0, 0.0, 2.0) for d in (0.5, 2.0, 4.0) for e in (-0.5, 0.0)]
    bounds = [-8, -8, -1], [8, 8, 1]
    fits = (
        least_squares(lambda x: fading(len(measured), *parameters(x)) - measured, start, bounds=bounds)
        for start in starts
    )
    found = min(fits, key=lambda fit: fit.cost)
    total = float(((measured - measured.mean()) ** 2).sum())
    explained = 1 - 2 * float(found.cost) / total if total > 0 else np.nan
    return Fading(*(round(value, 5) for value in (*parameters(found.x), explained)))
