"""What is left of a study, from what its storage holds."""

import dataclasses

import pytest

from ffcad.config import TrainConfig
from study.arguments import parse
from study.config import StudyConfig, StudyError
from study.inputs import Inputs, cases_of
from study.ledger import FitRecord, Ledger
from study.plan import make_plan
from study.question import extended
from study.storage import Storage
from study.trials import StudyFolder, new_trial

GRID = """
CELLS = {"none": {"hsas": "none"}, "2d": {"hsas": "2d"}, "the same": {"hsas": "2d"}}
FIXED = {"image_size": 64}
"""
INPUTS = Inputs(
    data={"wood@64": "w", "dial@64": "d"},
    textures={},
    weights={"random": "random"},
    method_version=1,
)


@pytest.fixture
def study(tmp_path):
    """Makes a study from flags: config, space, folder, ledger."""

    def make(*flags):
        config, space, _ = parse(["--storage", str(tmp_path), "--study", "mine", *flags])
        storage = Storage(tmp_path)
        return config, space, StudyFolder(storage, "mine"), Ledger(storage)

    return make


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    return ["--space", str(path)]


def plan_of(made):
    config, space, folder, ledger = made
    return make_plan(config, space, INPUTS, folder, ledger)


def fit_of(trial, case, study="mine", status="finished"):
    return FitRecord(
        key=case.key, status=status, study=study, trial=trial.number, digest=trial.digest,
        configuration=trial.configuration, category=case.category, seed=case.seed,
        select_on="holdout", inputs={},
    )  # fmt: skip


def drawn(made, number, **knobs):
    """A trial that begins, with a configuration that the space of a search can draw."""
    config, space, *_ = made
    values = {"optimizer": "sgd", "sgd_learning_rate": 0.1, **knobs}
    configuration = TrainConfig.from_dict({**space.fixed, **values})
    cases = cases_of(config, INPUTS, configuration)
    return new_trial(number, space.parameters(configuration), configuration, cases)


def finish(made, trial, value=0.5):
    _, _, folder, ledger = made
    for case in trial.cases:
        ledger.write(fit_of(trial, case))
    done = dataclasses.replace(trial, state="finished", value=value, ended=1.0)
    folder.write_trial(done)
    return done


def test_a_grid_has_each_cell_on_each_case_once_case_by_case(study, grid):
    plan = plan_of(study(*grid, "--categories", "wood,dial", "--seeds", "0,1"))
    assert (plan.wanted, plan.left, plan.total) == (None, 8, 8)
    assert [t.number for t in plan.trials] == list(range(8))
    walked = [(t.cases[0].category, t.cases[0].seed, t.configuration["hsas"]) for t in plan.trials]
    assert walked == [
        (category, seed, hsas)
        for seed in (0, 1)
        for category in ("wood", "dial")
        for hsas in ("none", "2d")
    ]
    assert len({t.cases[0].key for t in plan.trials}) == 8


def test_what_is_done_is_not_planned_again(study, grid):
    made = study(*grid)
    finish(made, plan_of(made).trials[1])
    plan = plan_of(made)
    assert [t.state for t in plan.trials] == ["finished", "begun"]
    assert {t.number for t in plan.trials} == {1, 2}
    assert plan.left == 1


def test_a_finished_trial_without_its_fits_record_is_gone_on_with(study, grid):
    made = study(*grid)
    trial = finish(made, plan_of(made).trials[0])
    made[2].storage.delete(f"ledger/{trial.cases[0].key}/record.json")
    plan = plan_of(made)
    assert plan.trials[0].state == "begun"
    assert plan.trials[0].value is None
    assert plan.notes == ("a fit's record is missing; trial 0 is gone on with",)


