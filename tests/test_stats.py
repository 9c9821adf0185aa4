"""The statistics against scipy, closed forms and brute force."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as reference

from matfl.paper import stats
from matfl.paper.claims import Above, AtLeast, Below, Claim, Part, Within, together


def test_estimate_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 5))
    found = stats.estimate(first - second)
    test = reference.ttest_rel(first, second)
    bound = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((bound.low, bound.high, test.pvalue))
    assert found.n == 5


def test_one_value_says_nothing_about_spread() -> None:
    found = stats.estimate([1.5])
    assert found.mean == 1.5
    assert all(math.isnan(value) for value in (found.sd, found.low, found.high, found.p, found.g))
    with pytest.raises(ValueError, match="at least one number and no NaN"):
        stats.estimate([1.0, math.nan])
    with pytest.raises(ValueError, match="at least one number"):
        stats.estimate([])


def test_equal_differences_are_certain() -> None:
    assert stats.estimate([2.0, 2.0, 2.0]).p == 0
    assert stats.estimate([0.0, 0.0]).p == 1
    assert stats.cohens_d([1.0, 1.0]) == math.inf


def test_pairs_are_matched_by_seed() -> None:
    assert stats.paired({0: 1.0, 2: 5.0, 1: 2.0}, {1: 1.0, 0: 3.0, 7: 0.0}).tolist() == [-2, 1]
    with pytest.raises(ValueError, match=r"no seed in common: \[0\] and \[1\]"):
        stats.paired({0: 1.0}, {1: 1.0})


def test_bootstrap_is_exact_for_few_values_and_agrees_with_scipy() -> None:
    low, high = stats.bootstrap_interval([0.0, 1.0])  # means 0, 1/2, 1/2, 1 with a quarter each
    assert (low, high) == (pytest.approx(np.quantile([0, 0.5, 0.5, 1], [0.025, 0.975])))
    values = np.random.default_rng(1).normal(size=12)
    found = reference.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert stats.bootstrap_interval(values) == pytest.approx((found.low, found.high), abs=0.02)
    assert stats.bootstrap_interval(values) == stats.bootstrap_interval(values)
    assert math.isnan(stats.bootstrap_interval([1.0])[0])


def test_effect_size_without_its_bias() -> None:
    """The mean of g over many small samples is the true effect; that of d is not."""
    generator = np.random.default_rng(0)
    samples = generator.normal(0.8, 1.0, size=(8000, 5))
    assert np.mean([stats.hedges_g(row) for row in samples]) == pytest.approx(0.8, abs=0.02)
    assert np.mean([stats.cohens_d(row) for row in samples]) > 0.95
    f = 4
    assert stats.hedges_g(samples[0]) / stats.cohens_d(samples[0]) == pytest.approx(1 - 3 / (4 * f - 1), abs=0.01)
    assert math.isnan(stats.hedges_g([1.0, 2.0]))


def closed_testing(p: list[float]) -> list[float]:
    """Holm's adjusted p by its definition: the largest Bonferroni p of all intersections that hold a hypothesis."""
    n = len(p)
    subsets = [set(c) for size in range(1, n + 1) for c in combinations(range(n), size)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(n)]


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        p = list(generator.uniform(0, 0.2, size=5))
        assert stats.holm(p) == pytest.approx(closed_testing(p))
    assert stats.holm([0.01, math.nan, 0.03])[0] == pytest.approx(0.02)
    assert math.isnan(stats.holm([0.01, math.nan])[1])
    found = stats.holm_adjusted({"a": stats.estimate([1, 2, 3.5]), "b": stats.estimate([1, 1.1, 0.9])})
    assert found["b"].p_holm == pytest.approx(2 * found["b"].p)
    assert found["a"].p_holm == found["a"].p


def test_monotone_contrast() -> None:
    weights = stats.monotone_weights(5)
    assert weights.sum() == pytest.approx(0)
    assert weights[weights > 0].sum() == pytest.approx(1)
    assert (np.diff(weights) > 0).all()
    assert weights == pytest.approx(-weights[::-1])
    assert stats.trend([[0, 1, 2, 3], [1, 2, 3, 4]]).mean > 0
    assert stats.trend(np.ones((3, 4))).mean == pytest.approx(0)
    step = stats.trend([[0.0, 2.0], [1.0, 3.0]])
    assert step.mean == pytest.approx(2)
    with pytest.raises(ValueError, match="at least two"):
        stats.monotone_weights(1)
    with pytest.raises(ValueError, match=r"expected \(seeds, levels\)"):
        stats.trend([1.0, 2.0])


def test_a_trend_is_found_where_neighbours_do_not_differ() -> None:
    """The paired contrast sees what no single comparison of levels decides."""
    generator = np.random.default_rng(2)
    table = np.arange(6) * 0.3 + generator.normal(0, 0.45, size=(5, 6)) + generator.normal(0, 3, size=(5, 1))
    assert stats.trend(table).low > 0
    neighbours = [stats.estimate(table[:, j + 1] - table[:, j]) for j in range(5)]
    assert sum(found.low < 0 < found.high for found in neighbours) >= 4


