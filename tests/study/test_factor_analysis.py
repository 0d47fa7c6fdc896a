import itertools

import numpy as np
import pytest

from study.analysis import AnalysisError
from study.factor_analysis import factor_effects
from study.grids import factorial
from study.verdicts import BETTER, NO_DIFFERENCE

CASES = list(itertools.product(("bottle", "cable", "screw"), (0, 1, 2)))
LEVELS = factorial(
    {"ffc_layers": (1, 2), "global_ratio": (0.25, 0.5), "hsas": ("none", "1d", "2d")}
)


def measured(levels, truth, deviation=0.001):
    rng = np.random.default_rng(0)
    return {
        name: {case: truth(of_cell) + deviation * rng.normal() for case in CASES}
        for name, of_cell in levels.items()
    }


def truth(of_cell):
    layers, ratio = of_cell["ffc_layers"] == 2, of_cell["global_ratio"] == 0.5
    return (
        0.3 + 0.1 * layers + 0.02 * ratio + 0.04 * layers * ratio + 0.1 * (of_cell["hsas"] == "2d")
    )


def test_a_full_grid_gives_back_the_effects_that_it_was_made_of():
    found = {e.name: e for e in factor_effects(measured(LEVELS, truth), LEVELS, "report_pixel_ap")}
    expected = {
        "ffc_layers 1 -> 2": 0.1 + 0.04 / 2,
        "global_ratio 0.25 -> 0.5": 0.02 + 0.04 / 2,
        "hsas none -> 1d": 0.0,
        "hsas none -> 2d": 0.1,
        "ffc_layers x global_ratio": 0.04,
    }
    assert list(found) == list(expected)
    for name, effect in expected.items():
        assert found[name].difference == pytest.approx(effect, abs=0.001)
        assert found[name].low < effect < found[name].high
        assert found[name].verdict == (BETTER if effect else NO_DIFFERENCE)
        assert found[name].mixed_with == ()


def test_a_single_interaction_is_the_difference_of_differences_in_every_case():
    levels = factorial({"a": (0, 1), "b": (0, 1)})
    cells = measured(levels, lambda of_cell: 0.5, deviation=0.1)
    one, a, b, both = (cells[name] for name in ("a 0, b 0", "a 1, b 0", "a 0, b 1", "a 1, b 1"))
    interaction = factor_effects(cells, levels, "report_pixel_ap")[-1]
    by_hand = [both[c] - b[c] - a[c] + one[c] for c in CASES]
    assert interaction.difference == pytest.approx(np.mean(by_hand))


def test_scores_that_are_all_alike_have_no_effect_left_by_rounding():
    cells = measured(LEVELS, lambda of_cell: 0.83, deviation=0.0)
    for effect in factor_effects(cells, LEVELS, "report_image_auroc"):
        assert (effect.difference, effect.p_value, effect.verdict) == (0.0, 1.0, NO_DIFFERENCE)


def test_a_fraction_names_what_it_cannot_tell_apart():
    levels = {
        f"{a} {b}": {"a": a, "b": b, "c": a * b} for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1))
    }
    effects = factor_effects(measured(levels, lambda of_cell: 0.5), levels, "report_pixel_ap")
    assert {e.name: e.mixed_with for e in effects} == {
        "a -1 -> 1": ("b x c",),
        "b -1 -> 1": ("a x c",),
        "c 1 -> -1": ("a x b",),
    }


def test_cases_that_lack_a_cell_are_left_out_and_counted():
    cells = measured(LEVELS, truth)
    del cells["ffc_layers 1, global_ratio 0.5, hsas 2d"]["screw", 0]
    for effect in factor_effects(cells, LEVELS, "report_pixel_ap"):
        assert (effect.pairs, effect.unpaired) == (8, 1)


def test_cells_that_are_no_grid_are_refused():
    levels = {"full": {"a": 1, "b": 1}, "no a": {"a": 0, "b": 1}, "no b": {"a": 1, "b": 0}}
    with pytest.raises(AnalysisError, match="'a' and 'b' do not vary independently"):
        factor_effects(measured(levels, lambda of_cell: 0.5), levels, "report_pixel_ap")


def test_a_grid_without_a_whole_case_is_refused():
    cells = measured(LEVELS, truth)
    cells["ffc_layers 1, global_ratio 0.25, hsas none"] = {("wood", 0): 0.5}
    with pytest.raises(AnalysisError, match="no case has a result of all 12 cells"):
        factor_effects(cells, LEVELS, "report_pixel_ap")