def test_a_trial_that_cannot_be_read_is_rebuilt_from_the_ledger(study):
    made = study("--num-trials", "3", "--seeds", "0,1")
    folder = made[2]
    trial = drawn(made, 2, hsas="1d", hsas_probability=0.1, sgd_learning_rate=0.1)
    finish(made, trial)
    folder.storage.write("studies/mine/trials/0002.json", b"{")
    folder.storage.write("studies/mine/trials/0001.json", b"{")
    plan = plan_of(made)
    (rebuilt,) = plan.trials
    assert (rebuilt.number, rebuilt.state) == (2, "finished")
    assert rebuilt.drawn == trial.drawn
    assert "hsas_probability" in rebuilt.drawn
    assert "adamw_learning_rate" not in rebuilt.drawn
    assert rebuilt.cases == trial.cases
    assert any("left out" in note for note in plan.notes)
    assert any("rebuilt from the ledger" in note for note in plan.notes)
    assert (plan.begun, plan.new) == (0, 2)


def test_weights_that_moved_between_sittings_are_the_trials_too(study, tmp_path):
    here, there = tmp_path / "here.pth", tmp_path / "there.pth"
    here.write_bytes(b"weights")
    made = study("--num-trials", "2", "--encoder", str(here))
    old = dataclasses.replace(INPUTS, weights={str(here): "w1"})
    config, space, folder, ledger = made
    configuration = TrainConfig.from_dict({**space.fixed, "hsas": "none", "optimizer": "sgd"})
    cases = cases_of(config, old, configuration)
    folder.write_trial(new_trial(0, space.parameters(configuration), configuration, cases))
    here.rename(there)
    made = config, space, folder, ledger = study("--num-trials", "2", "--encoder", str(there))
    new = dataclasses.replace(INPUTS, weights={str(there): "w1"})
    (trial,) = make_plan(config, space, new, folder, ledger).trials
    assert trial.configuration["encoder_weights"] == str(there)
    assert trial.digest == TrainConfig.from_dict(trial.configuration).digest()
    # The same fits: their keys know the weights by content.
    assert trial.cases == cases == cases_of(config, new, TrainConfig.from_dict(trial.configuration))


def test_an_extended_search_keeps_what_the_new_space_can_draw(study):
    made = study("--num-trials", "2")
    config, space, *_ = made
    trials = []
    for number, (hsas, rate) in enumerate((("1d", 0.1), ("none", 0.1), ("none", 0.9))):
        knobs = {"hsas": hsas, "optimizer": "sgd", "sgd_learning_rate": rate}
        configuration = TrainConfig.from_dict({**space.fixed, **knobs})
        cases = cases_of(config, INPUTS, configuration)
        trial = new_trial(number, space.parameters(configuration), configuration, cases)
        trials.append(dataclasses.replace(trial, state="finished", value=0.5))
    wider, space, *_ = study("--seeds", "0,1", "--num-trials", "2")
    both = extended(trials, wider, space, INPUTS)
    # A rate of 0.9 is beyond the space's range.
    assert [t.state for t in both] == ["begun", "begun", "retired"]
    assert [len(t.cases) for t in both] == [2, 2, 1]
    assert both[0].cases[0] == trials[0].cases[0]
    assert both[0].budget == 2 * trials[0].budget
    # A knob that is pinned was drawn before: those points belong to another space.
    pinned, space, *_ = study("--set", "hsas=1d")
    assert [t.state for t in extended(trials, pinned, space, INPUTS)] == ["retired"] * 3


def test_an_extended_grid_keeps_the_cells_that_it_still_has(study, grid, tmp_path):
    made = study(*grid)
    trials = [finish(made, trial) for trial in plan_of(made).trials]
    (tmp_path / "grid.py").write_text(
        'CELLS = {"2d": {"hsas": "2d", "hsas_probability": 0.1}, "1d": {"hsas": "1d"}}\n'
        'FIXED = {"image_size": 64}\n'
    )
    made = config, space, folder, _ = study(*grid)
    for trial in extended(trials, config, space, INPUTS):
        folder.write_trial(trial)
    plan = plan_of(made)
    assert [t.state for t in plan.trials] == ["retired", "begun", "begun"]
    # Its parameters are those of the new cells, which Optuna knows.
    assert set(plan.trials[1].drawn) == {"hsas", "hsas_probability"}
    assert plan.trials[2].configuration["hsas"] == "1d"


def test_a_study_of_another_version_says_so(study):
    config, *_ = study()
    assert StudyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(StudyError, match=r"written by another version .* which knows later_flag"):
        StudyConfig.from_dict({**config.to_dict(), "later_flag": 1})
