"""Whole studies, in processes of their own: Ray, Optuna, MLflow and the ledger together."""

import json
import re
import signal
import subprocess
import sys

import pytest
from drivers import SECONDS, TINY, family, kill, mlflow_runs, records, run, start, wait_for

from study.ledger import Ledger
from study.storage import Storage
from study.trials import StudyFolder

pytestmark = pytest.mark.slow


def test_a_study_runs_through_to_mlflow_goes_on_and_does_no_fit_twice(tmp_path):
    flags = [*TINY, "--seeds", "0,1", "--num-trials", "2", "--no-early-stopping"]
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    commands = [line for line in output.splitlines() if line.startswith("  ")]
    assert max(len(x) for x in output.splitlines() if x not in commands) <= 80
    assert "2 configurations x 2 cases: 2 new" in output
    assert "The frozen encoder has random weights" in output
    assert "Traceback" not in output
    assert "WARNING" not in output

    done = records(tmp_path)
    assert [r["status"] for r in done.values()] == ["finished"] * 4
    found = mlflow_runs(tmp_path)
    levels = [r.data.tags["level"] for r in found]
    assert {level: levels.count(level) for level in levels} == {
        "study": 1, "configuration": 2, "fit": 4,
    }  # fmt: skip
    assert {r.info.status for r in found} == {"FINISHED"}
    ids = {r.info.run_id: r.data.tags["level"] for r in found}
    parents = {"fit": "configuration", "configuration": "study"}
    for r in found:
        level = r.data.tags["level"]
        assert ids.get(r.data.tags.get("mlflow.parentRunId")) == parents.get(level)

    # The same again: nothing is left to do. One more: only its own fits are done.
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    assert records(tmp_path) == done
    code, output = run(tmp_path, "--resume", "mine", "--num-trials", "3")
    assert code == 0, output
    now = records(tmp_path)
    assert len(now) == 6
    assert {key: now[key] for key in done} == done
    assert len(mlflow_runs(tmp_path)) == 1 + 3 + 6
    assert len({t.digest for t in StudyFolder(Storage(tmp_path / "runs"), "mine").trials()}) == 3

    # Another question under the same name.
    code, output = run(tmp_path, *flags, "--set", "batch_size=4")
    assert code == 2
    assert "study 'mine' in" in output
    assert "fixed.batch_size was 2 and is now 4" in output
    assert records(tmp_path) == now


def test_a_study_whose_driver_is_killed_goes_on_where_it_stood(tmp_path):
    flags = [*TINY, "--num-trials", "2", "--set", "head_iterations=36", "--no-early-stopping"]
    process = start(tmp_path, *flags)
    try:
        wait_for(lambda: any(r["iteration"] >= 8 for r in records(tmp_path).values()), process)
    finally:
        left = kill(process)
    assert left == [], "Ray's processes outlived their driver"
    begun = {k: r for k, r in records(tmp_path).items() if r["status"] == "begun"}
    assert begun

    code, output = run(tmp_path, "--resume", "mine")
    assert code == 0, output
    assert f"{len(begun)} begun" in output
    now = records(tmp_path)
    assert len(now) == 2
    assert {r["status"] for r in now.values()} == {"finished"}
    for key, before in begun.items():
        # What was done is kept, times included, and not done again.
        assert now[key]["began"] == before["began"]
        assert now[key]["history"][: len(before["history"])] == before["history"]
        assert [e["iteration"] for e in now[key]["history"]] == list(range(4, 41, 4))
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"FINISHED"}
    assert len(mlflow_runs(tmp_path)) == 1 + 2 + 2
    assert [t.state for t in StudyFolder(Storage(tmp_path / "runs"), "mine").trials()] == [
        "finished"
    ] * 2


def test_an_interrupted_study_closes_its_runs_and_says_how_to_go_on(tmp_path):
    flags = [
        *TINY,
        "--num-trials",
        "2",
        "--set",
        "head_iterations=120",
        "--set",
        "evaluate_every=40",
        "--no-early-stopping",
    ]
    process = start(tmp_path, *flags)
    try:
        wait_for(lambda: any(r["iteration"] >= 4 for r in records(tmp_path).values()), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 130, output
    assert "--resume mine" in output
    assert "Stopping: running fits write a checkpoint." in output
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"KILLED"}
    begun = records(tmp_path)
    # They stand where they were asked to stop, not at their last evaluation.
    assert any(r["iteration"] % 40 not in (0, 4) for r in begun.values())
    assert all(t.state == "begun" for t in StudyFolder(Storage(tmp_path / "runs"), "mine").trials())
    code, output = run(tmp_path, "--resume", "mine")
    assert code == 0, output
    for key, r in records(tmp_path).items():
        assert [sitting["iteration"] for sitting in r["sittings"]] == [0, begun[key]["iteration"]]
        assert [e["iteration"] for e in r["history"]] == [4, 40, 80, 120, 124]


def test_a_worker_that_dies_is_tried_again_from_its_checkpoint(tmp_path):
    flags = [*TINY, "--num-trials", "1", "--set", "head_iterations=36", "--no-early-stopping"]
    process = start(tmp_path, *flags)
    try:
        wait_for(lambda: any(r["iteration"] >= 8 for r in records(tmp_path).values()), process)
        workers = family(process, "ImplicitFunc")
        assert len(workers) == 1
        workers[0].kill()
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 0, output
    (record,) = records(tmp_path).values()
    assert record["status"] == "finished"
    assert [e["iteration"] for e in record["history"]] == list(range(4, 41, 4))
    assert [s["iteration"] >= 8 for s in record["sittings"]] == [False, True]


