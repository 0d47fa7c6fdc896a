"""A study's trials are told by the ledger too, and a question changes as a whole."""

import dataclasses
import shutil

import pytest

from ffcad.config import TrainConfig
from study.arguments import parse
from study.cluster import Room
from study.inputs import Inputs, cases_of
from study.ledger import FitRecord, Ledger
from study.mending import mended_trials
from study.optuna_study import rebuild_study
from study.plan import make_plan
from study.question import open_study, study_of
from study.sitting import Sitting
from study.storage import Storage, StorageError
from study.trials import StudyFolder, new_trial
from study.tuning import keep_trial, make_search

INPUTS = Inputs(
    data={"wood@64": "w", "dial@64": "d"},
    textures={},
    weights={"random": "random"},
    method_version=1,
)
GRID = 'CELLS = {"none": {"hsas": "none"}, "2d": {"hsas": "2d"}}\nFIXED = {"image_size": 64}\n'


class Watched(Storage):
    """A storage that knows what was read, and whose writings fail from one of them on."""

    def __init__(self, where):
        super().__init__(where)
        self.reads, self.left = [], None

    def read(self, name):
        self.reads.append(name)
        return super().read(name)

    def write(self, name, data, **options):
        if self.left is not None:
            if self.left == 0:
                raise StorageError(f"{name} cannot be written: No space left on device")
            self.left -= 1
        super().write(name, data, **options)


class Study:
    """A study on a folder, opened with flags."""

    def __init__(self, path, *flags):
        flags = ["--storage", str(path), "--study", "mine", *flags]
        self.config, self.space, self.sought = parse(flags)
        self.storage = Watched(path)
        self.folder, self.ledger = StudyFolder(self.storage, "mine"), Ledger(self.storage)

    def open(self):
        open_study(self.folder, self.config, self.space, INPUTS, self.sought.extend)
        return self

    def plan(self):
        return make_plan(self.config, self.space, INPUTS, self.folder, self.ledger)

    def begin(self, number, **knobs):
        values = {"optimizer": "sgd", "sgd_learning_rate": 0.1, "hsas": "none", **knobs}
        configuration = TrainConfig.from_dict({**self.space.fixed, **values})
        cases = cases_of(self.config, INPUTS, configuration)
        drawn = self.space.parameters(configuration)
        return self.keep(new_trial(number, drawn, configuration, cases))

    def keep(self, trial, **changes):
        record = dataclasses.replace(trial, **changes)
        return keep_trial(self.folder, self.ledger, self.config.objective, record)

    def fit(self, trial, case, status, study="mine", sittings=(), number=None):
        configuration = TrainConfig.from_dict(trial.configuration)
        record = FitRecord(
            key=case.key, status=status, study=study, digest=trial.digest,
            trial=trial.number if number is None else number,
            configuration=trial.configuration, category=case.category, seed=case.seed,
            select_on="holdout", inputs={}, iteration=10, iterations=configuration.iterations,
            sittings=list(sittings), began=5.0, error="boom" if status == "failed" else None,
        )  # fmt: skip
        self.ledger.write(record)

    def finish(self, trial, value=0.5):
        for case in trial.cases:
            self.fit(trial, case, "finished")
        count = len(trial.cases)
        intermediate = {rung: value for rung in range(1, count + 1)}
        return self.keep(trial, state="finished", value=value, intermediate=intermediate, ended=9.0)

    def optuna(self, trials):
        return [
            (t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs)
            for t in rebuild_study(self.space, trials, 0).trials
        ]

    def remove_trials(self, *numbers):
        for name in self.storage.files("studies/mine/trials"):
            if not numbers or int(name[-9:-5]) in numbers:
                self.storage.delete(name)

    def remove_copies(self, *numbers):
        for number, copy in self.folder.copies().items():
            if number in numbers:
                self.storage.delete(f"ledger/{copy.trial.cases[0].key}/trial-mine.json")


