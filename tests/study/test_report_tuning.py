"""Reports of grids whose cells are tuned within themselves."""

import pytest
from made_studies import FIXED, begin, finish_tuned, write_space
from optuna.distributions import FloatDistribution

from study.report import FORMATS, make_report
from study.report_tables import Figure, Text
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


def answer(report):
    return [(b.text, b.warning) for b in report.sections[0].blocks if isinstance(b, Text)]


def notes(report):
    (found,) = (t for t in report.tables if t.title == "Cells beside the reference")
    return found.notes


def test_while_tuning_is_half_done_cells_are_compared_after_equally_many_draws(tuned, tmp_path):
    # By luck alone a later draw is better; of "sgd" only the first one is done.
    def half(cell, draw, category, seed):
        return metrics("sgd", draw, category, seed) if cell == "adamw" or draw == 1 else None

    finish_tuned(tuned, half)
    adamw, sgd = results_of(tmp_path).cells
    assert (adamw.chosen.name, sgd.chosen.name) == ("adamw", "sgd")
    report = report_of(tmp_path)
    said = answer(report)
    assert "no difference is shown for “adamw”" in said[1][0]
    (warning,) = (text for text, warning in said if warning and "tuning" in text)
    assert "“adamw” 3 of 3, “sgd” 1 of 3" in warning
    assert "only the first one of each count" in warning
    assert warning in notes(report)
    assert "equally often" not in " ".join(notes(report))


def with_failures(*failed, done=lambda cell, draw: True):
    """Metrics of the draws that are done; some of them fail in each case."""

    def of_draw(cell, draw, category, seed):
        if (cell, draw) in failed:
            return "the loss became inf"
        return metrics(cell, draw, category, seed) if done(cell, draw) else None

    return of_draw


def test_a_draw_that_failed_was_a_try_and_leaves_nothing_to_wait_for(tuned, tmp_path):
    finish_tuned(tuned, with_failures(("sgd", 2)))
    results = results_of(tmp_path)
    assert [[d.name for d in c.tried] for c in results.cells] == [
        ["adamw", "adamw #2", "adamw #3"],
        ["sgd", "sgd #3"],
    ]
    assert results.best.name == "adamw #3"
    report = report_of(tmp_path)
    assert not any("tuning" in text for text, _ in answer(report))
    (note,) = (note for note in notes(report) if "tuned" in note)
    assert "equally often: 3 configurations of each" in note
    assert note.endswith("Of these have failed, and were tries all the same: “sgd” 1.")


def test_while_tuning_is_half_done_a_failed_draw_is_one_of_the_first(tuned, tmp_path):
    finish_tuned(
        tuned, with_failures(("sgd", 1), done=lambda cell, draw: (cell, draw) != ("sgd", 3))
    )
    cells = results_of(tmp_path).cells
    # Two tries of each; of "sgd" one came to nothing.
    assert [[d.name for d in c.tried] for c in cells] == [["adamw", "adamw #2"], ["sgd #2"]]
    (warning,) = (
        text for text, warning in answer(report_of(tmp_path)) if warning and "tuning" in text
    )
    assert "“adamw” 3 of 3, “sgd” 2 of 3" in warning
    assert "only the first 2 of each count" in warning


def test_a_cell_whose_first_draw_failed_has_its_first_finished_one(tuned, tmp_path):
    finish_tuned(tuned, with_failures(("adamw", 1), done=lambda cell, draw: cell == "adamw"))
    adamw, sgd = results_of(tmp_path).cells
    assert [d.name for d in adamw.tried] == ["adamw #2"]
    assert (adamw.chosen.name, sgd.chosen.value) == ("adamw #2", None)


def test_finished_tuning_says_how_many_configurations_each_cell_had(tuned, tmp_path):
    finish_tuned(tuned, metrics)
    report = report_of(tmp_path)
    assert any("equally often: 3 configurations of each" in note for note in notes(report))
    assert not any("tuning" in text for text, _ in answer(report))


def test_a_cell_that_does_not_use_a_nuisance_knob_is_tuned_less_and_that_is_said(tmp_path):
    space = tmp_path / "question.py"
    nuisance = {"sgd_learning_rate": NUISANCE["sgd_learning_rate"]}
    write_space(space, "Which?", CELLS=CELLS, FIXED=FIXED, NUISANCE=nuisance)
    finish_tuned(begin(tmp_path, space, "--seeds", "0,1", "--num-trials", "3"), metrics)
    assert [cell.chosen.name for cell in results_of(tmp_path).cells] == ["adamw", "sgd #3"]
    (note,) = (note for note in notes(report_of(tmp_path)) if "tuned" in note)
    assert "the numbers of its configurations differ: “adamw” 1, “sgd” 3" in note
