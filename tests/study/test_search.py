import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.exceptions import ActorUnavailableError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.drawing import every_point
from study.early_stopping import make_scheduler
from study.journal import OneWriterJournal
from study.left_out import LeftOut
from study.optuna_study import rebuild_study, write_journal
from study.search import OptunaSearch
from study.spaces import checked
from study.storage import StorageError
from study.trials import Case, new_trial
from study.worker_deaths import MOST_LOSSES

SPACE = checked(
    "mine",
    "why?",
    {
        "hsas": CategoricalDistribution(("none", "2d")),
        "hsas_probability": FloatDistribution(0.05, 0.4),
        "global_ratio": FloatDistribution(0.0, 0.75),
    },
    {"image_size": 64},
)


class Study:
    """A search and the records that it wrote, without Ray."""

    def __init__(self, trials=(), space=SPACE, seed=0, retries=0, gpus=0.25, left_out=None):
        self.written = {trial.number: trial for trial in trials}
        self.search = OptunaSearch(
            space,
            lambda config: (Case("c", 0, config.digest()),),
            list(trials),
            self.write,
            seed=seed,
            retries=retries,
            gpus=gpus,
            left_out=left_out,
        )
        self.tunes = []
        self.search.deaths.on_step_begin(0, self.tunes)

    def of_tune(self, trial_id, status="PENDING", error=None):
        """What Tune has of a trial, whose file says how its worker died."""
        one = SimpleNamespace(trial_id=trial_id, status=status, error_file=error and str(error))
        self.tunes[:] = [*(t for t in self.tunes if t.trial_id != trial_id), one]

    def write(self, record):
        self.written[record.number] = record
        return record

    @property
    def trials(self):
        return [self.written[n] for n in sorted(self.written)]

    @property
    def optuna(self):
        return self.search.study.trials

    def run(self, trial_id, *values, final=True, error=None):
        """A trial that reports at rungs 1, 2, ... and is final at the last, unless it is not."""
        suggestion = self.search.suggest(trial_id)
        last = None
        for rung, value in enumerate(values, start=1):
            last = {"objective": value, "rung": rung, "final": final and rung == len(values)}
            self.search.on_trial_result(trial_id, last)
        if error:
            last = {"error": error, "final": True}
        self.search.on_trial_complete(trial_id, last)
        return suggestion


def test_a_finished_trial_is_complete_with_its_value():
    study = Study()
    suggestion = study.run("a", 0.3, 0.4)
    assert study.optuna[0].state == TrialState.COMPLETE
    assert study.optuna[0].value == 0.4
    assert study.trials[0].state == "finished"
    assert study.trials[0].value == 0.4
    assert suggestion["trial_number"] == 0
    assert suggestion["configuration"]["image_size"] == 64


def test_a_stopped_trial_is_pruned_with_its_intermediate_values_and_never_the_best():
    study = Study()
    study.run("a", 0.9, final=False)
    study.run("b", 0.1)
    assert study.optuna[0].state == TrialState.PRUNED
    assert study.optuna[0].intermediate_values == {1: 0.9}
    assert study.trials[0].state == "stopped"
    assert study.trials[0].value is None
    assert study.search.study.best_trial.number == 1


def test_the_result_at_which_tune_stops_a_trial_counts_though_tune_gives_it_only_at_the_end():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_complete("a", {"objective": 0.2, "rung": 1, "final": False})
    assert study.optuna[0].intermediate_values == {1: 0.2}
    assert study.trials[0].intermediate == {1: 0.2}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_objective_that_is_not_finite_is_a_failure(value):
    study = Study()
    study.run("a", value)
    assert study.optuna[0].state == TrialState.FAIL
    assert study.trials[0].state == "failed"
    assert str(value) in study.trials[0].error


def test_what_the_trainable_reports_as_an_error_is_a_failure_with_its_reason():
    study = Study()
    study.run("a", 0.5, final=False, error="screw, seed 0: NonFiniteLoss")
    assert study.optuna[0].state == TrialState.FAIL
    assert study.trials[0].error == "screw, seed 0: NonFiniteLoss"


def test_a_trial_that_tune_gives_up_is_a_failure():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_complete("a", None, error=True)
    assert study.optuna[0].state == TrialState.FAIL
    assert "worker" in study.trials[0].error


def test_a_heartbeat_says_how_far_a_trial_is_and_nothing_to_optuna():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_result("a", {"fraction": 0.4})
    assert study.search.fractions == {0: 0.4}
    assert study.optuna[0].intermediate_values == {}


