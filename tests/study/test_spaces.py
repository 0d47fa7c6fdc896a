from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ffcad.config import TrainConfig, knobs
from study.search import OptunaSearch
from study.spaces import SpaceError, available_spaces, bounds, checked, load_space


def space_of(search, fixed=None, name="mine"):
    return checked(name, "why?", search, fixed or {})


def draws(space, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(n)]
    return [(space.draw(trial), trial.params) for trial in trials]


@pytest.mark.parametrize("name", available_spaces())
def test_every_space_of_the_project_draws_configurations_and_has_a_lab_card(name):
    space = load_space(name)
    text = (Path(__file__).parents[2] / "search_spaces" / f"{name}.py").read_text()
    assert space.question.endswith("?")
    assert "Table:" in text
    assert "Cost:" in text
    for config, _ in draws(space, 20):
        assert isinstance(config, TrainConfig)


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


def test_a_space_is_found_by_its_path(tmp_path):
    path = tmp_path / "wide.py"
    path.write_text(
        '"""Is wider better?"""\n'
        "from optuna.distributions import CategoricalDistribution\n"
        'SEARCH = {"head_channels": CategoricalDistribution((8, 16))}\n'
    )
    space = load_space(str(path))
    assert (space.name, space.question, space.fixed) == ("wide", "Is wider better?", {})
    assert space.values_of("head_channels") == [8, 16]
    assert space.values_of("batch_size") == [knobs()["batch_size"].default]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEARCH = [", "SyntaxError"),
        ("import nosuchthing", "ModuleNotFoundError"),
        ("FIXED = {}", "needs either a dict SEARCH"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(SpaceError) as e:
        load_space(str(path))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(SpaceError, match="did you mean 'smoke'"):
        load_space("smok")


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
    return checked("grid", "?", {}, fixed or {}, cells=cells)


CELLS = {
    "plain": {"global_ratio": 0.0},
    "default": {"global_ratio": 0.5},
    "the same": {"global_ratio": 0.5, "ffc_layers": TrainConfig().ffc_layers},
    "one layer": {"ffc_layers": 1},
}


def test_a_grids_cells_are_configurations_and_the_same_one_comes_once():
    space = grid(CELLS, {"image_size": 64})
    cells = space.distinct_cells()
    assert [names for names, _ in cells] == [("plain",), ("default", "the same"), ("one layer",)]
    assert [config.image_size for _, config in cells] == [64] * 3
    assert space.corners(["global_ratio"]) == [config for _, config in cells]
    assert set(space.values_of("global_ratio")) >= {0.0, 0.5}
    assert space.parameters(cells[0][1])["global_ratio"] == 0.0
    for _, config in cells:
        for knob, distribution in space.optuna_distributions().items():
            assert space.parameters(config)[knob] in distribution.choices


@pytest.mark.parametrize(
    ("cells", "fixed", "message"),
    [
        ({"a": {"ffc_layer": 1}}, {}, r"cell 'a': unknown knob 'ffc_layer'; did you mean"),
        ({"a": {"ffc_layers": 7}}, {}, r"cell 'a': ffc_layers must be one of 1, 2, 3 but got 7"),
        ({"a": {"ffc_layers": 1}}, {"ffc_layers": 2}, r"'ffc_layers' is in cell 'a' and in FIXED"),
        ({"a": 3}, {}, r"CELLS must be name -> \(knob -> value\) but got 'a': 3"),
        ({"": {}}, {}, r"CELLS must be name -> \(knob -> value\)"),
    ],
)
def test_a_cell_that_is_no_configuration_is_named(cells, fixed, message):
    with pytest.raises(SpaceError, match=message):
        grid(cells, fixed)


def test_what_a_cell_sets_cannot_be_pinned():
    space = grid(CELLS)
    with pytest.raises(SpaceError, match="'global_ratio' cannot be pinned, because cell 'plain'"):
        space.pinned({"global_ratio": 0.25})
    assert space.pinned({"image_size": 32}).distinct_cells()[0][1].image_size == 32


def test_cells_and_a_search_exclude_each_other(tmp_path):
    path = tmp_path / "both.py"
    path.write_text('SEARCH = {}\nCELLS = {"a": {}}\n')
    with pytest.raises(SpaceError, match="needs either a dict SEARCH"):
        load_space(str(path))
    path.write_text("CELLS = {}\n")
    with pytest.raises(SpaceError, match="CELLS is empty"):
        load_space(str(path))
