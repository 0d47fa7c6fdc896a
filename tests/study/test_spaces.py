import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ffcad.config import TrainConfig, knobs
from study.search import OptunaSearch
from study.space_files import load_space
from study.spaces import SpaceError, checked


def space_of(search, fixed=None, name="mine"):
    return checked(name, "why?", search, fixed or {})


def draws(space, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(n)]
    return [(space.draw(trial), trial.params) for trial in trials]


def test_a_conditional_knob_is_drawn_only_where_it_is_used():
    space = space_of(
        {
            # On purpose before the knob that governs it.
            "hsas_probability": FloatDistribution(0.1, 0.3),
            "hsas": CategoricalDistribution(("none", "2d")),
        }
    )
    drawn = draws(space)
    assert {config.hsas for config, _ in drawn} == {"none", "2d"}
    for config, params in drawn:
        assert ("hsas_probability" in params) == (config.hsas != "none")
        if config.hsas == "none":
            assert config.hsas_probability == knobs()["hsas_probability"].default


def test_each_optimizer_has_its_own_range_of_rates():
    space = space_of(
        {
            "optimizer": CategoricalDistribution(("sgd", "adamw")),
            "sgd_learning_rate": FloatDistribution(0.1, 1.0, log=True),
            "adamw_learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        }
    )
    for config, params in draws(space):
        low, high = (0.1, 1.0) if config.optimizer == "sgd" else (1e-4, 1e-3)
        assert low <= config.learning_rate <= high
        assert len(params) == 2


def test_fixed_knobs_reach_the_configuration():
    space = space_of({"ffc_layers": IntDistribution(1, 3)}, {"image_size": 64})
    assert {config.image_size for config, _ in draws(space, 5)} == {64}


@pytest.mark.parametrize(
    ("search", "fixed", "message"),
    [
        (
            {"ffc_layer": CategoricalDistribution((1,))},
            {},
            "search space 'mine': unknown knob 'ffc_layer'; did you mean 'ffc_layers'?",
        ),
        ({}, {"imagesize": 64}, "unknown knob 'imagesize'; did you mean 'image_size'?"),
        ({"ffc_layers": IntDistribution(1, 4)}, {}, "ffc_layers must be one of 1, 2, 3 but got 4"),
        ({"momentum": FloatDistribution(0, 1)}, {}, "momentum must be less than 1 but got 1"),
        ({}, {"batch_size": 1}, "batch_size must be at least 2 but got 1"),
        (
            {"batch_size": IntDistribution(2, 8)},
            {"batch_size": 4},
            "'batch_size' is in SEARCH and in FIXED; keep one",
        ),
        ({"batch_size": 8}, {}, "must be an Optuna distribution but got 8 (int)"),
        (
            {"hsas_probability": FloatDistribution(0.1, 0.3)},
            {"hsas": "none"},
            "'hsas_probability' is searched but never used, because hsas is never '1d' or '2d'",
        ),
        ({"image_size": IntDistribution(64, 256)}, {}, "image_size must be a Categorical"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(search, fixed, message):
    with pytest.raises(SpaceError) as e:
        space_of(search, fixed)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_pinning_a_knob_takes_it_and_what_hung_on_it_out_of_the_search():
    space = load_space("smoke").pinned({"hsas": "none", "ffc_layers": 1})
    assert not {"hsas", "hsas_probability", "ffc_layers"} & set(space.search)
    assert space.fixed["ffc_layers"] == 1
    assert all(config.hsas == "none" for config, _ in draws(space, 5))


def test_corners_are_all_combinations_of_the_extremes():
    space = space_of(
        {"ffc_layers": IntDistribution(1, 3), "global_ratio": FloatDistribution(0, 0.5)}
    )
    corners = space.corners(["ffc_layers", "global_ratio", "batch_size"])
    assert {(c.ffc_layers, c.global_ratio) for c in corners} == {
        (1, 0.0), (1, 0.5), (3, 0.0), (3, 0.5),
    }  # fmt: skip


def test_a_range_whose_inside_is_no_configuration_is_refused():
    # Between 0 and 2 / 64 there is no global branch to speak of; its ends are fine.
    with pytest.raises(SpaceError, match=r"random draws are no configuration.*global_ratio"):
        checked("narrow", "?", {"global_ratio": FloatDistribution(0.0, 0.05)}, {})


def test_a_range_with_a_hole_is_searched_around_it():
    space = checked("hole", "?", {"global_ratio": FloatDistribution(0.0, 0.1)}, {})
    search = OptunaSearch(space, lambda config: (), [], lambda record: record)
    ratios = [search.suggest(str(i))["configuration"]["global_ratio"] for i in range(8)]
    assert all(ratio >= 2 / 64 for ratio in ratios)
    assert len(set(ratios)) == 8


def grid(cells, fixed=None):
    return checked("mine", "?", {}, fixed or {}, cells=cells)


def test_cells_that_are_one_configuration_come_once_with_all_their_names():
    space = grid(
        {
            "T14 default": {},
            "T14 0": {"global_ratio": 0},
            "T13 default": {"ffc_layers": 2},
            # Without a global branch there is no FFC to leave out of the encoder.
            "T12 none": {"global_ratio": 0.0, "ffc_encoder": False},
        },
        {"image_size": 64},
    )
    cells = space.cell_configurations()
    assert list(cells) == list(space.cells)
    assert {config.image_size for config in cells.values()} == {64}
    assert space.distinct_cells() == [
        (("T14 default", "T13 default"), cells["T14 default"]),
        (("T14 0", "T12 none"), cells["T14 0"]),
    ]


def test_a_grid_has_the_values_that_its_cells_give_or_leave_and_no_products_of_them():
    space = grid(
        {"paper": {}, "small": {"global_ratio": 0.25}, "slow": {"optimizer": "adamw"}},
        {"batch_size": 4},
    )
    assert space.values_of("global_ratio") == [0.5, 0.25]
    assert space.values_of("batch_size") == [4]
    assert space.values_of("image_size") == [knobs()["image_size"].default]
    assert space.never_active("adamw_learning_rate") is None
    corners = space.corners(["global_ratio", "optimizer"])
    assert [(c.global_ratio, c.optimizer) for c in corners] == [
        (0.5, "sgd"), (0.25, "sgd"), (0.5, "adamw"),
    ]  # fmt: skip


def test_optuna_takes_every_cell_of_a_grid():
    space = grid(
        {
            "off": {"hsas": "none", "gradient_clip": None},
            "on": {"hsas_probability": 1, "gradient_clip": 1},
        }
    )
    distributions = space.optuna_distributions()
    for config in space.cell_configurations().values():
        parameters = space.parameters(config)
        assert list(parameters) == ["hsas", "gradient_clip", "hsas_probability"]
        trial = optuna.trial.create_trial(params=parameters, distributions=distributions, value=0.5)
        assert TrainConfig.from_dict({**space.fixed, **trial.params}) == config


def test_a_search_has_the_parameters_that_it_draws():
    space = load_space("smoke")
    assert space.optuna_distributions() == space.search
    for config, params in draws(space):
        assert space.parameters(config) == params


def test_a_grid_is_pinned_where_its_cells_leave_it_free():
    space = load_space("smoke_grid").pinned({"ffc_layers": 1})
    assert list(space.cells) == list(load_space("smoke_grid").cells)
    assert {config.ffc_layers for _, config in space.distinct_cells()} == {1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hsas": "1d"},
            "search space 'mine': 'hsas' cannot be pinned, because cells set it: 'a', 'b'; change",
        ),
        ({"batch_size": 4}, "cells set it: '2', '3', '4', '5' and 2 more; change CELLS"),
        ({"batch_sise": 4}, "unknown knob 'batch_sise'; did you mean 'batch_size'?"),
    ],
)
def test_what_a_cell_sets_cannot_be_pinned(values, message):
    sizes = {str(size): {"batch_size": size} for size in range(2, 8)}
    space = grid({"a": {"hsas": "none"}, "b": {"hsas": "2d"}, **sizes})
    with pytest.raises(SpaceError) as e:
        space.pinned(values)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("cells", "fixed", "message"),
    [
        ({"a": {"ffc_layer": 1}}, {}, "cell 'a': unknown knob 'ffc_layer'; did you mean 'ffc_lay"),
        ({"a": {}, "b": {"ffc_layers": 7}}, {}, "cell 'b': ffc_layers must be one of 1, 2, 3 but"),
        ({"a": {}, "b": {"global_ratio": 0.01}}, {}, "cell 'b': global_ratio must be 0, or at"),
        ({"a": {"hsas": "2d"}}, {"hsas": "1d"}, "'hsas' is in cell 'a' and in FIXED; keep one"),
        ({"a": {}}, {"batch_size": 1}, "search space 'mine': batch_size must be at least 2"),
        ({"": {}}, {}, "with names that are not empty, but got '': {}"),
        ({1: {}}, {}, "CELLS must be name -> (knob -> value)"),
        ({"a": 3}, {}, "but got 'a': 3"),
        (
            {"a": {"hsas_probability": 0.1}, "b": {"hsas_probability": 0.2}},
            {"hsas": "none"},
            "'hsas_probability' is set by cells but never used, because hsas is never '1d' or",
        ),
        (
            {str(size): {"image_size": size} for size in range(32, 41)},
            {},
            "image_size must have at most 8 sizes",
        ),
    ],
)
def test_a_grid_whose_cells_are_no_configurations_is_refused(cells, fixed, message):
    with pytest.raises(SpaceError) as e:
        grid(cells, fixed)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_space_is_not_both_searched_and_enumerated():
    with pytest.raises(SpaceError, match="has SEARCH and CELLS; keep one"):
        checked("both", "?", {"ffc_layers": IntDistribution(1, 3)}, {}, cells={"a": {}})


RATES = {
    "sgd_learning_rate": FloatDistribution(1e-2, 1.0, log=True),
    "adamw_learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}
OPTIMIZERS = {"AdamW": {"optimizer": "adamw"}, "SGD": {"optimizer": "sgd"}}


def tuned(draws, nuisance=RATES, cells=OPTIMIZERS):
    return checked("mine", "why?", {}, {}, cells=cells, nuisance=nuisance, draws=draws)


def test_each_cell_is_tuned_with_as_many_configurations_the_first_at_the_defaults():
    space = tuned(4)
    found = space.cell_configurations()
    assert list(found) == [
        "AdamW", "AdamW #2", "AdamW #3", "AdamW #4", "SGD", "SGD #2", "SGD #3", "SGD #4",
    ]  # fmt: skip
    assert found["SGD"] == TrainConfig(optimizer="sgd")
    assert found["AdamW"] == TrainConfig(optimizer="adamw")
    # In base 2, Halton's sequence is 1/2, 1/4, 3/4; the range is on a logarithmic scale.
    assert [found[f"SGD #{i}"].sgd_learning_rate for i in (2, 3, 4)] == [0.1, 0.03162, 0.3162]
    default = knobs()["adamw_learning_rate"].default
    assert {c.adamw_learning_rate for name, c in found.items() if "SGD" in name} == {default}
    assert len(space.distinct_cells()) == 8


def test_more_draws_keep_those_that_there_were():
    few, many = tuned(3).cell_configurations(), tuned(9).cell_configurations()
    assert {name: many[name] for name in few} == few
    assert len(many) == 18


def test_a_configuration_tells_its_cells_whatever_was_tuned_in_it():
    space = tuned(3, cells={**OPTIMIZERS, "default": {}})
    for name, config in tuned(6, cells=space.cells).cell_configurations().items():
        cell = name.partition(" #")[0]
        assert cell in space.cell_of(config)
        assert space.cell_of(config) in (["AdamW"], ["SGD", "default"])
    assert space.cell_of(TrainConfig(optimizer="sgd", ffc_layers=1)) == []
    assert load_space("smoke").cell_of(TrainConfig()) == []


def test_a_cell_has_no_more_configurations_than_there_are():
    space = tuned(6, {"hsas_probability": CategoricalDistribution((0.1, 0.2))}, {
        "none": {"hsas": "none"}, "2d": {"hsas": "2d"},
    })  # fmt: skip
    assert list(space.cell_configurations()) == ["none", "2d", "2d #2"]


def test_optuna_takes_every_configuration_that_is_tuned():
    space = tuned(3)
    distributions = space.optuna_distributions()
    for config in space.cell_configurations().values():
        parameters = space.parameters(config)
        trial = optuna.trial.create_trial(params=parameters, distributions=distributions, value=0.5)
        assert TrainConfig.from_dict(trial.params) == config


def test_a_nuisance_knob_that_is_pinned_is_tuned_no_more():
    space = tuned(3).pinned({"sgd_learning_rate": 0.2})
    assert list(space.nuisance) == ["adamw_learning_rate"]
    assert list(space.cell_configurations()) == ["AdamW", "AdamW #2", "AdamW #3", "SGD"]
    assert (space.draws, space.reference) == (3, "AdamW")
    assert space.pinned({"adamw_learning_rate": 0.2}).draws == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reference": "SDG"}, "REFERENCE 'SDG' is no cell; did you mean 'SGD'?"),
        ({"nuisance": {"sgd_rate": RATES["sgd_learning_rate"]}}, "unknown knob 'sgd_rate'; did"),
        ({"nuisance": {"sgd_learning_rate": 0.1}}, "NUISANCE['sgd_learning_rate'] must be an Opt"),
        (
            {"nuisance": {"optimizer": CategoricalDistribution(("sgd",))}},
            "'optimizer' is in cell 'AdamW' and in NUISANCE; keep one",
        ),
        ({"fixed": {"sgd_learning_rate": 1.0}}, "'sgd_learning_rate' is in NUISANCE and in FIXED"),
        (
            {"nuisance": {"sgd_learning_rate": FloatDistribution(0, 1)}},
            "sgd_learning_rate must be more than 0 but got 0",
        ),
        (
            {"cells": {"AdamW": {"optimizer": "adamw"}}, "reference": None},
            "'sgd_learning_rate' is tuned but never used, because optimizer is never 'sgd'",
        ),
        ({"cells": {"SGD #1": {}}, "reference": None}, "'SGD #1' must not have ' #' in its name"),
        (
            {"cells": None, "reference": None},
            "NUISANCE is for CELLS; a search tunes every knob of SEARCH",
        ),
        ({"cells": None, "nuisance": None}, "REFERENCE is for CELLS; a search has none"),
    ],
)
def test_what_is_tuned_is_apart_from_what_is_compared_and_fixed(parts, message):
    parts = {
        "cells": OPTIMIZERS, "nuisance": RATES, "reference": "SGD", "fixed": {}, **parts,
    }  # fmt: skip
    with pytest.raises(SpaceError) as e:
        checked("mine", "why?", {}, parts.pop("fixed"), **parts)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