def test_a_trial_is_written_down_before_it_runs():
    study = Study()
    study.search.suggest("a")
    assert [t.state for t in study.trials] == ["begun"]
    assert study.trials[0].cases[0].key == study.trials[0].digest


def test_the_rungs_that_a_retried_trial_passes_again_count_once():
    study = Study()
    study.search.suggest("a")
    for _ in range(2):
        study.search.on_trial_result("a", {"objective": 0.5, "rung": 1, "final": False})
    assert study.search.records[0].intermediate == {1: 0.5}
    study.search.on_trial_complete("a", {"objective": 0.5, "rung": 1, "final": False})
    assert study.trials[0].intermediate == {1: 0.5}


def test_suggestions_are_distinct_until_the_space_is_exhausted():
    space = checked(
        "small",
        "why?",
        {
            "hsas": CategoricalDistribution(("none", "2d")),
            "hsas_probability": CategoricalDistribution((0.1, 0.2)),
        },
        {},
    )
    study = Study(space=space)
    for n in range(3):
        study.run(f"t{n}", 0.1 * n)
    assert len({t.digest for t in study.trials}) == 3
    assert study.search.suggest("more") == Searcher.FINISHED
    assert study.search.exhausted
    assert len(study.trials) == 3


def test_a_repeated_suggestion_is_answered_with_what_is_known():
    space = checked("two", "why?", {"hsas": CategoricalDistribution(("none", "2d"))}, {})
    study = Study(space=space)
    study.run("a", 0.7)
    study.run("b", 0.2)
    study.search.suggest("c")
    values = {t.digest: t.value for t in study.trials}
    for known in study.optuna[2:]:
        assert known.state == TrialState.COMPLETE
        assert known.value in values.values()


def fields(trial):
    keep = (trial.state, trial.params, trial.value, trial.intermediate_values)
    return trial.user_attrs["number"], keep


def test_a_study_rebuilt_from_its_records_is_the_study_that_wrote_them():
    study = Study()
    study.run("a", 0.3, 0.4)
    study.run("b", 0.1, final=False)
    study.run("c", error="out of memory")
    rebuilt = rebuild_study(SPACE, study.trials, seed=0)
    assert [fields(t) for t in rebuilt.trials] == [
        fields(t) for t in study.optuna if "repeats" not in t.user_attrs
    ]


def test_begun_trials_come_first_with_the_number_and_configuration_they_had():
    first = Study()
    first.run("a", 0.3)
    lost = first.search.suggest("b")
    first.search.on_trial_result("b", {"objective": 0.2, "rung": 1, "final": False})
    second = Study(first.trials)
    assert second.search.suggest("x") == lost
    assert second.search.suggest("y")["trial_number"] == 2
    # Its rungs were nowhere but in its fits: the worker passes them again.
    second.search.on_trial_result("x", {"objective": 0.2, "rung": 1, "final": False})
    second.search.on_trial_complete("x", {"objective": 0.6, "rung": 2, "final": True})
    assert [t.value for t in second.trials] == [0.3, 0.6, None]
    assert second.optuna[1].params == first.trials[1].drawn
    assert second.optuna[1].intermediate_values == {1: 0.2, 2: 0.6}


def test_the_same_seed_suggests_the_same_and_a_later_sitting_something_else():
    one, two = Study(seed=3), Study(seed=3)
    assert one.search.suggest("a") == two.search.suggest("a")
    one.search.on_trial_complete("a", {"objective": 0.1, "rung": 1, "final": True})
    assert Study(one.trials, seed=3).search.suggest("b")["configuration"] != (
        one.trials[0].configuration
    )


def stops(scheduler, number, rung, value):
    trial = SimpleNamespace(config={"trial_number": number})
    scheduler.on_trial_add(None, trial)
    result = {"rung": rung, "objective": value}
    return scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP


def test_the_trial_scheduler_stops_the_weaker_half_at_a_rung():
    scheduler = make_scheduler(4, [])
    assert not stops(scheduler, 0, 1, 0.5)
    assert not stops(scheduler, 1, 1, 0.9)
    assert stops(scheduler, 2, 1, 0.1)


def test_a_trial_that_came_back_passes_the_rungs_that_it_has_passed():
    scheduler = make_scheduler(4, [])
    assert not stops(scheduler, 0, 1, 0.5)
    assert not stops(scheduler, 1, 1, 0.9)
    assert not stops(scheduler, 0, 1, 0.5)  # As another one of Tune's it would be the weaker half.
    assert stops(scheduler, 2, 1, 0.6)


