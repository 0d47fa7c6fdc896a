"""What a study will cost, from fits that were done or measured."""

import dataclasses

import pytest

from ffcad.config import TrainConfig
from ffcad.cost import iteration_macs
from study.arguments import parse
from study.config import StudyError
from study.costs import estimate, estimate_from_history
from study.fit_costs import (
    Speed,
    Work,
    history,
    is_near,
    seconds_measured,
    seconds_of_like,
    seconds_scaled,
    work_of,
)
from study.inputs import Inputs, cases_of
from study.ledger import FitRecord, Ledger
from study.plan import make_plan
from study.storage import Storage
from study.trials import StudyFolder, new_trial

INPUTS = Inputs(
    data={"wood@64": "w", "dial@64": "d"}, textures={}, weights={"random": "r"}, method_version=1
)
IMAGES = {"wood": (40, 40), "dial": (40, 40)}


class Study:
    """A study on a folder, and a ledger to put fits into."""

    def __init__(self, path, *flags):
        flags = ["--storage", str(path), "--study", "mine", *flags]
        self.config, self.space, _ = parse(flags)
        self.folder, self.ledger = StudyFolder(Storage(path), "mine"), Ledger(Storage(path))

    def plan(self):
        return make_plan(self.config, self.space, INPUTS, self.folder, self.ledger, write=False)

    def fit(self, trial, seconds, study="another", **changes):
        """A finished fit of a trial's, in the ledger."""
        (case,) = trial.cases
        values = {
            "status": "finished", "iteration": 240, "seconds": seconds,
            "inputs": {"images": {"train": 80, "select": 40, "report": 40}},
            "environment": {"threads": 1, "gpu": None}, **changes,
        }  # fmt: skip
        record = FitRecord(
            key=case.key, study=study, trial=trial.number, digest=trial.digest,
            configuration=trial.configuration, category=case.category, seed=case.seed,
            select_on="holdout", iterations=240, **values,
        )  # fmt: skip
        self.ledger.write(record)
        return record

    def estimate(self, slots=2):
        found = (self.config, self.space, INPUTS, self.plan(), self.ledger)
        return estimate_from_history(*found, (slots, 0.0))


@pytest.fixture
def grid(tmp_path):
    return Study(tmp_path, "--space", "smoke_grid", "--categories", "wood,dial", "--seeds", "0,1")


def test_fits_cost_what_those_of_their_size_did(grid):
    trials = grid.plan().trials
    assert len(trials) == 12
    assert grid.estimate() is None
    # 'full' and 'no HSAS' are one size, 'no FFC' is another.
    full, no_ffc, no_hsas = trials[:3]
    grid.fit(full, 30.0)
    assert grid.estimate() is None
    grid.fit(no_ffc, 20.0)
    found = grid.estimate()
    assert (found.fits, found.finished, found.begun, found.left) == (12, 2, 0, 10)
    assert found.seconds == 7 * 30 + 3 * 20
    assert found.spent_seconds == 50
    # A case of the same category counts before the others.
    dial = next(t for t in trials if t.cases[0].category == "dial" and t.digest == full.digest)
    grid.fit(dial, 50.0)
    assert grid.estimate().seconds == 3 * 30 + 3 * 50 + 3 * 20
    # One that is begun needs the rest alone.
    grid.fit(no_hsas, 12.0, status="begun", iteration=100)
    found = grid.estimate()
    assert found.begun == 1
    assert found.seconds == 3 * 30 + 3 * 50 + 3 * 20 - 12


def test_only_fits_of_machines_like_this_one_count(grid):
    first, *_, last = grid.plan().trials
    grid.fit(first, 30.0, environment={"threads": 8, "gpu": None})
    grid.fit(last, 30.0, environment={"threads": 1, "gpu": "a GPU"})
    assert history(grid.ledger, 1) == []
    assert len(history(grid.ledger, 8)) == 1


def test_a_search_costs_what_random_draws_cost(tmp_path):
    study = Study(tmp_path, "--num-trials", "4", "--seeds", "0,1")
    plan = study.plan()

    def by_ratio(config, category):
        return 100.0 * (1 + config.global_ratio)

    found = (study.config, study.space, INPUTS, plan, study.ledger)
    result = estimate(*found, by_ratio, "by ratio", (2, 0.5))
    assert (result.fits, result.left) == (8, 8)
    assert 8 * 100 < result.seconds < 8 * 150
    assert result.wall_seconds == pytest.approx(result.seconds / 2)
    assert result.gpu_hours == pytest.approx(result.seconds / 7200)


