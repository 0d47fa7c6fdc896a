"""The plan beside what its fits took, against sums made by hand."""

import dataclasses

import pytest
from made_studies import FIXED, begin, finish_grid, finish_search, write_space
from optuna.distributions import FloatDistribution

from study.costs import Estimate, from_history
from study.ledger import FitRecord
from study.report_plan import plan_blocks, worked_seconds
from study.report_tables import Text
from study.results import read_results
from study.storage import Storage

NO_PLAN = "No plan was kept"
PLAN = Estimate(
    fits=6, finished=0, begun=0, left=6, configurations=6, seconds=300.0, wall_seconds=150.0,
    slots=2, gpus=0.0, source=from_history(6, "like these"),
)  # fmt: skip


def keep(documents, plan, when=0.0):
    kept = {**plan.to_dict(), "when": when}
    documents.write_document({**documents.read_document(), "plan": kept})


def blocks(tmp_path):
    return plan_blocks(read_results(Storage(tmp_path / "runs"), "made"))


def texts(tmp_path):
    return " ".join(b.text for b in blocks(tmp_path) if isinstance(b, Text))


def plan_table(tmp_path):
    """Rows of the table by name, its third column's title, and its notes."""
    (found,) = blocks(tmp_path)
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in found.rows}
    return rows, found.columns[2].title, found.notes


@pytest.fixture
def grid(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "Any?", CELLS={"all": {}, "no HSAS": {"hsas": "none"}}, FIXED=FIXED)
    return begin(tmp_path, space, "--seeds", "0,1,2", "--categories", "wood")


@pytest.fixture
def search(tmp_path):
    space = tmp_path / "question.py"
    drawn = {"hsas_probability": FloatDistribution(0.05, 0.9)}
    write_space(space, "Which?", SEARCH=drawn, FIXED=FIXED)
    return begin(tmp_path, space, "--categories", "wood", "--num-trials", "12")


def done(study, count, stopped=()):
    """The first trials of a search, each with one fit of 60 s."""
    drawn = [{"hsas_probability": 0.05 * (i + 1)} for i in range(count)]
    finish_search(study, drawn, lambda number, category, seed: 0.1, stopped=stopped)


def test_the_plan_is_compared_with_what_fits_took(grid, tmp_path):
    *_, documents, ledger = grid
    finish_grid(grid, lambda *of: {"image_auroc": 0.9, "pixel_ap": 0.5})
    assert NO_PLAN in texts(tmp_path)
    for number, key in enumerate(sorted(ledger.keys())):
        sitting = {"began": 100.0 * number, "iteration": 0, "study": "made", "gpus": 0.5}
        fit = dataclasses.replace(
            ledger.read(key), sittings=[sitting], ended=100.0 * number + 60, writing_seconds=10.0
        )
        fit.environment["gpu"] = "a GPU"
        ledger.write(fit)
    # One of the six was done before.
    plan = dataclasses.replace(
        PLAN, configurations=1, left=5, finished=1, gpus=0.5, spent_seconds=70.0,
        spent_gpu_seconds=35.0,
    )  # fmt: skip
    keep(documents, plan, when=90.0)
    rows, title, notes = plan_table(tmp_path)
    assert title == "Taken"
    assert rows == {
        "Fits": ["5", "5", "100"],
        "Work": ["5 min 0 s", "5 min 50 s", "117"],
        "Time from beginning to end": ["2 min 30 s", "5 min 0 s", "200"],
        "GPU-hours": ["0.04", "0.05", "117"],
    }
    assert "planned, from 6 finished fits in the ledger, like these." in notes[0]


def test_a_plan_is_held_against_the_fits_that_it_was_made_of(search, tmp_path):
    documents = search[3]
    done(search, 4)
    keep(documents, dataclasses.replace(PLAN, seconds=360.0))
    rows, title, _ = plan_table(tmp_path)
    assert title == "So far"
    assert rows["Fits"] == ["6", "4", "67"]
    # Enlarged to twelve trials since.
    done(search, 12)
    rows, title, notes = plan_table(tmp_path)
    assert title == "Taken"
    assert rows["Fits"] == ["6", "6", "100"]
    assert rows["Work"] == ["6 min 0 s", "6 min 0 s", "100"]
    assert notes[-1] == "6 fits were asked for later, and are in neither column."


def test_a_plan_of_a_search_that_had_begun_is_held_against_the_rest(search, tmp_path):
    done(search, 12)
    plan = dataclasses.replace(
        PLAN, fits=12, configurations=12, finished=6, spent_seconds=360.0, seconds=360.0
    )
    keep(search[3], plan)
    rows, _, notes = plan_table(tmp_path)
    assert rows["Fits"] == ["6", "6", "100"]
    assert rows["Work"][2] == "100"
    assert len(notes) == 1


def test_a_search_whose_trials_were_stopped_is_over(search, tmp_path):
    done(search, 6, stopped=(5,))
    keep(search[3], PLAN)
    rows, title, _ = plan_table(tmp_path)
    assert (title, rows["Fits"][:2]) == ("Taken", ["6", "5"])


def test_a_plan_of_an_older_version_is_none(search, tmp_path):
    done(search, 1)
    documents = search[3]
    documents.write_document({**documents.read_document(), "plan": {"fits": 6, "seconds": 1.0}})
    assert NO_PLAN in texts(tmp_path)


def test_the_time_of_a_study_is_that_of_its_sittings_together():
    def fit(*sittings, history=(), ended=None):
        return FitRecord(
            key="k", status="begun", study="made", trial=0, configuration={}, digest="d",
            category="wood", seed=0, select_on="holdout", inputs={}, ended=ended,
            sittings=[{"began": b, "iteration": 0, "study": s} for b, s in sittings],
            history=[{"iteration": i, "time": t} for i, t in enumerate(history)],
        )  # fmt: skip

    # One that was killed at 40 or later and gone on with at 100 has nothing in between.
    killed = fit((10.0, "made"), (100.0, "made"), history=(20.0, 40.0, 110.0), ended=120.0)
    assert worked_seconds([killed], "made", 0.0) == 50
    beside = fit((30.0, "made"), ended=60.0)
    assert worked_seconds([killed, beside], "made", 0.0) == 70
    assert worked_seconds([killed, beside], "made", 50.0) == 30
    another = fit((200.0, "other"), (300.0, "made"), history=(250.0,))
    assert worked_seconds([killed, beside, another], "made", 0.0) == 70