def test_the_trial_scheduler_knows_the_rungs_of_earlier_sittings():
    study = Study()
    study.run("a", 0.8, 0.9)
    study.run("b", 0.7, 0.8)
    assert stops(make_scheduler(4, study.trials), 2, 1, 0.1)
    assert not stops(make_scheduler(4, study.trials), 2, 1, 0.85)


def test_a_trial_with_one_rung_is_never_stopped():
    assert isinstance(make_scheduler(1, []), FIFOScheduler)
    assert not stops(make_scheduler(1, []), 0, 1, 0.0)


def test_an_interrupted_trial_stays_begun_and_nothing_more_is_suggested():
    study = Study()
    study.search.suggest("a")
    study.search.stopping.set()
    study.search.on_trial_complete("a", {"interrupted": True, "final": True})
    assert study.trials[0].state == "begun"
    assert study.search.suggest("b") == Searcher.FINISHED
    assert not study.search.exhausted


def test_a_storage_that_fails_ends_the_search_and_leaves_the_trial_begun():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_complete("a", {"fatal": "x cannot be written: full", "final": True})
    assert study.search.fatal == "x cannot be written: full"
    assert study.trials[0].state == "begun"
    assert study.search.suggest("b") == Searcher.FINISHED

    def fail(record):
        raise StorageError("y cannot be written: full")

    study = Study()
    study.search.write = fail
    assert study.search.suggest("a") == Searcher.FINISHED
    assert study.search.fatal == "y cannot be written: full"


GRID = checked(
    "grid",
    "which?",
    {},
    {"image_size": 64},
    cells={"none": {"global_ratio": 0.0}, "half": {"global_ratio": 0.5, "hsas": "1d"}},
)


def grid_trials():
    cells = [config for _, config in GRID.distinct_cells()]
    pairs = [(config, seed) for seed in (0, 1) for config in cells]
    return [
        new_trial(
            n, GRID.parameters(config), config, (Case("c", seed, f"{config.digest()}-{seed}"),)
        )
        for n, (config, seed) in enumerate(pairs)
    ]


def test_a_grid_goes_through_its_trials_once_and_optuna_knows_them(tmp_path):
    journal = tmp_path / "mine.journal"
    search = OptunaSearch(GRID, None, grid_trials(), lambda record: record, journal)
    for n in range(4):
        suggestion = search.suggest(str(n))
        assert suggestion["trial_number"] == n
        search.on_trial_complete(str(n), {"objective": 0.1 * n, "rung": 1, "final": True})
    assert search.suggest("more") == Searcher.FINISHED
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="mine", storage=storage).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert trials[1].params == {"global_ratio": 0.5, "hsas": "1d"}
    assert [t.user_attrs["seed"] for t in trials] == [0, 0, 1, 1]


def test_a_grids_trial_that_another_study_is_at_comes_later():
    taken = {1, 2}
    search = OptunaSearch(
        GRID, None, grid_trials(), lambda record: record, is_taken=lambda r: r.number in taken
    )
    assert [search.suggest(str(n))["trial_number"] for n in range(4)] == [0, 3, 1, 2]


def test_the_journal_of_a_study_that_nobody_runs_has_begun_trials_in_its_queue(tmp_path):
    study = Study()
    study.run("a", 0.3)
    study.search.suggest("b")
    journal = tmp_path / "mine.journal"
    for _ in range(2):  # It is written anew each time.
        write_journal(SPACE, study.trials, journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="mine", storage=storage).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.WAITING]
    done = study.trials[0]
    assert trials[0].params == done.drawn
    assert trials[0].datetime_start.timestamp() == pytest.approx(done.began)
    assert trials[0].datetime_complete.timestamp() == pytest.approx(done.ended)


def test_the_journal_opens_in_optuna_dashboard(tmp_path):
    study = Study()
    study.run("a", 0.3)
    journal = tmp_path / "mine.journal"
    write_journal(SPACE, study.trials, journal)
    app = optuna_dashboard.wsgi(JournalStorage(JournalFileBackend(str(journal))))
    answered = []
    environment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies"}
    setup_testing_defaults(environment)
    body = b"".join(app(environment, lambda status, *_: answered.append(status)))
    assert answered == ["200 OK"]
    assert [s["study_name"] for s in json.loads(body)["study_summaries"]] == ["mine"]


