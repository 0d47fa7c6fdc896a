from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ffcad.config import TrainConfig, knobs
from study.search import OptunaSearch
from study.space_files import available_spaces, load_space
from study.spaces import SpaceError, bounds, checked


def space_of(search, fixed=None, name="mine"):
    return checked(name, "why?", search, fixed or {})


def draws(space, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(n)]
    return [(space.draw(trial), trial.params) for trial in trials]


@pytest.mark.parametrize("name", available_spaces())
def test_every_space_of_the_project_gives_configurations_and_has_a_lab_card(name):
    space = load_space(name)
    text = (Path(__file__).parents[2] / "search_spaces" / f"{name}.py").read_text()
    assert space.question.endswith("?")
    assert "Table:" in text
    assert "Cost:" in text
    if space.is_grid:
        assert len(space.distinct_cells()) > 1
    else:
        assert all(isinstance(config, TrainConfig) for config, _ in draws(space, 20))


@pytest.mark.parametrize("name", available_spaces())
def test_every_bound_of_every_space_is_a_configuration(name):
    space = load_space(name)
    for knob, distribution in space.search.items():
        for value in bounds(distribution):
            TrainConfig.from_dict({**space.fixed, knob: value})


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
