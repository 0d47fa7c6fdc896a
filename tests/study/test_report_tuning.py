"""Reports of grids whose cells are tuned within themselves."""

import pytest
from made_studies import FIXED, begin, finish_tuned, write_space
from optuna.distributions import FloatDistribution

from study.report import FORMATS, make_report
from study.report_tables import Figure
from study.results import read_results
from study.storage import Storage

CELLS = {"adamw": {"optimizer": "adamw"}, "sgd": {"optimizer": "sgd"}}
NUISANCE = {
    "adamw_learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "sgd_learning_rate": FloatDistribution(0.01, 1, log=True),
}


@pytest.fixture
def tuned(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "Which?", CELLS=CELLS, FIXED=FIXED, NUISANCE=NUISANCE, REFERENCE="sgd")
    return begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,1,2,3",
                 "--num-trials", "3")  # fmt: skip


def metrics(cell, draw, category, seed):
    better = {"adamw": 0.1, "sgd": 0.0}[cell] + 0.02 * draw
    return {"image_auroc": 0.9, "pixel_ap": 0.5 + better + 0.001 * seed}


def results_of(tmp_path):
    return read_results(Storage(tmp_path / "runs"), "made")


def report_of(tmp_path):
    return make_report(results_of(tmp_path), Storage(tmp_path / "runs"))


@pytest.mark.slow  # Three renderings with pictures.
def test_a_cell_whose_best_draw_is_a_later_one_has_its_curves_by_its_own_name(tuned, tmp_path):
    finish_tuned(tuned, metrics)
    results = results_of(tmp_path)
    assert [cell.chosen.name for cell in results.cells] == ["adamw #3", "sgd #3"]
    report = make_report(results, Storage(tmp_path / "runs"))
    (curves,) = (s for s in report.sections if s.title == "Curves")
    learning, precision = curves.blocks
    assert isinstance(precision, Figure)
    lines = learning.draw.args[0][""]
    # The reference comes first.
    assert list(dict.fromkeys(line.name for line in lines)) == ["sgd", "adamw"]
    for _, render in FORMATS.values():
        assert "adamw" in render(report)