def test_a_finite_space_is_drawn_to_its_last_point(monkeypatch):
    monkeypatch.setattr("study.untried_points.SAMPLER_REDRAWS", 1)
    monkeypatch.setattr("study.untried_points.RANDOM_REDRAWS", 0)
    space = checked(
        "finite",
        "why?",
        {
            "hsas": CategoricalDistribution(("none", "1d", "2d")),
            "hsas_probability": FloatDistribution(0.1, 0.4, step=0.1),
            "ffc_layers": IntDistribution(1, 3),
        },
        {},
    )
    study = Study(space=space)
    for n in range(27):  # Without HSAS its probability makes no difference.
        assert study.run(f"t{n}", 0.01 * n) != Searcher.FINISHED
    assert len({t.digest for t in study.trials}) == 27
    # The last ones are Optuna's trials too, with the values that they were given.
    last = study.optuna[-1]
    assert last.params == study.trials[-1].drawn
    assert study.search.suggest("more") == Searcher.FINISHED
    assert study.search.exhausted


def test_what_can_be_drawn_without_end_is_not_listed():
    free = {"global_ratio": FloatDistribution(0.0, 0.75)}
    assert every_point(free, {}, 1000) is None
    many = {"autoencoder_iterations": IntDistribution(1, 2000)}
    assert every_point(many, {}, 1000) is None
    assert every_point({"ffc_layers": IntDistribution(1, 3, step=2)}, {}, 1000) == [
        {"ffc_layers": 1},
        {"ffc_layers": 3},
    ]


def test_a_worker_that_left_off_by_itself_ends_the_sitting():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_complete("a", {"interrupted": True, "final": True})
    assert "heard nothing" in study.search.fatal
    assert study.search.suggest("b") == Searcher.FINISHED
    assert [t.state for t in study.trials] == ["begun"]


def test_a_worker_that_was_told_to_leave_off_is_no_fault():
    study = Study()
    study.search.suggest("a")
    study.search.stopping.set()
    study.search.on_trial_complete("a", {"interrupted": True, "final": True})
    assert study.search.fatal is None


def test_a_journal_that_the_disk_cannot_take_is_completed_later(tmp_path):
    file = OneWriterJournal(tmp_path / "mine.journal")
    file.append_logs([{"number": 0}])
    place, file.path = file.path, Path("/dev/full")
    file.append_logs([{"number": 1}])
    assert file.error.errno == errno.ENOSPC
    assert [log["number"] for log in file.read_logs(0)] == [0, 1]
    file.path = place
    file.append_logs([{"number": 2}])
    assert file.error is None
    lines = place.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]


def test_a_journal_that_has_no_place_yet_is_no_end_and_is_written_once_it_has(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    file = OneWriterJournal(tmp_path / "cache" / "mine.journal")
    file.append_logs([{"number": 0}])
    assert isinstance(file.error, OSError)
    (tmp_path / "cache").unlink()
    file.append_logs([{"number": 1}])
    assert file.error is None
    lines = file.path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]


def test_a_trial_that_needs_more_of_a_gpu_comes_back_once_before_all_others():
    study = Study()
    first = study.search.suggest("a")
    assert first["gpus"] is None
    study.search.on_trial_result("a", {"objective": 0.3, "rung": 1, "final": False})
    study.search.on_trial_complete("a", {"more_gpu": 0.5, "final": True})
    assert [(t.number, t.state, t.gpus) for t in study.trials] == [(0, "begun", 0.5)]
    again = study.search.suggest("b")
    assert again == {**first, "gpus": 0.5}
    # It is the same trial for Optuna, and passes its rungs again.
    study.search.on_trial_result("b", {"objective": 0.3, "rung": 1, "final": False})
    study.search.on_trial_complete("b", {"objective": 0.4, "rung": 2, "final": True})
    (known,) = study.optuna
    assert (known.state, known.value) == (TrialState.COMPLETE, 0.4)
    assert known.intermediate_values == {1: 0.3, 2: 0.4}


def test_a_trial_that_had_more_of_a_gpu_has_it_in_the_next_sitting_too():
    study = Study()
    study.search.suggest("a")
    study.search.on_trial_complete("a", {"more_gpu": 0.5, "final": True})
    assert Study(study.trials).search.suggest("b")["gpus"] == 0.5