def test_an_enlarged_searchs_plan_counts_what_it_did_before(tmp_path):
    study = Study(tmp_path, "--num-trials", "2", "--seeds", "0,1")
    folder, ledger = study.folder, study.ledger
    for number, done in enumerate((2, 1)):
        config = TrainConfig.from_dict({**study.space.fixed, "head_channels": 8 + 8 * number})
        cases = cases_of(study.config, INPUTS, config)
        trial = new_trial(number, {}, config, cases)
        state = "finished" if done == 2 else "stopped"
        folder.write_trial(dataclasses.replace(trial, state=state, value=0.5))
        for case in cases[:done]:
            one = dataclasses.replace(trial, cases=(case,))
            study.fit(one, 30.0, writing_seconds=2.0, environment={"threads": 1, "gpu": "a GPU"})
    plan = dataclasses.replace(study.plan(), trials=folder.trials(), wanted=5)
    found = (study.config, study.space, INPUTS, plan, ledger)
    result = estimate(*found, lambda config, category: 10.0, "made up", (2, 1.0))
    # What was stopped early is neither finished nor left.
    assert (result.fits, result.finished, result.left) == (10, 3, 6)
    assert (result.seconds, result.spent_seconds, result.spent_gpu_seconds) == (60, 96, 96)
    assert result.configurations == 5


SMALL = TrainConfig(
    image_size=32, autoencoder_channels=16, head_channels=8, batch_size=2, global_ratio=0.0,
    ffc_layers=1, autoencoder_iterations=4, head_iterations=8, evaluate_every=4,
)  # fmt: skip


def test_a_models_work_is_counted_and_once_for_each_size():
    small = work_of(SMALL)
    assert small.stages == iteration_macs(SMALL)
    assert work_of(dataclasses.replace(SMALL, hsas="none", optimizer="adamw")) is small


def test_what_differs_in_size_is_scaled_by_its_work(grid):
    (record,) = [grid.fit(grid.plan().trials[0], 30.0)]
    config = TrainConfig.from_dict(record.configuration)
    seconds = seconds_scaled([record], IMAGES)
    assert seconds(config, "dial") == 30.0
    longer = dataclasses.replace(
        config, autoencoder_iterations=2 * config.autoencoder_iterations,
        head_iterations=2 * config.head_iterations, evaluate_every=2 * config.evaluate_every,
    )  # fmt: skip
    assert 50 < seconds(longer, "dial") <= 60
    assert seconds_of_like([record])(longer, "dial") is None
    assert is_near(record, [config, longer])
    assert not is_near(record, [config, dataclasses.replace(config, batch_size=64)])


def test_between_two_measured_configurations_lies_a_line():
    work = work_of(SMALL)
    twice = Work(tuple(2 * macs for macs in work.stages), 2 * work.forward, work.parameters)
    none = {"wood": (0, 0)}
    slow = Speed(twice, SMALL.batch_size, (3.0, 5.0), 0.0)
    fast = Speed(work, SMALL.batch_size, (1.0, 2.0), 0.5)
    assert seconds_measured(fast, slow, none)(SMALL, "wood") == pytest.approx(4 * 1 + 8 * 2)
    larger = dataclasses.replace(SMALL, batch_size=4)
    assert seconds_measured(fast, slow, none)(larger, "wood") == pytest.approx(4 * 3 + 8 * 5)
    # 12 iterations have 3 evaluations, and two more at the stages' ends.
    only = seconds_measured(fast, fast, {"wood": (10, 4)})
    assert only(SMALL, "wood") == pytest.approx(4 * 1 + 8 * 2 + (5 * 10 + 4) * 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--price-per-gpu-hour 2", "--price-per-gpu-hour is for --dry-run; give both"),
        ("--dry-run --price-per-gpu-hour -1", "--price-per-gpu-hour must be 0 or more but got -1"),
        ("--confirm -1", "--confirm must be 0 or more but got -1"),
        ("--confirm 2 --space smoke_grid", "--confirm is for a search or for NUISANCE"),
    ],
)
def test_flags_that_say_nothing_are_refused(tmp_path, flags, message):
    with pytest.raises(StudyError, match=message):
        parse(["--storage", str(tmp_path), *flags.split()])