def test_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=8)
    found = stats.jackknife(values.mean(), [np.delete(values, i).mean() for i in range(8)])
    direct = stats.estimate(values)
    assert (found.low, found.high, found.p) == pytest.approx((direct.low, direct.high, direct.p))
    assert math.isnan(stats.jackknife(1.0, [1.0]).low)


def test_chance_is_what_random_choices_give() -> None:
    generator = np.random.default_rng(0)
    hits = [0 in generator.choice(9, 3, replace=False) for _ in range(4000)]
    assert stats.chance_of_choice(4, 10) == pytest.approx(np.mean(hits), abs=0.03)
    assert stats.chance_of_choice(18, 18) == 1
    assert math.isnan(stats.chance_of_choice(1, 1))
    same = [generator.integers(17) == generator.integers(17) for _ in range(20000)]
    assert stats.chance_of_same_first(18) == pytest.approx(np.mean(same), abs=0.005)


def test_popularity_alone_is_no_agreement() -> None:
    """Everybody chooses client 3: those who are said to like it do so no more than the others."""
    frequency = np.zeros((6, 6))
    frequency[:, 3] = 0.7
    mask = np.zeros((6, 6), bool)
    mask[[0, 1], 3] = True
    assert stats.popularity_adjusted(frequency, mask) == pytest.approx(0)
    frequency[[0, 1], 3] = 0.9
    assert stats.popularity_adjusted(frequency, mask) == pytest.approx(0.2)
    frequency[3, 3] = 1.0  # a client always is its own friend
    assert stats.popularity_adjusted(frequency, mask) == pytest.approx(0.2)
    assert math.isnan(stats.popularity_adjusted(frequency, np.zeros((6, 6), bool)))


def test_mantel_correlation() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(9, 9))
    r, p = stats.mantel(first, 2 * first + 1, permutations=300)
    assert r == pytest.approx(1)
    assert p < 0.01
    off = ~np.eye(9, dtype=bool)
    second = generator.normal(size=(9, 9))
    r, p = stats.mantel(first, second, permutations=300)
    assert r == pytest.approx(reference.spearmanr(first[off], second[off]).statistic)
    assert p > 0.02
    with pytest.raises(ValueError, match="two equal squares"):
        stats.mantel(first, first[:3])


# --- claims -----------------------------------------------------------------------------------------------------------


def part(values: list[float], rule: object, **more: object) -> Part:
    return Part(statistic="the number", value=stats.estimate(values), rule=rule, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rule, held, not_held, undecided",
    [
        (Above(1), [2, 2.1, 2.2], [0, 0.1, 0.2], [0, 1, 2]),
        (Below(1), [0, 0.1, 0.2], [2, 2.1, 2.2], [0, 1, 2]),
        (AtLeast(0.9), [0.95, 0.96, 0.95], [0.2, 0.3, 0.25], [0.9, 0.7, 1.0]),
        (Within(1), [0.1, 0.2, 0.0], [2, 2.1, 2.2], [0.9, 1.1, 1.2]),
    ],
)
def test_rules_say_held_not_held_or_undecided(
    rule: Above, held: list[float], not_held: list[float], undecided: list[float]
) -> None:
    assert part(held, rule).held is True
    assert part(not_held, rule).held is False
    assert part(undecided, rule).held is None
    assert part([5.0], rule).held is None


def test_an_interval_that_excludes_0_can_lie_within_the_margin() -> None:
    assert part([0.3, 0.35, 0.4], Within(1)).held is True


def test_a_number_without_sampling_error_is_compared_as_it_is() -> None:
    assert AtLeast(15)(stats.exact(15.0)) is True
    assert AtLeast(15)(stats.exact(14.9)) is False
    assert Above(0)(stats.exact(0.0)) is None


def test_a_comparison_of_a_family_is_decided_by_its_adjusted_p() -> None:
    values = [1.0, 2.0, 1.2, 2.4]
    alone = stats.estimate(values)
    family = stats.holm_adjusted({"this": alone, **{str(i): alone for i in range(9)}})["this"]
    assert Above(0)(alone) is True
    assert family.p_holm > 0.05
    assert Above(0)(family) is None


def test_a_claim_prints_its_words_statistic_rule_and_verdict() -> None:
    claim = Claim(text="It works.", parts=(part([1, 1.1, 1.2], Above(0)),), note="More.", regime="on made-up numbers")
    assert str(claim) == (
        "[held] It works. (judged on made-up numbers) "
        "the number: 1.10 (95 % interval 0.85 to 1.35, n = 3) [above 0]. More."
    )
    assert claim.markdown().startswith("- **held** – It works. (judged on made-up numbers) *the number: 1.10")
    assert claim.row()["rule"] == "above 0"
    assert set(claim.row()) == {"claim", "verdict", "statistic", "rule", "evidence", "regime"}


def test_all_parts_must_hold() -> None:
    assert together([True, True]) is True
    assert together([True, None]) is None
    assert together([None, False]) is False
    assert together([]) is None
    two = Claim(text="Both.", parts=(part([1, 1.1], Above(0)), part([-1, -1.001], Above(0))))
    assert two.word == "not held"