def test_a_search_draws_what_is_wanted_and_waits_for_what_may_come_back():
    study = Study()
    study.search.new = 2
    assert study.search.suggest("a")["trial_number"] == 0
    assert study.search.suggest("b")["trial_number"] == 1
    assert study.search.suggest("c") is None
    study.search.on_trial_complete("a", {"objective": 0.1, "rung": 1, "final": True})
    assert study.search.suggest("c") is None
    study.search.on_trial_complete("b", {"more_gpu": 1.0, "final": True})
    assert study.search.suggest("c")["trial_number"] == 1
    study.search.on_trial_complete("c", {"objective": 0.1, "rung": 1, "final": True})
    assert study.search.suggest("d") == Searcher.FINISHED
    assert not study.search.exhausted


def test_a_node_that_cannot_do_fits_costs_no_trial_and_is_left_out():
    study, said = Study(), []
    study.search.left_out = LeftOut(said.append, lambda: {"n1", "n2", "n3"})
    first = study.search.suggest("a")
    wrong = {"wrong_node": "n1", "why": "gpu-7: it has other code", "final": True}
    study.search.on_trial_complete("a", wrong)
    again = study.search.suggest("b")
    assert again == {**first, "left_out": ["n1"]}
    assert [t.state for t in study.trials] == ["begun"]
    assert said == ["A node is left out from now on: gpu-7: it has other code"]
    assert not study.search.stopping.is_set()
    # Of three nodes two are wrong: whoever starts machines would start wrong ones for ever.
    study.search.on_trial_complete("b", {**wrong, "wrong_node": "n2"})
    assert study.search.suggest("c") == Searcher.FINISHED
    assert "2 nodes cannot do this study's fits, and 1 could" in study.search.fatal
    assert [t.state for t in study.trials] == ["begun"]


def test_small_trials_wait_for_one_that_came_back_until_it_has_its_place():
    study = Study()
    study.search.new = 4
    for trial_id in "abc":
        study.search.suggest(trial_id)
        study.of_tune(trial_id, "RUNNING")
    study.search.on_trial_complete("a", {"more_gpu": 0.5, "final": True})
    assert study.search.suggest("d")["gpus"] == 0.5
    # Whatever becomes free is for it.
    assert study.search.suggest("e") is None
    study.of_tune("d")
    assert study.search.suggest("e") is None
    study.search.on_trial_complete("b", {"objective": 0.1, "rung": 1, "final": True})
    assert study.search.suggest("e") is None
    study.of_tune("d", "RUNNING")
    assert study.search.suggest("e")["gpus"] is None


def test_nothing_waits_for_a_place_that_others_hold_or_for_what_all_have():
    study = Study()
    study.search.new = 4
    for trial_id in "ab":
        study.search.suggest(trial_id)
        study.of_tune(trial_id, "RUNNING")
    study.search.on_trial_complete("a", {"more_gpu": 0.5, "final": True})
    assert study.search.suggest("c")["gpus"] == 0.5
    assert study.search.suggest("d") is None
    # None of ours is left that could end and make room.
    study.tunes[:] = []
    assert study.search.suggest("d")["gpus"] is None
    # In a sitting whose trials have as much, or on machines without GPUs, it is one like all.
    for share in (0.5, 0.0):
        next_one = Study(study.trials, gpus=share)
        assert next_one.search.suggest("e")["gpus"] == 0.5
        next_one.of_tune("e")
        next_one.search.suggest("f")
        next_one.of_tune("f", "RUNNING")
        assert next_one.search.suggest("g") is not None


def test_a_lost_node_is_no_retry_and_a_dead_worker_is_one(tmp_path):
    lost, died, cut = (tmp_path / f"{name}.txt" for name in ("lost", "died", "cut"))
    said = (
        "Failure # 1 (occurred at 2026-01-01)\nThe actor died unexpectedly before finishing this "
    )
    lost.write_text(f"{said}task.\nThe actor died because its node has died. Node Id: 12ab")
    died.write_text(f"{said}task.\nThe actor is dead because its worker process has died.")
    cut.write_text(f"Failure # 1\n{ActorUnavailableError('Socket closed', None)}")
    study = Study(retries=1)
    first = study.search.suggest("0")
    for i, error in enumerate([lost, cut, died, lost]):
        study.of_tune(str(i), "ERROR", error)
        study.search.on_trial_complete(str(i), None, error=True)
        assert study.trials[0].state == "begun"
        assert study.search.suggest(str(i + 1)) == first
    study.of_tune("4", "ERROR", died)
    study.search.on_trial_complete("4", None, error=True)
    assert study.trials[0].state == "failed"
    assert study.trials[0].machine_failed
    assert study.optuna[0].state == TrialState.FAIL


