"""What every file in search_spaces/ keeps to, and what each says of itself."""

import dataclasses
import itertools
import re

import pytest

from ffcad.config import TrainConfig, knobs
from study.arguments import parse
from study.drawing import bounds
from study.encoder_needs import of_space
from study.inputs import Inputs
from study.space_files import available_spaces, find_space, load_space

EVERY_SPACE = pytest.mark.parametrize("name", available_spaces())
# Of Tables 12-16: knobs that differ from the default, row by row.
ROWS = {
    "components": [
        {"ffc_encoder": False, "ffc_autoencoder": False, "hsas": "none"},
        {"ffc_autoencoder": False, "hsas": "none"},
        {"hsas": "none"},
        {},
    ],
    "ffc_layers": [{"ffc_layers": 1}, {}, {"ffc_layers": 3}],
    "global_ratio": [{"global_ratio": 0.25}, {}, {"global_ratio": 0.75}],
    "hsas": [
        {"hsas_probability": 0.01}, {"hsas_probability": 0.04}, {}, {"hsas_probability": 0.2},
        {"hsas": "1d"},
    ],
    "optimizer": [{"optimizer": "adamw"}, {}],
}  # fmt: skip
ENCODERS = {
    "components": 2, "destseg": 2, "encoder": 3, "ffc_layers": 3, "global_ratio": 3, "hpo": 12,
    "hsas": 1, "main": 1, "optimizer": 1, "paper": 6, "smoke": 6, "smoke_grid": 2,
}  # fmt: skip


def card(name):
    """The lab card as one line."""
    text = find_space(name).read_text().split('"""')[1]
    return " ".join(text.split())


def stated(name, noun):
    """The number before a word in what the card says of the cost; None where it says none."""
    found = re.search(rf"Cost:.*?\b([\d,]+) {noun}\b", card(name))
    return found and int(found[1].replace(",", ""))


@EVERY_SPACE
def test_a_lab_card_has_the_question_the_table_and_the_cost(name):
    space = load_space(name)
    assert space.question.endswith("?")
    tables = re.search(r"Table: (none|[\d, -]+)[.;]", card(name))[1]
    parts = () if tables == "none" else tables.replace(" ", "").split(",")
    ranges = [part.partition("-") for part in parts]
    said = [range(int(low), int(high or low) + 1) for low, _, high in ranges]
    assert space.tables == tuple(map(str, itertools.chain(*said)))
    assert len(card(name)) < 1000


@EVERY_SPACE
def test_the_cost_on_a_lab_card_is_what_the_code_asks_for(name):
    space = load_space(name)
    if space.is_grid:
        assert stated(name, "cells?") == len(space.cells)
        space = dataclasses.replace(space, draws=stated(name, "draws") or 1)
        configurations = stated(name, "configurations") or len(space.cells)
        assert len(space.distinct_cells()) == configurations
    else:
        assert stated(name, "configurations") >= 1
    (iterations,) = {
        sum(most) for most in itertools.product(
            space.values_of("autoencoder_iterations"), space.values_of("head_iterations")
        )
    }  # fmt: skip
    assert stated(name, "iterations") == iterations


@EVERY_SPACE
def test_every_cell_and_every_bound_is_a_configuration(name):
    space = load_space(name)
    assert all(space.cell_of(config) for config in space.cell_configurations().values())
    for knob, distribution in (space.search | space.nuisance).items():
        assert knob in knobs()
        for value in bounds(distribution):
            TrainConfig.from_dict({**space.fixed, knob: value})


@EVERY_SPACE
def test_what_is_compared_tuned_and_fixed_is_disjoint(name):
    space = load_space(name)
    scientific = {knob for values in space.cells.values() for knob in values} | set(space.search)
    for a, b in itertools.combinations((scientific, set(space.nuisance), set(space.fixed)), 2):
        assert not a & b
    assert (space.reference in space.cells) == space.is_grid


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_a_table_differ_from_the_default_as_the_paper_says(name):
    space = load_space(name)
    expected = [TrainConfig.from_dict(row).digest() for row in ROWS[name]]
    assert [c.digest() for c in space.cell_configurations().values()] == expected
    assert space.cell_configurations()[space.reference].digest() == TrainConfig().digest()


def test_the_papers_seventeen_rows_are_thirteen_configurations():
    space = load_space("paper")
    assert len(space.cells) == sum(map(len, ROWS.values())) == 17
    assert len(space.distinct_cells()) == 13
    (shared,) = [names for names, _ in space.distinct_cells() if len(names) > 1]
    assert len(shared) == 5
    assert space.cell_of(TrainConfig()) == list(shared)


@EVERY_SPACE
def test_every_space_knows_the_encoders_that_are_made_for_it(name):
    space = load_space(name)
    if "encoder_weights" not in {knob for values in space.cells.values() for knob in values}:
        space = space.pinned({"encoder_weights": "distilled"})
    makings = {
        method: {"teacher": "t", "corpus": "c", "recipe": {"method": method}}
        for method in ("distilled", "warm_start")
    }
    inputs = Inputs(data={}, textures={}, weights={}, method_version=1, makings=makings)
    assert len(of_space(space, inputs)) == ENCODERS[name]


def test_a_space_of_ones_own_works_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        '"""Is mine better?"""\n'
        "from optuna.distributions import FloatDistribution\n"
        "from study.grids import leave_one_out\n"
        'CELLS = leave_one_out({"hsas": "2d"}, {"no HSAS": {"hsas": "none"}})\n'
        'NUISANCE = {"sgd_learning_rate": FloatDistribution(0.01, 1, log=True)}\n'
        'FIXED = {"image_size": 64}\n'
        'REFERENCE = "no HSAS"\n'
        'TABLES = ("12",)\n'
    )
    config, space, _ = parse(["--space", "mine.py"])
    assert (config.question, config.reference, config.tables) == (
        "Is mine better?",
        "no HSAS",
        ("12",),
    )
    assert config.draws == 6
    assert len(space.distinct_cells()) == 12
    assert config.search_space() == space
