"""Which encoders a study needs, from its question alone."""

import dataclasses

import pytest

from ffcad.config import TrainConfig
from ffcad.pretrain_config import PretrainConfig
from study.arguments import parse
from study.encoder_needs import encoders_to_make, needed_encoders, of_space, of_trials
from study.encoders import EncoderStore, new_record
from study.inputs import Inputs
from study.plan import Plan
from study.storage import Storage
from study.trials import new_trial

RECIPE = PretrainConfig(image_size=64)


def inputs(**changes):
    making = {"recipe": RECIPE.to_dict(), "teacher": "t", "corpus": "c", "version": 1}
    supervised = {**making, "recipe": {**RECIPE.to_dict(), "method": "supervised"}}
    return Inputs(
        data={"wood@64": "w"},
        textures={},
        weights={"distilled": "distilled", "supervised": "supervised", "random": "random"},
        method_version=1,
        makings={"distilled": {**making, **changes}, "supervised": {**supervised, "teacher": None}},
    )


@pytest.fixture
def space_of(tmp_path):
    """A space that is given as text."""

    def make(text, *flags):
        path = tmp_path / "space.py"
        path.write_text(
            f"from optuna.distributions import *\n{text}\nFIXED = {{'image_size': 64}}\n"
        )
        return parse(["--storage", str(tmp_path / "runs"), "--space", str(path), *flags])[1]

    return make


def architectures(needs):
    return sorted((n.architecture.ratio, n.architecture.layers) for n in needs.values())


GRID = """
CELLS = {
    "a": {"global_ratio": 0.25}, "b": {"global_ratio": 0.25, "hsas": "none"},
    "c": {"global_ratio": 0.5}, "d": {"global_ratio": 0.5, "ffc_encoder": False},
    "e": {"global_ratio": 0.5, "encoder_weights": "random"},
    "f": {"global_ratio": 0.5, "encoder_weights": "supervised"},
}
CELLS = {name: {"encoder_weights": "distilled", **cell} for name, cell in CELLS.items()}"""
MADE = ("--encoder", "distilled")
CHOICES = """SEARCH = {
    "ffc_layers": CategoricalDistribution((1, 2)),
    "global_ratio": FloatDistribution(0.0, 0.5, step=0.25),
    "hsas": CategoricalDistribution(("none", "2d")),
}"""
RANGE = "SEARCH = {'global_ratio': FloatDistribution(0.1, 0.5)}"


def test_cells_share_encoders_and_those_with_weights_of_their_own_need_none(space_of):
    space = space_of(GRID)
    needs = of_space(space, inputs())
    assert architectures(needs) == [(0.0, 2), (0.25, 2), (0.5, 2), (0.5, 2)]
    assert {n.recipe.method for n in needs.values()} == {"distilled", "supervised"}
    assert {n.teacher for n in needs.values()} == {"t", None}
    assert all(need.key == key for key, need in needs.items())


def test_a_grid_makes_first_what_its_undecided_trials_need(space_of):
    space = space_of(GRID)
    trials = [new_trial(i, {}, cell, ()) for i, (_, cell) in enumerate(space.distinct_cells())]
    done = [dataclasses.replace(t, state="finished", value=0.5) for t in trials[:2]]
    plan = Plan([*done, *trials[2:]], None)
    # Both trials with a ratio of 0.25 are done.
    assert architectures(needed_encoders(space, inputs(), plan)) == [(0.0, 2), (0.5, 2), (0.5, 2)]
    assert len(of_trials(plan.trials, inputs())) == 4
    retired = [dataclasses.replace(t, state="retired") for t in trials]
    assert of_trials(retired, inputs()) == {}


def test_a_search_makes_first_all_that_its_knobs_can_ask_for(space_of):
    space = space_of(CHOICES, *MADE)
    every = [(ratio, layers) for ratio in (0.0, 0.25, 0.5) for layers in (1, 2)]
    assert architectures(needed_encoders(space, inputs(), Plan([], wanted=6))) == every
    # More than there will be configurations: each is made when it is drawn.
    assert needed_encoders(space, inputs(), Plan([], wanted=5)) == {}
    assert needed_encoders(space, inputs(), Plan([], wanted=0)) == {}


def test_a_continuous_ratio_makes_first_only_what_begun_trials_need(space_of):
    space = space_of(RANGE, *MADE)
    assert of_space(space, inputs()) is None
    configuration = TrainConfig.from_dict({**space.fixed, "global_ratio": 0.3})
    trial = new_trial(0, {"global_ratio": 0.3}, configuration, ())
    needs = needed_encoders(space, inputs(), Plan([trial], wanted=9))
    assert architectures(needs) == [(76 / 256, 2)]


def test_nothing_is_needed_where_weights_are_there(space_of):
    space = space_of(CHOICES, "--encoder", "random")
    assert needed_encoders(space, inputs(), Plan([], wanted=6)) == {}
    nothing = dataclasses.replace(inputs(), makings={})
    assert of_space(space_of(GRID), nothing) == {}


def test_what_is_there_is_not_made_again_and_said(space_of, tmp_path):
    space = space_of(CHOICES, *MADE)
    needs, store = of_space(space, inputs()), EncoderStore(Storage(tmp_path))
    keys = list(needs)
    for key, status in zip(keys, ("finished", "finished", "begun", "failed"), strict=False):
        store.write(new_record(needs[key], status=status, study="s"))
    left, line = encoders_to_make(needs, store)
    assert list(left) == keys[2:]
    assert line == "6 encoders: 2 finished, 1 failed, 1 begun, 2 to make"
    assert encoders_to_make({}, store) == ({}, "")


def test_the_key_of_a_fit_follows_its_encoders(space_of):
    config = TrainConfig(image_size=64, encoder_weights="distilled")

    def key(given, **knobs):
        return given.fit_key(dataclasses.replace(config, **knobs), "wood", 0)

    mine = key(inputs())
    assert mine == key(inputs(recipe={**RECIPE.to_dict(), "loader_workers": 2}))
    others = [
        key(inputs(recipe={**RECIPE.to_dict(), "iterations": 5})),
        key(inputs(teacher="u")),
        key(inputs(corpus="d")),
        key(inputs(), encoder_weights="supervised"),
        key(inputs(), encoder_weights="random"),
    ]
    assert len({mine, *others}) == 6
    assert inputs().weights_of(config) == inputs().encoder_need(config).key
    assert inputs().encoder_need(dataclasses.replace(config, encoder_weights="random")) is None


def test_two_sittings_agree_on_what_counts_of_a_recipe():
    quicker = inputs(recipe={**RECIPE.to_dict(), "device": "cpu", "loader_workers": 2})
    assert quicker.contents() == inputs().contents()
    longer = inputs(recipe={**RECIPE.to_dict(), "iterations": 7})
    assert longer.contents() != inputs().contents()
    assert inputs(corpus="d").contents() != inputs().contents()
    # A study from before there were encoders to be made.
    assert Inputs(data={}, textures={}, weights={}, method_version=1).contents()["makings"] == {}