@pytest.fixture
def search(tmp_path):
    """A search of two cases whose trials have ended in every way."""
    study = Study(tmp_path, "--seeds", "0,1", "--num-trials", "9").open()
    study.finish(study.begin(0), 0.25)
    stopped = study.begin(1, global_ratio=0.25)
    study.fit(stopped, stopped.cases[0], "finished")
    study.keep(stopped, state="stopped", intermediate={1: 0.125}, ended=9.0)
    failed = study.begin(2, global_ratio=0.0)
    study.fit(failed, failed.cases[0], "failed")
    study.keep(failed, state="failed", error="wood, seed 0: boom", ended=9.0)
    begun = study.begin(3, hsas="1d", hsas_probability=0.1)
    study.fit(begun, begun.cases[0], "begun")
    died = study.begin(4, hsas="1d", hsas_probability=0.2)
    study.fit(died, died.cases[0], "begun")
    study.keep(died, state="failed", error="its worker died", machine_failed=True, ended=9.0)
    # Another study has taken this one's fit up since.
    shared = study.begin(5, hsas="1d", hsas_probability=0.3)
    sittings = [{"study": "mine", "trial": 5}, {"study": "yours", "trial": 0}]
    study.fit(shared, shared.cases[0], "begun", "yours", sittings, number=0)
    study.finish(study.begin(6, hsas="2d", hsas_probability=0.1), 0.75)
    study.plan()
    return study


def without_times(trials):
    return [dataclasses.replace(t, began=0.0) if t.state == "begun" else t for t in trials]


def test_a_study_without_its_trials_folder_is_rebuilt_from_the_ledger(search):
    before = search.plan()
    assert [t.state for t in before.trials] == [
        "finished", "stopped", "failed", "begun", "begun", "begun", "finished",
    ]  # fmt: skip
    optuna = search.optuna(before.trials)
    assert [state for state, *_ in optuna] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    documents = search.folder.trials()
    search.remove_trials()
    after = search.plan()
    assert without_times(after.trials) == without_times(before.trials)
    assert search.optuna(after.trials) == optuna
    assert (after.begun, after.new) == (before.begun, before.new)
    assert after.notes == ("the documents of 7 trials were missing; rebuilt from the ledger",)
    assert without_times(search.folder.trials()) == without_times(documents)


def test_a_trial_whose_fits_other_studies_did_is_rebuilt_too(search):
    taken = search.begin(7, hsas="2d", hsas_probability=0.2)
    for case in taken.cases:
        search.fit(taken, case, "finished", "yours", [{"study": "yours", "trial": 0}], number=0)
    search.keep(taken, state="finished", value=0.625, ended=9.0)
    search.keep(search.begin(8, hsas="2d", hsas_probability=0.3))  # No fit of it was begun.
    before = search.plan()
    search.remove_trials()
    assert search.plan().trials == before.trials
    assert [(t.state, t.value) for t in search.folder.trials()[7:]] == [
        ("finished", 0.625), ("begun", None),
    ]  # fmt: skip


@pytest.mark.parametrize("numbers", [(0,), (2, 4), (6,)])
def test_single_documents_that_are_missing_are_missed(search, numbers):
    before = search.plan()
    search.remove_trials(*numbers)
    after = search.plan()
    assert without_times(after.trials) == without_times(before.trials)
    (note,) = after.notes
    assert ", ".join(map(str, numbers)) in note


def test_the_ledger_is_not_read_where_nothing_is_missing(search):
    for trial in search.folder.trials():  # Finished ones are looked at, to see that their fits are.
        if trial.state == "finished":
            search.remove_trials(trial.number)
    search.plan()
    search.ledger = Ledger(search.storage)
    search.storage.reads.clear()
    plan = search.plan()
    finished = {case.key for t in plan.trials if t.state == "finished" for case in t.cases}
    read = {n.split("/")[1] for n in search.storage.reads if n.startswith("ledger/")}
    assert read == finished