def test_a_worker_that_died_with_its_machine_is_no_retry_once_that_is_missed(tmp_path):
    died, alive = tmp_path / "died.txt", {*map(str, range(30)), "stays"}
    died.write_text("The actor is dead because its worker process has died.")
    study = Study(retries=1, left_out=LeftOut(alive=lambda: alive))

    def crash(trial_id, node, fraction=0.9):
        study.search.suggest(trial_id)
        study.search.on_trial_result(trial_id, {"fraction": fraction, "node": node})
        study.of_tune(trial_id, "ERROR", died)
        study.search.on_trial_complete(trial_id, None, error=True)
        return study.trials[0].state

    # Each machine is missed after its worker's death only; the trial gets further in between.
    for node in map(str, range(3 * MOST_LOSSES)):
        assert crash(node, node, 0.01 * int(node)) == "begun"
        alive.discard(node)
    # The first one whose machine stays is the retry, the second one too many.
    assert [crash(trial_id, "stays") for trial_id in "ab"] == ["begun", "failed"]


def test_a_trial_that_brings_its_machines_down_fails_in_the_end(tmp_path):
    died, alive = tmp_path / "died.txt", set()
    died.write_text("The actor is dead because its worker process has died.")
    study = Study(retries=1, left_out=LeftOut(alive=lambda: alive))
    ends = []
    while "failed" not in ends:
        node = str(len(ends))
        alive.add(node)
        study.search.suggest(node)
        study.search.on_trial_result(node, {"fraction": 0.5, "node": node})
        study.of_tune(node, "ERROR", died)
        study.search.on_trial_complete(node, None, error=True)
        ends.append(study.trials[0].state)
        alive.discard(node)
    # Five whose machines are gone, the one that is the retry, and the last.
    assert len(ends) == MOST_LOSSES + 2


def test_a_trial_that_loses_node_after_node_without_getting_further_has_crashed(tmp_path):
    lost = tmp_path / "lost.txt"
    lost.write_text("The actor died because its node has died. Node Id: 12ab")
    alive = set()
    study = Study(retries=0, left_out=LeftOut(alive=lambda: alive))

    def lose(trial_id, fraction):
        alive.add(trial_id)
        study.search.suggest(trial_id)
        alive.discard(trial_id)
        study.search.on_trial_result(trial_id, {"fraction": fraction, "node": trial_id})
        study.of_tune(trial_id, "ERROR", lost)
        study.search.on_trial_complete(trial_id, None, error=True)
        return study.trials[0].state

    ends = [lose(f"{i}", 0.1) for i in range(MOST_LOSSES)]
    ends += [lose(f"further {i}", 0.2) for i in range(MOST_LOSSES + 1)]
    assert ends == ["begun"] * 2 * MOST_LOSSES + ["failed"]
    assert study.trials[0].machine_failed


def test_one_worker_that_was_killed_for_its_memory_makes_it_the_configurations_own(tmp_path):
    memory, died = tmp_path / "memory.txt", tmp_path / "died.txt"
    memory.write_text("Task was killed due to the node running low on memory. out of memory issue")
    died.write_text("The actor is dead because its worker process has died.")
    study = Study(retries=1)
    for trial_id, error in (("a", memory), ("b", died)):
        study.search.suggest(trial_id)
        study.of_tune(trial_id, "ERROR", error)
        study.search.on_trial_complete(trial_id, None, error=True)
    assert "memory was nearly full" in study.trials[0].error
    assert not study.trials[0].machine_failed


def test_nodes_that_came_and_went_count_on_both_sides():
    alive, said = {"n1", "n2"}, []
    left_out = LeftOut(said.append, lambda: set(alive))
    left_out.look()
    # Right ones are taken away like spot instances, and wrong ones come in their place.
    alive -= {"n1", "n2"}
    alive |= {"n3", "n4"}
    left_out.look()
    assert left_out.add("n3", "other code") is None
    alive -= {"n3"}
    alive |= {"n5"}
    assert left_out.add("n5", "other code") is None
    assert left_out.add("n5", "other code") is None  # Two of its fits said so.
    alive |= {"n6", "n7"}
    alive -= {"n4"}
    assert left_out.add("n6", "other code") is None
    assert left_out.add("n7", "other code") == (
        "4 nodes cannot do this study's fits, and 3 could: other code"
    )
    assert len(said) == 4
