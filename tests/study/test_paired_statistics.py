import numpy as np
import pytest
from scipy import stats

from study.paired_statistics import holm, seed_interval, shared_seed_p, sign_flip_p, spread

# Heights of maize, cross-fertilised minus self-fertilised, eighths of an inch (Darwin, The Effects
# of Cross and Self Fertilisation, 1876; Fisher, The Design of Experiments, 1935, sections 17-21).
DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)


def of_categories(*groups):
    return {
        (f"category {c}", s): float(x)
        for c, group in enumerate(groups)
        for s, x in enumerate(group)
    }


def test_the_sign_flip_test_gives_fishers_count_of_patterns_for_darwins_maize():
    assert sign_flip_p(of_categories(DARWIN)) == 1726 / 2**15


def test_the_sign_flip_test_weighs_categories_alike_and_not_cases():
    # Terms 3, 0.5 and 0.5: only equal signs lie as far from 0 as 4.
    assert sign_flip_p(of_categories([3], [1, 1])) == 2 / 8
    # Terms -2 and four times 0.25: no pattern is nearer to 0 than the observed -1. The sums of the
    # cases would be 2 in size or more in 24 of 32 patterns only.
    assert sign_flip_p(of_categories([-2], [1, 1, 1, 1])) == 1.0


@pytest.mark.parametrize("pairs", [1, 2, 5, 9])
def test_pairs_of_one_sign_reach_the_least_p(pairs):
    assert sign_flip_p(of_categories(np.arange(1, pairs + 1))) == 2 / 2**pairs


def test_many_pairs_draw_their_patterns_and_count_the_one_observed():
    rng = np.random.default_rng(0)
    assert sign_flip_p(of_categories(rng.uniform(1, 2, 40))) == 2 / 100_000
    scores = of_categories(rng.normal(size=40) + 0.2)
    z = np.sum(list(scores.values())) / np.linalg.norm(list(scores.values()))
    assert sign_flip_p(scores) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


def test_one_category_has_students_interval():
    low, high, _ = seed_interval(of_categories(DARWIN))
    # The textbook's: 20.93 -+ 2.145 * 37.74 / sqrt(15).
    assert (low, high) == (pytest.approx(0.03, abs=0.01), pytest.approx(41.83, abs=0.01))


def test_two_categories_have_welchs_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 4), rng.normal(0, 5, 3)
    low, high, probability = seed_interval(of_categories(a, -b))
    welch = stats.ttest_ind(a, b, equal_var=False)
    interval = welch.confidence_interval()
    assert (2 * low, 2 * high) == pytest.approx((interval.low, interval.high))
    assert 2 * min(probability, 1 - probability) == pytest.approx(welch.pvalue)


def test_a_category_with_one_seed_takes_the_others_variance():
    a, b = np.array([1.0, 3.0]), np.array([2.0, 8.0])  # variances 2 and 18, pooled 10
    low, high, _ = seed_interval(of_categories(a, b, [5.0]))
    variance = (2 / 2 + 18 / 2 + 10) / 9
    freedom = (2 * 1 + 18 * 1) ** 2 / ((2 * 1) ** 2 + (18 * 1) ** 2)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    assert (low + high) / 2 == pytest.approx(4)


def test_without_a_category_of_two_seeds_there_is_no_interval():
    scores = of_categories([1], [2], [3])
    assert seed_interval(scores) is None
    assert spread(scores) == type(spread(scores))(2.0, None, None)


@pytest.mark.parametrize(("value", "probability"), [(0.0, 0.5), (0.5, 1.0), (-0.5, 0.0)])
def test_equal_differences_have_an_interval_without_width(value, probability):
    assert seed_interval(of_categories([value] * 2, [value] * 2)) == (value, value, probability)


def test_intervals_and_p_values_follow_sign_and_scale():
    rng = np.random.default_rng(0)
    scores = of_categories(*rng.normal(0.5, 1, (3, 3)))
    other = {case: -8 * x for case, x in reversed(scores.items())}
    low, high, probability = seed_interval(scores)
    assert seed_interval(other) == pytest.approx((-8 * high, -8 * low, 1 - probability))
    assert sign_flip_p(other) == sign_flip_p(scores)


def test_the_spread_over_categories_has_the_seeds_taken_out():
    rng = np.random.default_rng(0)
    of_category = rng.normal(0, 3, (400, 1))
    found = spread(of_categories(*(of_category + rng.normal(0, 2, (400, 2)))))
    assert found.seeds == pytest.approx(2, rel=0.1)
    assert found.categories == pytest.approx(3, rel=0.1)
    assert spread(of_categories([0, 2], [0, 2])).categories == 0


def test_luck_that_categories_share_is_seen():
    rng = np.random.default_rng(0)
    own, shared = rng.normal(size=(15, 3)), 2 * rng.normal(size=3)
    assert shared_seed_p(of_categories(*(own + shared))) < 0.001
    # The table's p is uniform where there is none.
    p_values = [shared_seed_p(of_categories(*rng.normal(size=(4, 3)))) for _ in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert shared_seed_p(of_categories([1, 2])) is None
    assert shared_seed_p(of_categories([1], [2])) is None
    assert shared_seed_p(of_categories([1, 1], [2, 2])) == 1.0
    assert shared_seed_p(of_categories([1, 2], [1, 2])) == 0.0


def test_the_interval_holds_its_level_with_unequal_noise():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        deviations = np.exp(rng.normal(size=(3, 1)))
        low, high, _ = seed_interval(of_categories(*(0.3 + deviations * rng.normal(size=(3, 3)))))
        held += low <= 0.3 <= high
    # 95 % within three standard errors.
    assert held / 400 == pytest.approx(0.95, abs=0.033)


def test_holms_rule_step_by_step():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1; the last may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
