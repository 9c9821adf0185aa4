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

from .thinning import contains, converge, empty_words, insert, population

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
        """Harmonic mean of precision and recall: twice the matched over all predicted and true pixels.

        0 where nothing is matched, so also where nothing is predicted and nothing is true (as in SEISM).
        """
        total_T = self.predicted_T + self.true
        return 2 * self.matched_T / np.maximum(total_T, 1)

    def at(self, index: int) -> Counts:
        """The counts at one threshold."""
        return Counts(self.matched_T[index : index + 1], self.predicted_T[index : index + 1], self.true)


@njit(cache=True, nogil=True)
def _sort(level_HW, levels):  # type: ignore[no-untyped-def]
    """Coordinates of the pixels of level >= 1 by descending level, and end[k] = number of them of level >= k."""
    height, width = level_HW.shape
    end = np.zeros(levels + 2, np.int64)
    for level in level_HW.flat:
        end[level] += 1
    end[0] = 0
    for k in range(levels - 1, -1, -1):
        end[k] += end[k + 1]
    ys, xs = np.empty(end[1], np.int32), np.empty(end[1], np.int32)
    free = end[1:].copy()
    for y in range(height):
        for x in range(width):
            level = level_HW[y, x]
            if level > 0:
                ys[free[level]], xs[free[level]] = y, x
                free[level] += 1
    return ys, xs, end


@njit(cache=True, nogil=True)
def _augment(root, start, links, mate, other_mate, seen, phase, via, queue, touched):  # type: ignore[no-untyped-def]
    """Match one more vertex, by a shortest augmenting path from the free vertex `root`; False if there is none.

    links[start[u] : start[u + 1]] are the vertices of the other side near u; mate and other_mate are the matching seen
    from the two sides (-1: none). Vertices of the other side with seen >= phase are passed over: those that are absent,
    and those that a failed search of this phase saw, through which no later path can lead while the graph is the same.
    """
    queue[0] = root
    head, tail, count = 0, 1, 0
    while head < tail:
        own = queue[head]
        head += 1
        for other in links[start[own] : start[own + 1]]:
            if seen[other] >= phase:
                continue
            seen[other] = phase
            via[other] = own
            touched[count] = other
            count += 1
            if other_mate[other] >= 0:
                queue[tail] = other_mate[other]
                tail += 1
                continue
            end = other
            while end >= 0:  # the root has no mate yet: -1 ends the path
                own = via[end]
                other_mate[end], mate[own], end = own, end, mate[own]
            for visited in touched[:count]:
                seen[visited] = 0
            return True
    return False


@njit(cache=True, nogil=True)
def _graph(level_HW, truth_HW, levels, offsets_D2):  # type: ignore[no-untyped-def]
    """Which pixels of level >= 1 can be matched to which true pixels.

    Returns the coordinates of the pixels near any true pixel by descending level; end[k], the number of them of level
    >= k; and the links of each true pixel and of each of these pixels, nearest first, as `_augment` takes them.
    """
    height, width = level_HW.shape
    truth_y, truth_x = np.nonzero(truth_HW)
    near_HW = np.zeros(level_HW.shape, np.int32)
    truth_start = np.zeros(len(truth_y) + 1, np.int32)
    for truth in range(len(truth_y)):
        truth_start[truth + 1] = truth_start[truth]
        for d in range(len(offsets_D2)):
            y, x = truth_y[truth] + offsets_D2[d, 0], truth_x[truth] + offsets_D2[d, 1]
            if 0 <= y < height and 0 <= x < width and level_HW[y, x] > 0:
                near_HW[y, x] += 1
                truth_start[truth + 1] += 1
    ys, xs, end = _sort(np.where(near_HW > 0, level_HW, 0), levels)
    pixel_start = np.zeros(len(ys) + 1, np.int32)
    for pixel in range(len(ys)):
        pixel_start[pixel + 1] = pixel_start[pixel] + near_HW[ys[pixel], xs[pixel]]
        near_HW[ys[pixel], xs[pixel]] = pixel
    truth_links, pixel_links = np.empty(truth_start[-1], np.int32), np.empty(truth_start[-1], np.int32)
    truth_next, pixel_next = truth_start.copy(), pixel_start.copy()
    for d in range(len(offsets_D2)):
        for truth in range(len(truth_y)):
            y, x = truth_y[truth] + offsets_D2[d, 0], truth_x[truth] + offsets_D2[d, 1]
            if 0 <= y < height and 0 <= x < width and level_HW[y, x] > 0:
                pixel = near_HW[y, x]
                truth_links[truth_next[truth]] = pixel
                pixel_links[pixel_next[pixel]] = truth
                truth_next[truth] += 1
                pixel_next[pixel] += 1
    return ys, xs, end, truth_start, truth_links, pixel_start, pixel_links


@njit(cache=True, nogil=True)
def _evaluate(level_HW, truth_HW, levels, offsets_D2):  # type: ignore[no-untyped-def]
    """(matched, predicted) of the maps level >= 1, ..., levels."""
    height, width = level_HW.shape
    raw, lines, spare = empty_words(height, width), empty_words(height, width), empty_words(height, width)
    changed = np.empty(len(raw), np.int64)
    all_y, all_x, all_end = _sort(level_HW, levels)

    ys, xs, end, truth_start, truth_links, pixel_start, pixel_links = _graph(level_HW, truth_HW, levels, offsets_D2)
    n_truths, n_pixels = len(truth_start) - 1, len(ys)
    pixel_of, truth_of = np.full(n_truths, -1, np.int32), np.full(n_pixels, -1, np.int32)
    absent = levels + 1
    truth_seen, pixel_seen = np.zeros(n_truths, np.int32), np.full(n_pixels, absent, np.int32)
    via, queue, touched = np.empty((3, max(n_truths, n_pixels)), np.int32)
    free = np.empty(n_pixels, np.int32)

    result = np.zeros((2, levels), np.int64)
    matched, predicted = 0, 0
    for k in range(levels, 0, -1):
        if all_end[k] > all_end[k + 1]:
            for i in range(all_end[k + 1], all_end[k]):
                insert(raw, all_y[i], all_x[i])
            lines[:] = raw
            converge(lines, spare, changed)
            predicted = population(lines)

            n_free = 0
            for pixel in range(end[k]):
                if contains(lines, ys[pixel], xs[pixel]):
                    pixel_seen[pixel] = 0
                    if truth_of[pixel] < 0:
                        free[n_free] = pixel
                        n_free += 1
                else:
                    pixel_seen[pixel] = absent
                    if truth_of[pixel] >= 0:
                        pixel_of[truth_of[pixel]] = -1
                        truth_of[pixel] = -1
                        matched -= 1
            # Searching from the side with fewer free vertices reaches the same maximum.
            phase = absent - k
            if n_free < n_truths - matched:
                for pixel in free[:n_free]:
                    matched += _augment(
                        pixel, pixel_start, pixel_links, truth_of, pixel_of, truth_seen, phase, via, queue, touched
                    )
            else:
                for truth in range(n_truths):
                    if pixel_of[truth] < 0:
                        matched += _augment(
                            truth, truth_start, truth_links, pixel_of, truth_of, pixel_seen, phase, via, queue, touched
                        )
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
        raise ValueError(
            f"edge strengths must lie in [0, 1], not {strength.min():.4g} to {strength.max():.4g}: "
            "apply a sigmoid to logits, and look for the cause of NaN in training"
        )
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
