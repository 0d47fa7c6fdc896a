import itertools

import numpy as np
import pytest
from scipy import stats

from study.analysis import AnalysisError
from study.category_analysis import category_interval, compare_over_categories, signed_rank_p
from study.verdicts import BETTER, NO_DIFFERENCE, TOO_FEW

# Maize, cross-fertilised minus self-fertilised (Fisher, The Design of Experiments, 1935).
DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)


def cells_of(*means, seeds=2):
    """A reference of zeros, and a cell with these differences in the categories' means."""
    cases = itertools.product(range(len(means)), range(seeds))
    cell = {(f"category {c}", s): means[c] + (0.01 if s else -0.01) for c, s in cases}
    return {"default": dict.fromkeys(cell, 0.0), "cell": cell}


def test_wilcoxons_test_of_darwins_maize():
    # The negative differences have ranks 14 and 10 of 15; their sum of 24 or less has 1352 of 2**15
    # patterns on both sides.
    assert signed_rank_p(np.array(DARWIN, dtype=float)) == 1352 / 2**15


def test_ties_have_the_share_of_all_sign_patterns():
    # Ranks 2 (three times), 4, 6 (three times), and one of the first three is negative. No sum of
    # negative ranks is greater than 2 in four patterns of 2**7: none of them, or one 2. So is no
    # sum of positive ones.
    assert signed_rank_p(np.array([3.0, 1, -1, 2, 3, 3, 1])) == 8 / 2**7
    # Of as many as are drawn, as far as drawing goes.
    values = np.repeat([1.0, 2.0, 3.0, -1.0, -2.0], [6, 5, 4, 3, 2])
    drawn = signed_rank_p(values)
    assert drawn == signed_rank_p(values)
    assert drawn == pytest.approx(stats.wilcoxon(values, method="approx").pvalue, abs=0.01)


def test_means_that_differ_by_rounding_alone_are_ties_and_zeros():
    values = (0.3, 0.1 + 0.2, -0.3, 0.4, 0.4, 0.5, 0.0)
    cells = cells_of(*values, seeds=1)
    cells["cell"] = {c: v for c, v in zip(cells["cell"], values, strict=True)}
    cells["cell"]["category 6", 0] = 0.1 + 0.2 - 0.3
    (found,) = compare_over_categories(cells, "default", "m")
    assert (found.better_in, found.worse_in) == (5, 1)
    assert found.p_value == signed_rank_p(np.array([3.0, 3, -3, 4, 4, 5]))


def test_zeros_are_left_out_of_the_ranks():
    values = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert signed_rank_p(values) == signed_rank_p(values[2:]) == 2 / 2**6
    assert signed_rank_p(np.zeros(6)) == 1.0


def test_a_difference_in_every_category_is_shown():
    (found,) = compare_over_categories(
        cells_of(0.1, 0.2, 0.15, 0.12, 0.3, 0.25), "default", "report_pixel_ap"
    )
    assert (found.verdict, found.p_value, found.better_in, found.worse_in) == (BETTER, 2 / 64, 6, 0)
    assert 0 < found.low < found.difference < found.high
    assert found.probability_better > 0.99


def test_many_seeds_of_one_good_category_show_nothing_of_others():
    cells = cells_of(0.9, 0.01, -0.02, 0.03, -0.01, 0.02, seeds=20)
    (found,) = compare_over_categories(cells, "default", "report_pixel_ap")
    assert found.verdict == NO_DIFFERENCE
    assert found.low < 0 < found.high


def test_six_categories_are_too_few_for_two_comparisons():
    cells = cells_of(0.1, 0.2, 0.15, 0.12, 0.3, 0.25)
    found = compare_over_categories({**cells, "again": cells["cell"]}, "default", "m")
    assert [(c.verdict, c.needed_categories, c.adjusted_p) for c in found] == [
        (TOO_FEW, 7, 4 / 64),
        (TOO_FEW, 7, 4 / 64),
    ]


def test_categories_without_a_difference_do_not_count_as_cases():
    means = (0.1, 0.2, 0.15, 0.12, 0.3, 0.0, 0.0)
    cells = cells_of(*means, seeds=1)
    cells["cell"] = {(c, s): means[int(c.split()[1])] for c, s in cells["cell"]}
    cells["again"] = cells["default"]
    # Two comparisons, and five categories that differ: twice 2 / 2**5.
    found, again = compare_over_categories(cells, "default", "m")
    assert (found.categories, found.better_in, found.p_value) == (7, 5, 2 / 32)
    assert (found.verdict, found.smallest_p) == (TOO_FEW, 4 / 32)
    # Seven that differ, beside the two that do not.
    assert found.needed_categories == 9
    assert again.verdict == NO_DIFFERENCE


def test_fewer_than_six_categories_are_refused():
    with pytest.raises(
        AnalysisError, match=r"at least 6 categories that .* but got 5; .*--categories"
    ):
        compare_over_categories(cells_of(1, 2, 3, 4, 5), "default", "report_pixel_ap")


def test_the_reference_alone_makes_no_table():
    cells = cells_of(0.1, 0.2, 0.15, 0.12, 0.3, 0.25, 0.1, 0.2)
    cells["cell"] = dict(list(cells["cell"].items())[:10])
    with pytest.raises(AnalysisError, match="but got 5"):
        compare_over_categories(cells, "default", "m")


def test_a_cell_with_fewer_categories_than_the_others_is_left_out():
    cells = cells_of(0.1, 0.2, 0.15, 0.12, 0.3, 0.25, 0.1)
    cells["half done"] = dict(list(cells["cell"].items())[:8])
    assert [c.cell for c in compare_over_categories(cells, "default", "m")] == ["cell"]


def test_equal_categories_have_an_interval_without_width():
    assert category_interval(np.full(6, 0.25)) == (0.25, 0.25, 1.0)
    assert category_interval(np.zeros(6)) == (0.0, 0.0, 0.5)


def test_the_interval_is_students_for_many_normal_categories_and_follows_sign_and_scale():
    means = np.random.default_rng(0).normal(1, 2, 60)
    low, high, _ = category_interval(means)
    student = stats.t.interval(0.95, 59, means.mean(), means.std(ddof=1) / np.sqrt(60))
    assert (low, high) == pytest.approx(student, abs=0.1)
    assert category_interval(-4 * means)[:2] == pytest.approx((-4 * high, -4 * low))


def test_one_category_that_differs_has_no_shorter_interval_than_students():
    means = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.4])
    low, high, _ = category_interval(means)
    student = stats.t.interval(0.95, 5, means.mean(), means.std(ddof=1) / np.sqrt(6))
    assert low <= student[0]
    assert high >= student[1]


def test_the_interval_reaches_farther_where_the_differences_have_their_tail():
    low, high, _ = category_interval(np.array([0.0, 0.01, 0.02, 0.02, 0.03, 0.05, 0.1, 0.4]))
    mean = 0.63 / 8
    assert high - mean > 2 * (mean - low)


@pytest.mark.slow
@pytest.mark.parametrize("categories", [6, 15])
def test_the_interval_holds_its_level_and_no_effect_is_seldom_shown(categories):
    rng = np.random.default_rng(0)
    held, shown = 0, 0
    for seed in range(400):
        low, high, _ = category_interval(means := rng.normal(size=categories), seed)
        held += low <= 0 <= high
        shown += signed_rank_p(means) <= 0.05 and not low <= 0 <= high
    assert held / 400 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
    assert shown / 400 <= 0.05 + 3 * np.sqrt(0.95 * 0.05 / 400)
