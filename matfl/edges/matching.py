"""Predicted against true edge pixels, matched one to one within a tolerance, at every threshold.

A maximum-cardinality matching gives the counts of the BSDS benchmark (Martin, Fowlkes and Malik, PAMI 2004), whose
minimum-cost assignment penalises unmatched pixels enough to match as many as possible. All thresholds are done in one
pass from high to low: pixels appear, the map is thinned anew, matches of pixels that vanished are dropped, and one
breadth-first search per unmatched pixel augments what is left of the previous threshold's matching.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from .thinning import converge, insert, neighbours

__all__ = ["Counts", "evaluate_map"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Edge pixels of one map, or of many together (`+`), at T thresholds."""

    matched_T: NDArray[np.int64]
    """Pairs of a predicted and a true pixel: with one annotator, the benchmark's cntP and cntR alike."""
    predicted_T: NDArray[np.int64]
    """Predicted pixels after thinning (sumP)."""
    true: int
    """True pixels (sumR)."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.matched_T + other.matched_T, self.predicted_T + other.predicted_T, self.true + other.true)

    @property
    def precision_T(self) -> NDArray[np.float64]:
        """Share of the predicted pixels that is matched; 1 where nothing is predicted."""
        return np.where(self.predicted_T > 0, self.matched_T / np.maximum(self.predicted_T, 1), 1.0)

    @property
    def recall_T(self) -> NDArray[np.float64]:
        """Share of the true pixels that is matched; 1 where nothing is true."""
        return self.matched_T / self.true if self.true else np.ones(len(self.matched_T))

    @property
    def f_T(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total_T = self.precision_T + self.recall_T
        return 2 * self.precision_T * self.recall_T / np.where(total_T > 0, total_T, 1)


@njit(cache=True, nogil=True)
def _augment(root, start, links, owner, choice, seen, phase, via, queue, touched):  # type: ignore[no-untyped-def]
    """Match one more pixel, by a shortest augmenting path from `root`; False if there is none.

    links[start[p] : start[p + 1]] are the true pixels near pixel p; owner and choice are the matching seen from the
    true and from the predicted side (-1: none). Truths that a failed search saw stay marked for the rest of the phase:
    while the graph is the same, no later path can pass through them.
    """
    queue[0] = root
    head, tail, count = 0, 1, 0
    while head < tail:
        pixel = queue[head]
        head += 1
        for link in range(start[pixel], start[pixel + 1]):
            truth = links[link]
            if seen[truth] == phase:
                continue
            seen[truth] = phase
            via[truth] = pixel
            touched[count] = truth
            count += 1
            if owner[truth] >= 0:
                queue[tail] = owner[truth]
                tail += 1
                continue
            while truth >= 0:  # the root has no choice yet: -1 ends the path
                pixel = via[truth]
                owner[truth], choice[pixel], truth = pixel, truth, choice[pixel]
            for other in touched[:count]:
                seen[other] = -1
            return True
    return False


@njit(cache=True, nogil=True)
def _links(level_HW, truth_HW, offsets_D2):  # type: ignore[no-untyped-def]
    """For each pixel of the flat bordered map that is ever predicted, the true pixels near it, nearest first."""
    height, width = level_HW.shape
    row = width + 2
    ys, xs = np.nonzero(truth_HW)
    start = np.zeros((height + 2) * row + 1, np.int32)
    links = np.empty(0, np.int32)
    for fill in range(2):  # count, then fill
        for d in range(len(offsets_D2)):
            dy, dx = offsets_D2[d]
            for truth in range(len(ys)):
                y, x = ys[truth] + dy, xs[truth] + dx
                if 0 <= y < height and 0 <= x < width and level_HW[y, x] > 0:
                    pixel = (y + 1) * row + x + 1
                    if fill:
                        links[start[pixel]] = truth
                    start[pixel] += 1
        if not fill:
            total = 0
            for pixel in range(len(start)):
                total, start[pixel] = total + start[pixel], total
            links = np.empty(total, np.int32)
    start[1:] = start[:-1].copy()  # filling has moved each start to the end of its list
    start[0] = 0
    return len(ys), start, links


@njit(cache=True, nogil=True)
def _evaluate(level_HW, truth_HW, levels, offsets_D2):  # type: ignore[no-untyped-def]
    """(matched, predicted) of the maps level >= 1, ..., levels."""
    height, width = level_HW.shape
    row = width + 2
    size = (height + 2) * row
    around = neighbours(row)

    end = np.zeros(levels + 2, np.int64)  # pixels of level >= k are order[: end[k]]
    for level in level_HW.flat:
        end[level] += 1
    for k in range(levels - 1, -1, -1):
        end[k] += end[k + 1]
    order = np.empty(end[1], np.int32)
    free = end[1:].copy()
    for y in range(height):
        for x in range(width):
            level = level_HW[y, x]
            if level > 0:
                order[free[level]] = (y + 1) * row + x + 1
                free[level] += 1

    n_truths, start, links = _links(level_HW, truth_HW, offsets_D2)
    owner, choice = np.full(n_truths, -1, np.int32), np.full(size, -1, np.int32)
    seen, via = np.full(n_truths, -1, np.int32), np.empty(n_truths, np.int32)
    queue, touched = np.empty(n_truths + 1, np.int32), np.empty(n_truths, np.int32)
    on, code = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    thin_on, thin_code = np.empty_like(on), np.empty_like(code)
    doomed, recent = np.empty(len(order), np.int32), np.empty((2, 8 * len(order)), np.int32)

    result = np.zeros((2, levels), np.int64)
    matched, predicted = 0, 0
    for k in range(levels, 0, -1):
        if end[k] > end[k + 1]:
            for pixel in order[end[k + 1] : end[k]]:
                insert(on, code, around, pixel)
            thin_on[:] = on
            thin_code[:] = code
            converge(thin_on, thin_code, around, order[: end[k]], doomed, recent)
            for truth in range(n_truths):
                pixel = owner[truth]
                if pixel >= 0 and not thin_on[pixel]:
                    owner[truth], choice[pixel] = -1, -1
                    matched -= 1
            predicted = 0
            for pixel in order[: end[k]]:
                predicted += thin_on[pixel]
                if thin_on[pixel] and choice[pixel] < 0 and matched < n_truths:
                    matched += _augment(pixel, start, links, owner, choice, seen, k, via, queue, touched)
        result[0, k - 1], result[1, k - 1] = matched, predicted
    return result


@njit(cache=True, nogil=True)
def _levels(strength_HW, thresholds_T, strict):  # type: ignore[no-untyped-def]
    """How many thresholds each pixel passes."""
    level_HW = np.zeros(strength_HW.shape, np.int32)
    for index in np.ndindex(strength_HW.shape):
        value = strength_HW[index]
        low, high = 0, len(thresholds_T) if value >= thresholds_T[0] else 0
        while low < high:
            middle = (low + high) // 2
            if value > thresholds_T[middle] or (value == thresholds_T[middle] and not strict):
                low = middle + 1
            else:
                high = middle
        level_HW[index] = low
    return level_HW


def check_strength(strength_HW: ArrayLike) -> NDArray[np.float64]:
    """The map as contiguous float64; a ValueError if it is not a map or has values outside [0, 1]."""
    strength = np.ascontiguousarray(strength_HW, dtype=np.float64)
    if strength.ndim != 2 or strength.size == 0:
        raise ValueError(f"an edge map has shape (H, W) and at least one pixel, not {strength.shape}")
    if not (strength.min() >= 0 and strength.max() <= 1):  # also false for NaN
        raise ValueError(f"edge strengths must lie in [0, 1], not {strength.min():.4g} to {strength.max():.4g}: "
                         "apply a sigmoid to logits, and look for the cause of NaN in training")  # fmt: skip
    return strength


def evaluate_map(
    strength_HW: ArrayLike,
    truth_HW: ArrayLike,
    thresholds: Sequence[float] | NDArray[np.float64],
    max_distance: float,
    *,
    strict: bool = False,
) -> Counts:
    """Counts of one map at each threshold: binarise, thin to convergence, match one to one.

    strength_HW: predicted edge strength in [0, 1], after non-maximum suppression if the protocol has one.
    truth_HW: true edge pixels; used as they are, not thinned.
    thresholds: increasing; a pixel is predicted where strength >= threshold, or > if `strict`.
    max_distance: greatest distance of a match, as a share of the image diagonal (.0075 is customary).

    A map of fewer than 134 pixels across the diagonal has a tolerance below one pixel at .0075: only coinciding
    pixels match. Raises ValueError for NaN or strengths outside [0, 1], different shapes, unordered thresholds.
    """
    strength = check_strength(strength_HW)
    truth = np.ascontiguousarray(truth_HW, dtype=np.bool_)
    if truth.shape != strength.shape:
        raise ValueError(f"strength {strength.shape} and truth {truth.shape} differ: resize the prediction first")
    thresholds_T = np.ascontiguousarray(thresholds, dtype=np.float64)
    if thresholds_T.ndim != 1 or thresholds_T.size == 0 or not (np.diff(thresholds_T) > 0).all():
        raise ValueError(f"thresholds={thresholds}: give at least one, in increasing order")
    if not 0 <= max_distance < 1:
        raise ValueError(f"max_distance={max_distance}: give a share of the image diagonal, in [0, 1)")
    reach = max_distance * math.hypot(*strength.shape)
    span = np.arange(-int(reach), int(reach) + 1)
    offsets_D2 = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    squares_D = (offsets_D2**2).sum(1)
    nearest = np.argsort(squares_D, kind="stable")
    offsets_D2 = offsets_D2[nearest[squares_D[nearest] <= reach**2]]
    matched_T, predicted_T = _evaluate(_levels(strength, thresholds_T, strict), truth, thresholds_T.size, offsets_D2)
    return Counts(matched_T, predicted_T, int(truth.sum()))
