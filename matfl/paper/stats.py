"""Statistics of experiments that are repeated with several seeds, and claims that are judged by them.

Pure functions. A seed is one replicate: its own pictures, partition, heads and order of batches. Two methods are
compared within each seed, so what is analysed is always a handful of differences, one a seed.

    differences = paired({0: 1.2, 1: 0.8, 2: 1.9}, {0: 0.1, 1: 0.4, 2: 0.2})
    estimate(differences)                       mean, sd, 95 % t interval, p against 0, Hedges' g
    holm([0.01, 0.04, 0.03])                    p adjusted for the family of comparisons
    trend(values_SK)                            does a value grow with the level?
    popularity_adjusted(frequency_NN, mask_NN)  who chose whom, beyond how often everybody chose them
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "chance_of_choice",
    "chance_of_same_first",
    "cohens_d",
    "estimate",
    "exact",
    "hedges_g",
    "holm",
    "holm_adjusted",
    "jackknife",
    "mantel",
    "monotone_weights",
    "paired",
    "popularity_adjusted",
    "trend",
]

Array = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.95
"""Confidence of every interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean of n independent values with its uncertainty; NaN for whatever too few values cannot tell."""

    n: int
    """Independent values; 0 for a number that is known without sampling error (`exact`)."""
    mean: float
    sd: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p: float
    """Two-sided, against 0."""
    g: float
    """Hedges' g: the mean in standard deviations, corrected for few values."""
    p_holm: float = math.nan
    """`p` adjusted by `holm_adjusted` for the family that the estimate was judged in; NaN where it stands alone."""


def exact(value: float) -> Estimate:
    """A number that is measured whole: its interval is the number itself."""
    return Estimate(n=0, mean=value, sd=0.0, low=value, high=value, p=math.nan, g=math.nan)


def estimate(values: ArrayLike) -> Estimate:
    """Mean, standard deviation, Student's t interval and test against 0 of a few independent values.

    NaNs are an error: leave out a seed on purpose, never by accident. With one value everything but the mean is NaN.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    numbers = np.asarray(values, dtype=float).reshape(-1)
    n = len(numbers)
    if n == 0 or np.isnan(numbers).any():
        raise ValueError(f"values={numbers.tolist()}: an estimate needs at least one number and no NaN")
    mean = float(numbers.mean())
    if n < 2:
        nan = math.nan
        return Estimate(n=n, mean=mean, sd=nan, low=nan, high=nan, p=nan, g=nan)
    sd = float(numbers.std(ddof=1))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    if sd > 0:
        p = float(2 * stats.t.sf(abs(mean) * math.sqrt(n) / sd, n - 1))
    else:
        p = 0.0 if mean else 1.0
    return Estimate(n=n, mean=mean, sd=sd, low=mean - half, high=mean + half, p=p, g=hedges_g(numbers))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Array:
    """Differences first minus second of the seeds that both have, by ascending seed. ValueError where there is none."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(first)} and {sorted(second)}")
    return np.array([first[seed] - second[seed] for seed in seeds], dtype=float)