def test_a_study_of_which_nothing_is_left_but_the_ledger_is_rebuilt(search, tmp_path):
    before = search.plan()
    search.remove_trials()
    search.storage.delete("studies/mine/study.json")
    again = Study(tmp_path, "--seeds", "0,1", "--num-trials", "9").open()
    assert without_times(again.plan().trials) == without_times(before.trials)
    # Another question under that name takes nothing of it.
    search.remove_trials()
    search.storage.delete("studies/mine/study.json")
    other = Study(tmp_path, "--seeds", "2", "--num-trials", "9").open()
    assert other.plan().trials == []
    assert other.plan().notes == ()


def test_what_the_ledger_does_not_know_is_said_once_and_its_number_stays_free(search, tmp_path):
    search.keep(search.begin(7, hsas="2d", hsas_probability=0.2))
    search.remove_trials(7)
    search.remove_copies(7)
    (note,) = search.plan().notes
    assert note == "the documents of trial 7 are missing, in the ledger too; left out"
    plan = search.plan()
    assert plan.notes == ()
    assert len(plan.trials) == 7
    assert search.folder.read_document()["trials"] == 8
    # Nor is it given again: a second trial of that number would not be missed.
    sitting = Sitting(
        search.config, search.space, INPUTS, search.folder, None, plan, tmp_path / "journal"
    )
    suggests = make_search(sitting, Room(1, 0.0))
    begun = [suggests.suggest(str(i))["trial_number"] for i in range(plan.begun + 1)]
    assert begun[-1] == 8
    search.remove_trials(8)
    search.remove_copies(8)
    assert search.plan().notes[0].startswith("the documents of trial 8 are missing")


