import dataclasses
import itertools
import math

import numpy as np
import pytest

from study.analysis import AnalysisError, compare_cells
from study.verdicts import BETTER, NO_DIFFERENCE, TOO_FEW, WORSE, needed_pairs, smallest_p

CASES = list(itertools.product(("bottle", "cable", "screw"), (0, 1, 2)))


def scores_around(mean, deviation=0.01, seed=0, cases=CASES):
    rng = np.random.default_rng(seed)
    return dict(zip(cases, mean + deviation * rng.normal(size=len(cases)), strict=True))


def compared(cells):
    return {c.cell: c for c in compare_cells({"report_pixel_ap": cells}, "default")}


def test_cells_are_told_apart_by_their_cases():
    default = scores_around(0.6)
    cells = {
        "better": scores_around(0.7, seed=1),
        "default": default,
        "worse": scores_around(0.5, seed=2),
        "alike": scores_around(0.6, seed=3),
    }
    found = compared(cells)
    assert list(found) == ["better", "worse", "alike"]
    assert [c.verdict for c in found.values()] == [BETTER, WORSE, NO_DIFFERENCE]
    better, worse, alike = found.values()
    assert better.difference == pytest.approx(better.mean - better.reference_mean)
    assert better.low < 0.1 < better.high
    assert better.probability_better > 0.999
    assert worse.high < 0
    assert alike.low < 0 < alike.high
    # All nine pairs have one sign in two of three comparisons: 3 and 2 times 2 / 512.
    assert (better.p_value, better.adjusted_p) == (2 / 512, 3 * 2 / 512)
    assert (better.pairs, better.categories, better.smallest_p) == (9, 3, 6 / 512)


def test_the_mean_is_over_categories_however_many_seeds_they_have():
    default = dict.fromkeys([*CASES, ("screw", 3), ("screw", 4)], 0.5)
    cell = {case: 0.8 if case[0] == "screw" else 0.4 for case in default}
    found = compared({"default": default, "cell": cell})["cell"]
    assert found.mean == pytest.approx((0.4 + 0.4 + 0.8) / 3)
    assert found.difference == pytest.approx(0.1 / 3)
    assert (found.worst_category, found.worst_difference) == ("bottle", pytest.approx(-0.1))
    assert found.seed_spread == pytest.approx(0)
    assert found.category_spread == pytest.approx(0.4 / math.sqrt(3))


def test_cases_that_one_cell_lacks_are_left_out_and_counted():
    default = scores_around(0.6)
    cell = {case: value + 0.1 for case, value in default.items() if case != ("cable", 1)}
    cell["wood", 0] = 0.0
    found = compared({"default": default, "cell": cell, "nothing yet": {}})
    assert list(found) == ["cell"]
    assert (found["cell"].pairs, found["cell"].unpaired) == (8, 2)
    assert found["cell"].difference == pytest.approx(0.1)


def test_the_same_configuration_by_another_name_is_no_difference():
    default = scores_around(0.6)
    found = compared({"default": default, "again": dict(default)})["again"]
    assert (found.low, found.high, found.p_value, found.verdict) == (0, 0, 1, NO_DIFFERENCE)
    assert found.probability_better == 0.5


def test_too_few_cases_say_how_many_are_needed():
    cases = CASES[:5]
    cells = {"default": scores_around(0.5, cases=cases), "a": scores_around(0.9, cases=cases)}
    found = compared(cells)["a"]
    assert (found.verdict, found.needed_pairs, found.smallest_p) == (TOO_FEW, 6, 2 / 32)
    cells["b"], cells["c"] = cells["a"], cells["a"]
    assert compared(cells)["a"].needed_pairs == 7
    enough = {name: scores_around(0.5 + 0.2 * (name != "default")) for name in cells}
    assert [c.needed_pairs for c in compared(enough).values()] == [0, 0, 0]


def with_differences(*differences):
    """A reference and a cell that differ so in the first cases, and not in the others."""
    cases = dict.fromkeys(CASES, 0.5)
    shifts = itertools.zip_longest(CASES, differences, fillvalue=0.0)
    return {"default": cases, "cell": {case: 0.5 + shift for case, shift in shifts}}


def test_cases_without_a_difference_promise_no_verdict():
    found = compared(with_differences(0.1, 0.11, 0.12))["cell"]
    assert (found.pairs, found.differing, found.p_value) == (9, 3, 2 / 8)
    # Six that differ are needed, beside the six that do not.
    assert (found.smallest_p, found.needed_pairs, found.verdict) == (2 / 8, 12, TOO_FEW)
    found = compared(with_differences(0.1, 0.11, 0.12, -0.1, 0.05, 0.06))["cell"]
    assert (found.smallest_p, found.needed_pairs) == (2 / 64, 0)
    assert found.verdict == NO_DIFFERENCE


def test_what_is_left_of_rounding_is_no_difference():
    cells = {"default": dict.fromkeys(CASES, 0.3), "cell": dict.fromkeys(CASES, 0.1 + 0.2)}
    found = compared(cells)["cell"]
    assert (found.differing, found.difference, found.verdict) == (0, 0, NO_DIFFERENCE)


def test_a_row_is_corrected_beside_the_others_as_they_are():
    ten = list(itertools.product(("bottle", "cable"), range(5)))
    cells = {"default": scores_around(0.5, cases=ten), "many": scores_around(0.7, 0.01, 1, ten)}
    cells["few"] = scores_around(0.8, 0.01, 2, [case for case in ten if case[1] < 3])
    many, few = compared(cells).values()
    assert (many.verdict, many.smallest_p) == (BETTER, 4 / 1024)
    # The other one is shown first, so nothing is left to correct for.
    assert (few.adjusted_p, few.smallest_p, few.verdict) == (2 / 64, 2 / 64, BETTER)
    # Beside one that shows nothing, six pairs cannot do it.
    cells["many"] = {case: value + 0.3 * (case[1] % 2) - 0.1 for case, value in
                     cells["default"].items()}  # fmt: skip
    many, few = compared(cells).values()
    assert (many.verdict, few.verdict) == (NO_DIFFERENCE, TOO_FEW)
    assert (few.smallest_p, few.needed_pairs) == (4 / 64, 7)