def test_a_trial_whose_workers_all_die_fails_with_its_reason_and_can_be_tried_again(tmp_path):
    flags = ["--num-trials", "1", "--set", "head_iterations=2000", "--retries", "1"]
    process = start(tmp_path, *TINY, *flags, "--no-early-stopping")
    try:
        for sitting in (1, 2):
            wait_for(
                lambda s=sitting: [len(r["sittings"]) for r in records(tmp_path).values()] == [s],
                process,
            )
            for worker in family(process, "ImplicitFunc"):
                worker.kill()
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 3, output
    reason = "its worker process died, and so did the ones that tried again"
    assert f"trial 0 failed: {reason}" in " ".join(output.split())
    (record,) = records(tmp_path).values()
    assert (record["status"], record["error"]) == ("failed", reason)
    assert len(record["sittings"]) == 2
    (trial,) = StudyFolder(Storage(tmp_path / "runs"), "mine").trials()
    assert (trial.state, trial.error) == ("failed", reason)
    assert trial.tried_again().state == "begun"


def test_a_configuration_that_cannot_work_fails_once_and_the_study_goes_on(tmp_path):
    space = tmp_path / "explosive.py"
    space.write_text(
        '"""Does it blow up?"""\n'
        "from optuna.distributions import CategoricalDistribution\n"
        'SEARCH = {"sgd_learning_rate": CategoricalDistribution((1e-3, 1e30))}\n'
        'FIXED = {"ffc_layers": 1, "global_ratio": 0.0}\n'
    )
    # One more than the space holds.
    code, output = run(tmp_path, *TINY, "--space", str(space), "--num-trials", "3")
    assert code == 3, output
    assert "failed: dial, seed 0: NonFiniteLoss: the loss became" in output
    assert "The search space holds no further configuration." in output
    assert sorted(r["status"] for r in records(tmp_path).values()) == ["failed", "finished"]
    statuses = {r.data.tags["level"]: set() for r in mlflow_runs(tmp_path)}
    for r in mlflow_runs(tmp_path):
        statuses[r.data.tags["level"]].add(r.info.status)
    assert statuses["fit"] == statuses["configuration"] == {"FINISHED", "FAILED"}
    assert statuses["study"] == {"FINISHED"}


def test_two_drivers_of_one_study_do_not_run_at_once(tmp_path):
    process = start(tmp_path, *TINY, "--num-trials", "1", "--set", "head_iterations=400")
    try:
        wait_for(lambda: records(tmp_path), process)
        code, output = run(tmp_path, "--resume", "mine")
    finally:
        kill(process)
    assert code == 2
    assert "is being run by another driver" in " ".join(output.split())


def test_status_and_sync_say_what_is_there(tmp_path):
    code, output = run(tmp_path, *TINY, "--num-trials", "1", "--tracking-uri", "http://127.0.0.1:9")
    assert code == 0, output
    assert "MLflow is not up to date" in " ".join(output.split())

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "study", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip

    document = json.loads(command("status", "mine", "--json").stdout)
    assert [t["state"] for t in document["trials"]] == ["finished"]
    (fit,) = document["fits"]
    assert Ledger(Storage(tmp_path / "runs")).read(fit["key"]).metrics == fit["metrics"]
    assert "Best: trial 0" in command("status", "mine").stdout
    assert command("status").stdout == "mine\n"
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    assert "3 runs written" in command("sync", "mine", "--tracking-uri", uri).stdout
    assert "0 runs written" in command("sync", "mine", "--tracking-uri", uri).stdout
    missing = command("sync", "nothing")
    assert missing.returncode == 2
    assert re.match(r"error: no study 'nothing' in .*runs; there are mine", missing.stderr)


def test_weak_trials_are_stopped_and_never_ranked(tmp_path):
    flags = [*TINY, "--num-trials", "6", "--max-concurrent", "1", "--set", "head_iterations=24"]
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    trials = StudyFolder(Storage(tmp_path / "runs"), "mine").trials()
    stopped = [t for t in trials if t.state == "stopped"]
    assert stopped
    assert {t.state for t in trials} == {"stopped", "finished"}
    for t in stopped:
        (case,) = t.cases
        fit = records(tmp_path)[case.key]
        assert fit["status"] == "stopped"
        assert fit["iteration"] < fit["iterations"]
        assert t.value is None
        # The objective at each evaluation after the change of stage, and at no other.
        evaluated = {e["iteration"]: e["select_pixel_ap"] for e in fit["history"]}
        assert t.intermediate == {i // 4 - 1: v for i, v in evaluated.items() if i > 4}
    runs = mlflow_runs(tmp_path)
    early = [r for r in runs if r.data.tags.get("stopped_early") == "true"]
    assert {r.info.status for r in early} == {"KILLED"}
    assert len(early) == 2 * len(stopped)
    # One worker process served them all: what came after a stopped one was sound.
    assert all(r["metrics"] for r in records(tmp_path).values())
    # Another study finds the finished ones done, and they pass their rungs there, too.
    sittings = {key: len(r["sittings"]) for key, r in records(tmp_path).items()}
    code, output = run(tmp_path, *("yours" if flag == "mine" else flag for flag in flags))
    assert code == 0, output
    yours = StudyFolder(Storage(tmp_path / "runs"), "yours").trials()
    assert [t.drawn for t in yours] == [t.drawn for t in trials]
    for mine, other in zip(trials, yours, strict=True):
        if mine.state == "finished":
            assert (other.state, other.spent) == ("finished", 0)
            assert (other.value, other.intermediate) == (mine.value, mine.intermediate)
            assert len(other.intermediate) == 6
            (case,) = mine.cases
            assert len(records(tmp_path)[case.key]["sittings"]) == sittings[case.key]