def test_the_number_of_a_grids_trial_that_is_lost_is_not_given_again(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1").open()
    first, second, *_ = study.plan().trials
    study.finish(study.keep(first), 0.5)
    study.keep(second)
    study.remove_trials(1)
    study.remove_copies(1)
    assert [t.number for t in study.plan().trials] == [0, 2, 3, 4]


def test_a_grids_trials_keep_their_numbers_in_whatever_order_they_are_begun(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1,2").open()
    trials = study.plan().trials
    study.finish(study.keep(trials[4]), 0.5)
    study.keep(trials[1])
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1,2").open()
    plan = study.plan()
    assert [(t.number, t.cases) for t in plan.trials] == [(t.number, t.cases) for t in trials]
    assert plan.unbegun == {0, 2, 3, 5}
    # Those that were passed over are no lost ones, which the whole ledger is read for.
    read = {name for name in study.storage.reads if name.startswith("ledger/")}
    assert read == {f"ledger/{trials[4].cases[0].key}/record.json", "ledger/study-mine.json"}
    assert plan.notes == ()
    # One that was begun is missed, whatever was begun before it.
    study.remove_trials(4)
    assert study.plan().notes[0].startswith("the documents of trial 4 were missing")


def test_a_kill_between_a_trials_document_and_its_count_leaves_the_numbers(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1").open()
    trials = study.plan().trials
    study.keep(trials[1])
    study.folder.write_trial(trials[3], study.config.objective)
    for _ in range(2):
        plan = study.plan()
        assert [(t.number, t.cases) for t in plan.trials] == [(t.number, t.cases) for t in trials]
        assert plan.unbegun == {0, 2}
    assert study.folder.counted() == 4


def test_a_grid_that_is_extended_gives_new_cells_the_least_free_numbers(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1").open()
    trials = study.plan().trials
    for i in (3, 0):
        study.keep(trials[i])
    wider = Study(tmp_path, "--space", str(path), "--seeds", "0,1,2", "--extend").open()
    before = {t.cases[0].key: t.number for t in wider.plan().trials}
    assert sorted(before.values()) == [0, 1, 2, 3, 4, 5]
    assert {before[t.cases[0].key] for t in (trials[0], trials[3])} == {0, 3}
    wider.keep(wider.plan().trials[5])
    assert {t.cases[0].key: t.number for t in wider.plan().trials} == before


def test_a_trial_that_was_reopened_is_not_rebuilt_as_it_ended_before(search):
    stopped = search.folder.trials()[1]
    search.keep(stopped, state="begun", intermediate={}, ended=None)
    search.remove_trials(1)
    assert search.plan().trials[1].state == "begun"


def test_a_trial_that_was_decided_by_another_objective_is_gone_through_again(search, tmp_path):
    flags = ["--seeds", "0,1", "--num-trials", "9", "--objective", "select_image_auroc"]
    wider = Study(tmp_path, *flags, "--extend").open()
    states = [t.state for t in wider.plan().trials]
    wider.remove_trials()
    assert [t.state for t in wider.plan().trials] == states == ["begun"] * 7


def test_a_missing_trial_of_an_earlier_question_is_retired(search, tmp_path):
    wider = Study(tmp_path, "--seeds", "0,1", "--set", "hsas=none", "--extend").open()
    states = [t.state for t in wider.plan().trials]
    assert states == ["retired"] * 7  # The drawn hsas makes them points of another space.
    wider.remove_trials(0, 6)
    trials = wider.plan().trials
    assert [trials[0].state, trials[6].state] == ["retired", "retired"]
    assert [t.number for t in trials] == list(range(7))


def test_a_grid_without_its_trials_folder_keeps_its_numbers_and_outcomes(tmp_path):
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    study = Study(tmp_path, "--space", str(path), "--seeds", "0,1").open()
    trials = study.plan().trials
    for i in (3, 1):
        study.finish(study.keep(trials[i]), 0.5)
    study.plan()
    study.remove_trials()
    plan = study.plan()
    assert [t.number for t in plan.trials] == [0, 1, 2, 3]
    assert [t.state for t in plan.trials] == ["begun", "finished", "begun", "finished"]
    assert [t.cases for t in plan.trials] == [t.cases for t in trials]
    assert len(plan.notes) == 1


def test_status_mends_what_it_shows_and_writes_nothing(search):
    config, space, inputs = study_of(search.folder)
    search.remove_trials()
    trials, notes = mended_trials(config, space, inputs, search.folder, write=False)
    assert [t.number for t in trials] == list(range(7))
    assert len(notes) == 1
    assert search.folder.trials() == []


@pytest.mark.parametrize("written", range(17))
def test_a_study_that_is_killed_while_it_is_extended_asks_one_question_as_a_whole(
    search, tmp_path, written
):
    flags = ["--seeds", "0,1,2", "--num-trials", "9"]
    wider = Study(tmp_path, *flags, "--extend")
    wider.storage.left = written
    try:
        wider.open()
        whole = True
    except StorageError:
        whole = False
    # The question, seven trials with their copies, the end of the change.
    assert whole == (written >= 16)
    # Somebody who only looks sees one question, too.
    config, space, inputs = study_of(search.folder)
    trials, _ = mended_trials(config, space, inputs, search.folder, write=False)
    cases = {0: 2}.get(written, 3)
    assert {len(t.cases) for t in trials} == {cases}
    # Whoever resumes it gives no question, and no --extend.
    resumed = Study(tmp_path, "--resume", "mine").open()
    assert resumed.config.seeds == ((0, 1) if written == 0 else (0, 1, 2))
    plan = resumed.plan()
    assert {len(t.cases) for t in plan.trials} == {cases}
    assert [t.state == "finished" for t in plan.trials] == [
        written == 0 and t.number in (0, 6) for t in plan.trials
    ]
    assert "extending" not in resumed.folder.read_document()
    assert len(resumed.folder.read_document().get("extended", [])) == (written > 0)


def test_a_study_keeps_its_id_whichever_of_its_documents_are_lost(tmp_path):
    def opened(where="a"):
        folder = Study(tmp_path / where).open().folder
        return folder.read_document()["id"], folder.study_id()

    known, kept = opened()
    assert known == kept
    shutil.rmtree(tmp_path / "a" / "studies")
    assert opened() == (known, known)
    (tmp_path / "a" / "ledger" / "study-mine.json").write_bytes(b"{")
    assert opened() == (known, known)
    assert Ledger(Storage(tmp_path / "a")).keys() == []
    # One of the same name on another storage is another one.
    assert known not in opened("b")
