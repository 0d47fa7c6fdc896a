import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from study.analysis import AnalysisError
from study.search_analysis import knob_importance, near_bounds, rank_agreement

DISTRIBUTIONS = {
    "ffc_layers": CategoricalDistribution((1, 2, 3)),
    "global_ratio": FloatDistribution(0.0, 0.75, step=0.25),
    "head_channels": IntDistribution(32, 128),
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
    "sgd_learning_rate": FloatDistribution(1e-2, 1.0, log=True),
}


def trial(value, state=TrialState.COMPLETE, **params):
    distributions = {name: DISTRIBUTIONS[name] for name in params}
    return create_trial(params=params, distributions=distributions, value=value, state=state)


def searched(number):
    """Trials in which the number of layers matters, and where there is one, the learning rate."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(number):
        params = {
            "ffc_layers": int(rng.integers(1, 4)),
            "global_ratio": float(rng.integers(4) / 4),
            "optimizer": ("sgd", "adamw")[i % 2],
        }
        value = 0.1 * params["ffc_layers"] + 0.01 * rng.normal()
        if params["optimizer"] == "sgd":
            params["sgd_learning_rate"] = float(10 ** rng.uniform(-2, 0))
            value += 0.4 * abs(math.log10(params["sgd_learning_rate"]) + 1) - 0.2
        result.append(trial(value, **params))
    return result


def test_knobs_are_ranked_and_conditional_ones_among_the_trials_that_have_them():
    found = {k.knob: k for k in knob_importance(searched(60))}
    layers, rate = found["ffc_layers"], found["sgd_learning_rate"]
    assert (layers.rank, layers.among, layers.trials, layers.conditional) == (1, 3, 60, False)
    assert layers.importance > 3 * found["global_ratio"].importance
    assert (rate.rank, rate.trials, rate.conditional) == (1, 30, True)
    # Among the trials that have it, the optimizer is the same, so the rate comes beside two.
    assert rate.among == 3
    assert list(found)[-1] == "sgd_learning_rate"


def test_a_conditional_knob_that_few_trials_have_is_not_ranked():
    found = {k.knob: k for k in knob_importance(searched(30))}
    rate = found["sgd_learning_rate"]
    assert (rate.importance, rate.rank, rate.trials) == (None, None, 15)
    assert found["ffc_layers"].rank == 1


def test_trials_that_are_all_alike_make_no_knob_important():
    trials = [trial(0.5, ffc_layers=1 + i % 3, global_ratio=0.25 * (i % 4)) for i in range(20)]
    assert [k.importance for k in knob_importance(trials)] == [0.0, 0.0]


def test_few_finished_trials_are_said():
    trials = [*searched(19), trial(0.9, TrialState.PRUNED, ffc_layers=1)]
    with pytest.raises(AnalysisError, match="at least 20 finished trials but got 19"):
        knob_importance(trials)
    with pytest.raises(AnalysisError, match="at least 10 finished trials but got 9"):
        near_bounds(trials[:9])


def test_a_knob_with_one_value_alone_is_neither_ranked_nor_near_a_bound():
    single = {"global_ratio": FloatDistribution(0.5, 0.5), "head_channels": IntDistribution(8, 8)}
    trials = [
        create_trial(
            params={**t.params, "global_ratio": 0.5, "head_channels": 8},
            distributions={**t.distributions, **single},
            value=t.value,
        )
        for t in searched(20)
    ]
    assert not {k.knob for k in knob_importance(trials)} & set(single)
    assert not {n.knob for n in near_bounds(trials)} & set(single)


def best_with(**params):
    """Five best trials with these values, and five bad ones."""
    best = [trial(1.0, **{name: values[i] for name, values in params.items()}) for i in range(5)]
    return [*best, *(trial(0.0, optimizer="sgd") for _ in range(5))]


def test_best_trials_at_an_end_are_named_on_the_scale_that_is_searched():
    # Within a tenth of the decades from 0.01 to 1, which is below 0.016.
    (found,) = near_bounds(best_with(sgd_learning_rate=(0.011, 0.012, 0.0155, 0.1, 0.3)))
    assert (found.knob, found.bound, found.near, found.trials) == ("sgd_learning_rate", 0.01, 3, 5)
    assert (found.expected, found.is_limit) == (0.1, False)
    assert near_bounds(best_with(sgd_learning_rate=(0.011, 0.012, 0.017, 0.1, 0.3))) == []


def test_stepped_and_listed_numbers_have_ends_and_names_do_not():
    trials = best_with(
        global_ratio=(0.75, 0.75, 0.75, 0.75, 0.0),
        ffc_layers=(3, 3, 3, 3, 3),
        head_channels=(40, 60, 80, 100, 120),
        optimizer=("sgd",) * 5,
    )
    found = {n.knob: n for n in near_bounds(trials)}
    assert list(found) == ["global_ratio", "ffc_layers"]
    assert (found["global_ratio"].bound, found["global_ratio"].expected) == (0.75, 0.25)
    # A method with more than three layers does not exist; a larger ratio does.
    assert (found["ffc_layers"].is_limit, found["global_ratio"].is_limit) == (True, False)


def test_two_of_four_values_at_an_end_may_be_chance():
    assert near_bounds(best_with(global_ratio=(0.75, 0.75, 0.75, 0.25, 0.0))) == []


def test_kendalls_tau_by_hand():
    # One of ten pairs is turned: (9 - 1) / 10.
    select = dict(zip("abcde", (1, 2, 3, 4, 5), strict=True))
    report = dict(zip("abcde", (10, 20, 40, 30, 50), strict=True))
    found = rank_agreement({**select, "only here": 9}, report)
    assert (found.ranked, found.tau) == (5, pytest.approx(0.8))
    # Of the 120 orders of five, 1 + 4 have at most one inversion, and as many at most one less than
    # all.
    assert found.p_value == pytest.approx(10 / 120)
    assert (found.chosen, found.chosen_rank, found.lost) == ("e", 1, 0)


def test_a_choice_that_the_report_split_does_not_share_costs_something():
    select = dict(enumerate((0.1, 0.2, 0.3, 0.4, 0.9)))
    report = dict(enumerate((0.5, 0.8, 0.7, 0.3, 0.6)))
    found = rank_agreement(select, report)
    assert (found.chosen, found.chosen_rank) == (4, 3)
    assert found.lost == pytest.approx(0.2)


def test_a_split_that_ranks_nothing_has_no_tau():
    found = rank_agreement(dict.fromkeys(range(5), 1.0), dict(enumerate((1, 2, 3, 4, 5))))
    assert (found.tau, found.p_value, found.chosen_rank) == (None, None, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [((1, 2, 3, 4), "at least 5 configurations .* but got 4"), ((1, 2, 3, 4, math.nan), "finite")],
)
def test_rankings_that_say_nothing_are_refused(values, message):
    with pytest.raises(AnalysisError, match=message):
        rank_agreement(dict(enumerate(values)), dict(enumerate(values)))