def test_no_table_promises_less_than_it_shows():
    rng = np.random.default_rng(0)
    for _ in range(30):
        cells = {"default": dict.fromkeys(CASES, 0.0)}
        for name in "abcd":
            kept = int(rng.integers(1, 10))
            values = rng.normal(rng.uniform(0, 2), 1, kept) * (rng.random(kept) < 0.8)
            cells[name] = dict(zip(CASES, values.tolist(), strict=False))
        for c in compared(cells).values():
            assert c.smallest_p <= c.adjusted_p


def test_beside_too_many_comparisons_no_number_of_pairs_is_enough():
    assert needed_pairs([1.0] * 2499) == 17
    assert needed_pairs([1.0] * 2500) is None


def test_one_seed_has_no_interval_and_so_no_verdict():
    cases = [(f"category {c}", 0) for c in range(15)]
    cells = {"default": scores_around(0.5, cases=cases), "a": scores_around(0.9, 0.1, 1, cases)}
    found = compared(cells)["a"]
    assert (found.low, found.high, found.probability_better, found.seed_spread) == (None,) * 4
    assert found.p_value == 2 / 2**15
    assert (found.verdict, found.needed_pairs, found.lacks_seeds) == (TOO_FEW, 16, True)
    # More categories are no remedy, one second seed is.
    cells = {name: {**s, ("category 15", 0): s["category 0", 0]} for name, s in cells.items()}
    assert (compared(cells)["a"].verdict, compared(cells)["a"].lacks_seeds) == (TOO_FEW, True)
    for name, shift in (("default", 0.001), ("a", -0.001)):
        cells[name]["category 0", 1] = cells[name]["category 0", 0] + shift
    found = compared(cells)["a"]
    assert (found.verdict, found.needed_pairs, found.lacks_seeds) == (BETTER, 0, False)


@pytest.mark.parametrize(
    ("comparisons", "pairs"), [(1, 6), (2, 7), (4, 8), (5, 8), (12, 9), (100, 12)]
)
def test_the_needed_pairs_are_the_least_that_reach_the_level(comparisons, pairs):
    others = [1.0] * (comparisons - 1)
    assert needed_pairs(others) == pairs
    assert smallest_p(pairs, others) <= 0.05 < smallest_p(pairs - 1, others)


def test_a_table_of_two_metrics_is_corrected_as_one():
    cells = {"default": scores_around(0.5), "a": scores_around(0.9, seed=1)}
    both = compare_cells({"report_image_auroc": cells, "report_pixel_ap": cells}, "default")
    assert [c.adjusted_p for c in both] == [2 * 2 / 512] * 2
    assert [c.metric for c in both] == ["report_image_auroc", "report_pixel_ap"]


def test_neither_the_order_of_cells_nor_the_sign_of_the_difference_matters():
    cells = {"default": scores_around(0.5), "a": scores_around(0.51, seed=1), "b": {}}
    cells["b"] = {case: 1 - value for case, value in cells["a"].items()}
    mirrored = {case: 1 - value for case, value in cells["default"].items()}
    found = compared(cells)
    assert compared(dict(reversed(cells.items()))) == found
    a = compared({"default": cells["default"], "a": cells["a"]})["a"]
    b = compared({"default": mirrored, "b": cells["b"]})["b"]
    assert b.difference == pytest.approx(-a.difference)
    assert (b.low, b.high) == (pytest.approx(-a.high), pytest.approx(-a.low))
    assert b.p_value == a.p_value


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"a": {("bottle", 0): 0.5}}, "one of the cells 'a' but got 'default'"),
        (
            {"default": {("bottle", 0): 0.5}, "a": {("bottle", 3): math.nan}},
            "'a' has report_pixel_ap nan in category 'bottle', seed 3",
        ),
    ],
)
def test_results_that_cannot_be_compared_are_refused(cells, message):
    with pytest.raises(AnalysisError, match=message) as caught:
        compared(cells)
    assert "\n" not in str(caught.value)


def simulated(rng, effect, cells=4):
    """Cells that differ from the reference by nothing but noise, and the first by `effect`."""
    names = ["default", *(f"cell {i}" for i in range(cells))]
    values = {name: dict(zip(CASES, rng.normal(size=9), strict=True)) for name in names}
    values["cell 0"] = {case: value + effect for case, value in values["cell 0"].items()}
    return compare_cells({"report_pixel_ap": values}, "default")


@pytest.mark.slow
def test_a_table_without_differences_seldom_shows_one():
    rng = np.random.default_rng(0)
    shown = [any(c.verdict != NO_DIFFERENCE for c in simulated(rng, 0.0)) for _ in range(300)]
    # 5 % and three standard errors.
    assert np.mean(shown) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
def test_larger_differences_are_found_more_often():
    rng = np.random.default_rng(0)
    found = [
        np.mean([simulated(rng, effect)[0].verdict == BETTER for _ in range(60)])
        for effect in (0.0, 1.5, 3.0, 6.0)
    ]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert found[-1] > 0.9


def test_a_comparison_is_plain_data():
    cells = {"default": scores_around(0.5), "a": scores_around(0.9, seed=1)}
    for value in dataclasses.asdict(compared(cells)["a"]).values():
        assert type(value) in (str, int, float)