def bootstrap_interval(values: ArrayLike, *, resamples: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of the mean.

    All n^n resamples are taken where these are no more than `resamples` (up to five values), else that many random
    ones. Few values make it too narrow (with three its true coverage is about 75 %): it stands beside the t interval
    and shows how far that one rests on normality. NaN for one value.
    """
    numbers = np.asarray(values, dtype=float).reshape(-1)
    n = len(numbers)
    if n < 2:
        return math.nan, math.nan
    if n**n <= resamples:
        index = np.array(list(product(range(n), repeat=n)))
    else:
        index = np.random.default_rng(seed).integers(0, n, (resamples, n))
    low, high = np.quantile(numbers[index].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def cohens_d(differences: ArrayLike) -> float:
    """Mean over standard deviation of paired differences (Cohen's d_z); infinite where they are all equal."""
    numbers = np.asarray(differences, dtype=float)
    mean, sd = float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
    if sd == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / sd


def hedges_g(differences: ArrayLike) -> float:
    """`cohens_d` without its bias in few values (Hedges 1981): times Gamma(f/2) / (sqrt(f/2) Gamma((f-1)/2)), f = n-1.

    With f = 1 the factor is 0 over infinity and g is NaN.
    """
    f = len(np.asarray(differences)) - 1
    if f < 2:
        return math.nan
    factor = math.exp(special.gammaln(f / 2) - special.gammaln((f - 1) / 2)) / math.sqrt(f / 2)
    return factor * cohens_d(differences)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their family by Holm's step-down method (1979), in the given order.

    Any of them below 0.05 may be called significant, and the chance of one false call in the family stays below 0.05.
    NaNs stay NaN and do not count.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = [int(i) for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    adjusted = np.full(len(p), np.nan)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * float(p[i])))
        adjusted[i] = largest
    return [float(value) for value in adjusted]


def holm_adjusted(family: Mapping[Key, Estimate]) -> dict[Key, Estimate]:
    """The family's estimates with `p_holm` filled in."""
    adjusted = holm([found.p for found in family.values()])
    return {key: replace(found, p_holm=p) for (key, found), p in zip(family.items(), adjusted)}


def monotone_weights(levels: int) -> Array:
    """Contrast weights (levels,) with the best worst-case power against every rising order (Abelson and Tukey, 1963).

    They add up to 0, and their positive ones to 1: the contrast is a weighted mean of high levels minus one of low
    levels, in the unit of the values.

    >>> monotone_weights(2).tolist()
    [-1.0, 1.0]
    """
    if levels < 2:
        raise ValueError(f"levels={levels}: a trend needs at least two")
    j = np.arange(1, levels + 1)
    raw = np.sqrt((j - 1) * (1 - (j - 1) / levels)) - np.sqrt(j * (1 - j / levels))
    weights: Array = raw / raw[raw > 0].sum()
    return weights


def trend(values_SK: ArrayLike) -> Estimate:
    """Does a value rise over K ordered levels? The `monotone_weights` contrast of each of S seeds, as an `Estimate`.

    Positive is rising. Levels count by their order, not their distance.
    """
    table = np.asarray(values_SK, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"values of shape {table.shape}: expected (seeds, levels)")
    return estimate(table @ monotone_weights(table.shape[1]))


def jackknife(whole: float, without_each: ArrayLike) -> Estimate:
    """A statistic of all replicates with its delete-one jackknife interval (Tukey 1958).

    `without_each` holds the statistic of the data without replicate 1, 2, ... The interval is Student's with as many
    degrees of freedom less one.
    """
    left = np.asarray(without_each, dtype=float)
    n = len(left)
    if n < 2:
        nan = math.nan
        return Estimate(n=n, mean=whole, sd=nan, low=nan, high=nan, p=nan, g=nan)
    error = math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum()))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(whole) / error, n - 1)) if error > 0 else (0.0 if whole else 1.0)
    return Estimate(n=n, mean=whole, sd=error * math.sqrt(n), low=whole - half, high=whole + half, p=p, g=math.nan)


def chance_of_choice(k: int, clients: int) -> float:
    """Probability (K - 1) / (N - 1) that K - 1 other clients picked at random include a given one."""
    return min(1.0, (k - 1) / (clients - 1)) if clients > 1 else math.nan


def chance_of_same_first(clients: int) -> float:
    """Probability 1 / (N - 1) that two random rankings of a client's N - 1 others name the same first."""
    return 1 / (clients - 1) if clients > 1 else math.nan


def popularity_adjusted(
    frequency_NN: ArrayLike, chosen_NN: NDArray[np.bool_], *, aside_NN: NDArray[np.bool_] | None = None
) -> float:
    """How much more often the marked clients chose each other than everybody else chose the same clients.

    `frequency_NN` is the share of rounds in which row's client chose column's; `chosen_NN` marks the (chooser, chosen)
    pairs in question. For each marked column: the mean over its marked choosers minus the mean over all others that are
    not the client itself; averaged over columns. A client that everybody likes adds nothing. Pairs in `aside_NN` take
    part on neither side. NaN where nothing is marked or nobody is left to compare with.
    """
    frequency = np.asarray(frequency_NN, dtype=float)
    other = ~np.eye(len(frequency), dtype=bool)
    if aside_NN is not None:
        other &= ~aside_NN
    gaps = []
    for column in np.flatnonzero((chosen_NN & other).any(0)):
        marked = chosen_NN[:, column] & other[:, column]
        rest = ~chosen_NN[:, column] & other[:, column]
        if rest.any():
            gaps.append(frequency[marked, column].mean() - frequency[rest, column].mean())
    return float(np.mean(gaps)) if gaps else math.nan


def mantel(
    first_NN: ArrayLike, second_NN: ArrayLike, *, permutations: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Spearman correlation of two square tables' off-diagonal entries, and its one-sided permutation p (Mantel 1967).

    Entries of one row or column are not independent, so the objects are permuted, not the entries. Entries that are NaN
    in either table are left out.
    """
    first, second = np.asarray(first_NN, dtype=float), np.asarray(second_NN, dtype=float)
    if first.shape != second.shape or first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"tables of shapes {first.shape} and {second.shape}: expected two equal squares")
    n = len(first)
    off = ~np.eye(n, dtype=bool)

    def correlation(order: NDArray[np.int_]) -> float:
        moved = first[np.ix_(order, order)]
        known = off & np.isfinite(moved) & np.isfinite(second)
        a, b = stats.rankdata(moved[known]), stats.rankdata(second[known])
        if known.sum() < 3 or a.std() == 0 or b.std() == 0:
            return math.nan
        return float(np.corrcoef(a, b)[0, 1])

    observed = correlation(np.arange(n))
    if math.isnan(observed):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    drawn = np.array([correlation(generator.permutation(n)) for _ in range(permutations)])
    return observed, float((1 + (drawn >= observed - 1e-12).sum()) / (1 + permutations))
