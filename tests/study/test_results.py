import dataclasses

import pytest
from made_studies import FIXED, begin, finish_grid, finish_search, write_space

from study.results import DETECTION, LOCALISATION, NEW, read_results
from study.storage import Storage
from study.tuned_cells import best_draw

CELLS = {"full": {"hsas": "2d"}, "none": {"hsas": "none"}}


@pytest.fixture
def grid(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "Does HSAS help?", CELLS=CELLS, FIXED=FIXED, REFERENCE="none")
    return begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,1")


def read(tmp_path):
    return read_results(Storage(tmp_path / "runs"), "made")


def metrics(cell, category, seed):
    return {"image_auroc": 0.9, "pixel_ap": 0.5 + 0.1 * (cell == "full") + 0.01 * seed}


def test_a_grid_has_its_cells_with_a_score_for_each_finished_case(grid, tmp_path):
    finish_grid(grid, metrics)
    results = read(tmp_path)
    assert [cell.name for cell in results.cells] == ["full", "none"]
    assert results.reference == "none"
    assert results.cells[0].chosen.scores(LOCALISATION) == {
        ("wood", 0): 0.6,
        ("dial", 0): 0.6,
        ("wood", 1): 0.61,
        ("dial", 1): 0.61,
    }
    assert results.metrics == [DETECTION, LOCALISATION]


def test_of_a_study_that_nobody_began_all_fits_are_there_and_not_begun(grid, tmp_path):
    results = read(tmp_path)
    assert {case.state for case in results.cases.values()} == {NEW}
    assert len(results.cases) == 8
    assert results.cell_scores(LOCALISATION) == {}


def test_fits_with_other_weights_of_one_encoder_are_noted(grid, tmp_path):
    finish_grid(grid, metrics)
    ledger = grid[-1]
    full = read(tmp_path).cells[0].chosen.finished
    for fit, digest in zip(full, ["a", "a", "a", "b"], strict=True):
        ledger.write(dataclasses.replace(fit, inputs={**fit.inputs, "encoder": digest}))
    (note,) = read(tmp_path).notes
    assert "full: its fits had 2 frozen encoders" in note
    ledger.write(dataclasses.replace(full[-1], inputs={**full[-1].inputs, "encoder": "a"}))
    assert read(tmp_path).notes == ()


def test_failed_fits_and_those_not_begun_have_no_score(grid, tmp_path):
    def some(cell, category, seed):
        return "it blew up" if (cell, seed) == ("full", 0) else metrics(cell, category, seed)

    finish_grid(grid, some, only=lambda cell, category, seed: category == "wood")
    results = read(tmp_path)
    assert results.cells[0].chosen.scores(LOCALISATION) == {("wood", 1): 0.61}
    assert results.cells[1].chosen.scores(LOCALISATION) == {("wood", 0): 0.5, ("wood", 1): 0.51}
    assert results.cells[0].chosen.state == "failed"


def test_a_cell_with_nuisance_knobs_is_its_best_draw_on_the_select_split(tmp_path):
    path = tmp_path / "question.py"
    write_space(path, "Does HSAS help?", CELLS=CELLS, FIXED=FIXED)
    with path.open("a") as f:
        f.write('NUISANCE = {"sgd_learning_rate": FloatDistribution(0.01, 1.0, log=True)}\n')
    study = begin(tmp_path, path, "--categories", "wood", "--num-trials", "3")
    config, space, _, _, _ = study
    rates = [c.sgd_learning_rate for c in space.cell_configurations().values()]
    finish_grid(study, metrics)
    results = read(tmp_path)
    assert [len(cell.draws) for cell in results.cells] == [3, 3]
    # All draws have the same values, so the first one, at the default, stands for the cell.
    assert results.cells[0].chosen.config.sgd_learning_rate == rates[0]

    draws = results.cells[0].draws
    values = (0.1, None, 0.3)
    changed = [dataclasses.replace(d, value=v) for d, v in zip(draws, values, strict=True)]
    assert best_draw(changed, config.objective) is changed[2]


def test_a_search_has_its_configurations_by_their_varying_settings(tmp_path):
    path = tmp_path / "question.py"
    write_space(path, "Which?", FIXED=FIXED)
    with path.open("a") as f:
        f.write('SEARCH = {"hsas": CategoricalDistribution(("none", "1d", "2d"))}\n')
    study = begin(tmp_path, path, "--categories", "wood", "--seeds", "0,1")
    drawn = [{"hsas": "none"}, {"hsas": "2d"}, {"hsas": "1d"}]
    finish_search(study, drawn, lambda number, category, seed: 0.2 + 0.1 * number, stopped=(1,))
    results = read(tmp_path)
    assert [(c.name, c.state) for c in results.configurations] == [
        ("hsas none", "finished"),
        ("hsas 2d", "stopped"),
        ("hsas 1d", "finished"),
    ]
    assert results.configurations[2].value == pytest.approx(0.2)
    assert results.reference is None
