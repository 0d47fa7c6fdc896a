"""What MLflow holds of a study, on a real SQLite store."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ffcad.config import TrainConfig
from study.background import Background
from study.config import StudyConfig
from study.ledger import BEST_CHECKPOINT, CHECKPOINT, FitRecord, Ledger
from study.storage import Storage
from study.tracking import Mirror
from study.trials import Case, StudyFolder, TrialRecord

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(image_size=64)
IMAGES = {"train": 8, "select": 4, "report": 5}


def entry(iteration, **metrics):
    return {
        "iteration": iteration,
        "stage": "head",
        "loss": 1 / iteration,
        "time": 100.0 + iteration,
        **metrics,
    }


def sitting(study):
    return {"began": 90.0, "iteration": 0, "host": "here", "study": study}


def fit(key, status, **changes):
    history = [entry(5, select_pixel_ap=0.2), entry(10, select_pixel_ap=0.4, report_pixel_ap=0.3)]
    values = dict(
        key=key, status=status, study="mine", trial=0, configuration=CONFIG.to_dict(),
        digest=CONFIG.digest(), category="wood", seed=0, select_on="holdout",
        inputs={"data": "d" * 64, "weights": "random", "images": IMAGES},
        metrics={"select_pixel_ap": 0.4, "report_pixel_ap": 0.3}, history=history, iteration=10,
        iterations=10, best_iteration=5, seconds=12.0, writing_seconds=0.5, peak_memory_mb=345.0,
        system=[{"time": 95.0, "cpu_utilization_percentage": 50.0},
                {"time": 105.0, "cpu_utilization_percentage": 70.0}],
        sittings=[sitting(changes.get("study", "mine"))],
        environment={"git_sha": "abc", "git_dirty": True}, began=90.0, ended=120.0,
    )  # fmt: skip
    return FitRecord(**{**values, **changes})


def trial(number, state, *keys, **changes):
    values = dict(
        number=number, state=state, drawn={"head_lr": 0.1 * number},
        configuration=CONFIG.to_dict(), digest=f"c{number}",
        cases=tuple(Case("wood", seed, key) for seed, key in enumerate(keys)), budget=20, spent=10,
        began=90.0, ended=120.0,
    )  # fmt: skip
    return TrialRecord(**{**values, **changes})


def make_study(where, name, uri, **changes):
    """A study in which a trial finished, one was stopped, one failed and one is at work."""
    values = dict(
        space="smoke", question="Does it work?", search={}, fixed={}, categories=("wood",),
        seeds=(0, 1), objective="select_pixel_ap", num_trials=4, name=name, storage=str(where),
        tracking_uri=uri,
    )  # fmt: skip
    config = StudyConfig(**{**values, **changes})
    storage = Storage(where)
    folder, ledger = StudyFolder(storage, name), Ledger(storage)
    folder.write_document({"study": config.to_dict(), "inputs": {}})
    for key, seed, ap, sha in (("a0", 0, 0.3, "abc"), ("a1", 1, 0.5, "def")):
        changes = {"seed": seed, "study": name, "environment": {"git_sha": sha, "git_dirty": True}}
        metrics = {"select_pixel_ap": 0.4, "report_pixel_ap": ap}
        ledger.write(fit(key, "finished", metrics=metrics, **changes))
        put(config, key, CHECKPOINT, "worst.png", "curves.csv")
    ledger.write(fit("b0", "stopped", study=name))
    ledger.write(fit("c0", "failed", study=name, error="NonFiniteLoss: it blew up"))
    ledger.write(
        fit("d0", "begun", study=name, ended=None, history=[entry(5, select_pixel_ap=0.2)])
    )
    folder.write_trial(trial(0, "finished", "a0", "a1", value=0.4))
    folder.write_trial(trial(1, "stopped", "b0", "b1"))
    folder.write_trial(trial(2, "failed", "c0", "c1", error="NonFiniteLoss: it blew up"))
    folder.write_trial(trial(3, "begun", "d0", "d1", ended=None))
    return config


def put(config, key, *names):
    """Writes files of a fit."""
    storage = Storage(config.storage)
    for name in names:
        storage.write(f"{Ledger(storage).folder(key)}/{name}", name.encode())


def parts(config):
    storage = Storage(config.storage)
    return StudyFolder(storage, config.name), Ledger(storage)


def runs(config):
    """MLflow's client, and (level, identity) -> run of the study's experiment."""
    mirror = Mirror(config)
    mirror._connect()
    found = mirror.experiment.client.search_runs([mirror.experiment.id])
    by_identity = {(r.data.tags["level"], r.data.tags["identity"]): r for r in found}
    assert len(by_identity) == len(found)  # None is there twice.
    return mirror.experiment.client, by_identity


def artifacts(client, run):
    return {a.path for a in client.list_artifacts(run.info.run_id)}


def points(client, run, key):
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]


def everything(config):
    client, found = runs(config)
    return {
        identity: (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.params,
            {k: v for k, v in run.data.tags.items() if k != "written"},
            {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics},
            sorted(str(d.to_dictionary()) for d in run.inputs.dataset_inputs),
            artifacts(client, run),
        )
        for identity, run in found.items()
    }


def test_processes_that_need_a_database_at_once_make_it_once(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = (
        "import sys, time; from mlflow import MlflowClient\n"
        "from study.mlflow_places import make_database\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "make_database(sys.argv[1])\n"
        "print(MlflowClient(sys.argv[1]).create_experiment(sys.argv[3]))"
    )
    (tmp_path / ".mlflow.db.new").write_bytes(b"of one that was killed")
    begin = str(time.time() + 15)  # When all have imported MLflow.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, begin, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b", "c")
    ]
    ids = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert sorted(ids) == ["1", "2", "3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def check_full_study(study):
    """Writes the study of `make_study` and looks at all that a store may do differently."""
    assert Mirror(study).sync(live=True) == 10
    client, found = runs(study)
    top, middle = found["study", study.name], found["configuration", "c0"]
    leaf = found["fit", "a0"]
    assert middle.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert leaf.data.tags["mlflow.parentRunId"] == middle.info.run_id
    assert len(found) == 1 + 4 + 5
    names = [run.info.run_name for run in (top, middle, leaf)]
    assert names == [study.name, "trial-000", "wood-seed0 trial-000"]
    description = top.data.tags["mlflow.note.content"]
    assert description.startswith(f"**{study.question}**")
    assert "Best of 1 finished: trial 0" in description
    experiment = client.get_experiment(top.info.experiment_id)
    assert experiment.tags["mlflow.note.content"] == study.question
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert top.data.tags["mlflow.source.name"] == "study/run.py"
    for run in (top, middle, leaf):
        assert "`report_` metrics of the other half" in run.data.tags["mlflow.note.content"]

    assert leaf.data.params["image_size"] == "64"
    assert leaf.data.params["gradient_clip"] == "null"
    assert points(client, leaf, "select_pixel_ap") == [(5, 0.2), (10, 0.4)]
    assert points(client, leaf, "system/cpu_utilization_percentage") == [(5, 50.0), (15, 70.0)]
    assert len(points(client, middle, "report_pixel_ap_mean")) == 1
    expected = {"report_pixel_ap": 0.3, "seconds": 12.0, "writing_seconds": 0.5}
    assert expected.items() <= leaf.data.metrics.items()
    assert leaf.data.metrics["peak_memory_mb"] == 345.0
    expected = {
        "fit_key": "a0", "configuration": CONFIG.digest(), "category": "wood", "seed": "0",
        "select_on": "holdout", "encoder": "random", "stopped_early": "false", "git_sha": "abc",
        "git_dirty": "true", "study": study.name, "sittings": "1", "checkpoint": "last",
        "checkpoint_iteration": "10",
    }  # fmt: skip
    assert expected.items() <= leaf.data.tags.items()
    assert artifacts(client, leaf) == {"config.json", CHECKPOINT, "worst.png", "curves.csv"}
    inputs = {
        d.tags[0].value: (d.dataset.name, d.dataset.digest, json.loads(d.dataset.profile))
        for d in leaf.inputs.dataset_inputs
    }
    assert len(leaf.inputs.dataset_inputs) == 3
    assert inputs.keys() == IMAGES.keys()
    name, digest, profile = inputs["report"]
    assert (name, digest) == ("synthetic/wood@64/report", "d" * 36)
    assert profile == {"num_images": 5, "protocol": "holdout"}

    assert middle.data.tags["git_sha"] == top.data.tags["git_sha"] == "abc,def"
    assert found["configuration", "c1"].data.tags["git_sha"] == "abc"
    assert middle.data.metrics["cases"] == 2
    assert middle.data.metrics["objective"] == 0.4
    assert middle.data.metrics["report_pixel_ap_mean"] == pytest.approx(0.4)
    assert middle.data.metrics["report_pixel_ap_worst"] == 0.3
    assert middle.data.metrics["report_pixel_ap_std"] == pytest.approx(0.141421, abs=1e-6)
    assert top.data.metrics == {
        "best_objective": 0.4, "finished_trials": 1, "stopped_trials": 1, "failed_trials": 1,
        "budget_iterations": 60, "spent_iterations": 30,
    }  # fmt: skip
    assert artifacts(client, top) == {"study.json", "results.csv"}
    assert json.loads(top.data.params["seeds"]) == [0, 1]

    Mirror(study).sync(live=False)
    before = everything(study)
    assert Mirror(study).sync(live=False) == 0
    # As if no run had been marked as written.
    client, found = runs(study)
    for run in found.values():
        client.set_tag(run.info.run_id, "written", "")
    assert Mirror(study).sync(live=False) == 10
    assert everything(study) == before


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One database for all, because making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def study(tmp_path, database):
    return make_study(tmp_path, tmp_path.name.replace("_", "-"), database)


def test_runs_are_nested_and_carry_what_the_ledger_says(study):
    check_full_study(study)


def test_every_run_has_the_status_of_what_it_stands_for(study):
    Mirror(study).sync(live=True)
    statuses = {identity: run.info.status for identity, run in runs(study)[1].items()}
    assert statuses == {
        ("study", study.name): "RUNNING",
        ("configuration", "c0"): "FINISHED",
        ("fit", "a0"): "FINISHED",
        ("fit", "a1"): "FINISHED",
        ("configuration", "c1"): "KILLED",
        ("fit", "b0"): "KILLED",
        ("configuration", "c2"): "FAILED",
        ("fit", "c0"): "FAILED",
        ("configuration", "c3"): "RUNNING",
        ("fit", "d0"): "RUNNING",
    }
    # The driver was killed; what it left is ended by whoever writes next.
    assert Mirror(study).sync(live=False) == 3
    assert "RUNNING" not in {run.info.status for run in runs(study)[1].values()}


def test_writing_twice_changes_nothing(study):
    mirror = Mirror(study)
    assert mirror.sync(live=False) == 10
    before = everything(study)
    assert mirror.sync(live=False) == 0
    assert Mirror(study).sync(live=False) == 0
    assert everything(study) == before


def test_a_writer_rests_for_what_it_computes_and_not_for_what_it_waits(study):
    rests, began = [], (time.thread_time(), time.perf_counter())
    Mirror(study, rest=rests.append).sync(live=True)
    computed, took = time.thread_time() - began[0], time.perf_counter() - began[1]
    # The database waits for its disk.
    assert 0 < sum(rests) <= computed < took


def test_a_sync_after_the_end_of_a_study_writes_nothing(study):
    folder, _ = parts(study)
    driver = Mirror(study)
    driver.sync(live=True)
    # Meanwhile trials are counted, in a document that the mirror has read.
    folder.write_document({**folder.read_document(), "trials": 4, "lost": [2]})
    assert driver.sync(live=False) > 0
    assert Mirror(study).sync(live=False) == 0
    client, found = runs(study)
    text = client.download_artifacts(found["study", study.name].info.run_id, "study.json")
    assert json.loads(Path(text).read_text()).keys() == {"study", "inputs"}


def test_a_writer_that_dies_half_way_is_completed_by_the_next(study):
    Mirror(study).sync(live=False)
    complete = everything(study)
    client, found = runs(study)
    # As if the mark at the end had not been written, and one run not been made.
    for run in found.values():
        client.set_tag(run.info.run_id, "written", "")
    client.delete_run(found["fit", "b0"].info.run_id)
    Mirror(study).sync(live=False)
    again = everything(study)
    assert again.keys() == complete.keys()
    for identity in complete.keys() - {("fit", "b0")}:
        assert again[identity] == complete[identity]


def test_a_run_that_was_created_twice_is_there_once(study):
    mirror = Mirror(study)
    mirror.sync(live=False)
    before = everything(study)
    # As a request does whose answer was lost.
    tags = {"level": "fit", "identity": "a0", "study": study.name}
    mirror.experiment.client.create_run(mirror.experiment.id, tags=tags)
    Mirror(study).sync(live=False)
    assert everything(study) == before


def test_an_experiment_that_was_deleted_is_there_again(study):
    mirror = Mirror(study)
    mirror.sync(live=False)
    before = everything(study)
    mirror.experiment.client.delete_experiment(mirror.experiment.id)
    Mirror(study).sync(live=False)
    assert everything(study) == before


def test_a_fit_that_goes_on_after_a_kill_stays_one_run(study):
    folder, ledger = parts(study)
    error = "RuntimeError: the machine failed"
    ledger.write(dataclasses.replace(ledger.read("d0"), error=error))
    Mirror(study).sync(live=False)
    killed = runs(study)[1]["fit", "d0"]
    assert killed.info.status == "FAILED"
    assert killed.data.tags["error"] == error
    ledger.write(fit("d0", "finished", study=study.name, notes=["one", "two"]))
    ledger.write(fit("d1", "finished", study=study.name, seed=1))
    folder.write_trial(trial(3, "finished", "d0", "d1", value=0.5))
    Mirror(study).sync(live=False)
    client, found = runs(study)
    resumed = found["fit", "d0"]
    assert resumed.info.run_id == killed.info.run_id
    assert resumed.info.status == "FINISHED"
    assert "error" not in resumed.data.tags
    description = resumed.data.tags["mlflow.note.content"]
    assert "trained on wood with seed 0" in description
    assert description.endswith("\n\n- one\n\n- two")
    assert [step for step, _ in points(client, resumed, "select_pixel_ap")] == [5, 10]
    assert found["study", study.name].info.status == "FINISHED"


def test_a_fit_of_another_study_gets_a_run_without_its_files(study):
    parts(study)[1].write(fit("d0", "finished", study="elder"))
    put(study, "d0", CHECKPOINT, "worst.png")
    Mirror(study).sync(live=False)
    client, found = runs(study)
    reused = found["fit", "d0"]
    assert reused.data.tags["reused_from"] == "elder"
    assert points(client, reused, "select_pixel_ap") == [(10, 0.4)]
    assert not [key for key in reused.data.metrics if key.startswith("system/")]
    assert artifacts(client, reused) == {"config.json"}


def test_a_fit_that_another_study_has_taken_up_is_not_left_running(study):
    Mirror(study).sync(live=True)
    assert runs(study)[1]["fit", "d0"].info.status == "RUNNING"
    parts(study)[1].write(fit("d0", "begun", study="other", ended=None))
    Mirror(study).sync(live=False)
    assert runs(study)[1]["fit", "d0"].info.status == "KILLED"


def test_a_fit_of_a_trial_that_is_decided_is_not_left_running(study):
    parts(study)[0].write_trial(trial(3, "failed", "d0", "d1", error="its worker died"))
    Mirror(study).sync(live=True)
    assert runs(study)[1]["fit", "d0"].info.status == "KILLED"


@pytest.mark.parametrize(
    ("asked", "kept", "logged"),
    [
        ("none", {CHECKPOINT, BEST_CHECKPOINT}, ("none", None, set())),
        ("last", {CHECKPOINT, BEST_CHECKPOINT}, ("last", "10", {CHECKPOINT})),
        ("best", {CHECKPOINT, BEST_CHECKPOINT}, ("best", "5", {BEST_CHECKPOINT})),
        ("best", {CHECKPOINT}, ("last", "10", {CHECKPOINT})),
    ],
)
def test_the_checkpoint_that_was_asked_for_is_in_mlflow(study, asked, kept, logged):
    put(study, "a0", *kept)
    Mirror(dataclasses.replace(study, log_checkpoints=asked)).sync(live=False)
    client, found = runs(study)
    tags = found["fit", "a0"].data.tags
    names = artifacts(client, found["fit", "a0"]) & {CHECKPOINT, BEST_CHECKPOINT}
    assert (tags["checkpoint"], tags.get("checkpoint_iteration"), names) == logged


def test_a_configuration_of_a_grid_is_one_run_over_its_trials(tmp_path, database):
    name = tmp_path.name.replace("_", "-")
    grid = make_study(tmp_path, name, database, cells={"only": {"image_size": 64}})
    folder, _ = parts(grid)
    for number, key, seed in ((0, "a0", 0), (1, "a1", 1)):
        changes = {"cases": (Case("wood", seed, key),), "digest": "cell"}
        state, value = ("finished", 0.4 + seed / 10) if seed == 0 else ("begun", None)
        folder.write_trial(trial(number, state, value=value, **changes))
    for number in (2, 3):
        folder.write_trial(trial(number, "retired", f"r{number}"))
    mirror = Mirror(grid)
    mirror.sync(live=True)
    cell = runs(grid)[1]["configuration", "cell"]
    assert cell.info.status == "RUNNING"
    assert cell.data.metrics["cases"] == 2
    assert "objective" not in cell.data.metrics

    folder.write_trial(
        trial(1, "finished", value=0.5, cases=(Case("wood", 1, "a1"),), digest="cell", ended=130.0)
    )
    mirror.sync(live=False)
    client, found = runs(grid)
    cell = found["configuration", "cell"]
    assert cell.info.status == "FINISHED"
    assert cell.data.tags["trials"] == "0,1"
    assert cell.data.metrics["objective"] == pytest.approx(0.45)
    assert cell.data.metrics["report_pixel_ap_worst"] == 0.3
    assert found.keys() == {
        ("study", name), ("configuration", "cell"), ("fit", "a0"), ("fit", "a1")
    }  # fmt: skip
    assert found["study", name].info.status == "FINISHED"
    assert found["study", name].data.metrics["finished_trials"] == 2
    path = client.download_artifacts(found["study", name].info.run_id, "results.csv", tmp_path)
    rows = Path(path).read_text().splitlines()
    assert rows[0].startswith("configuration,trial,state,head_lr,objective,")
    assert len(rows) == 2


def test_a_grid_that_lacks_a_case_of_a_cell_is_not_finished(tmp_path, database):
    name = tmp_path.name.replace("_", "-")
    # Two names of one configuration, which is done once.
    cells = {"one": {"image_size": 64}, "same": {"image_size": 64}}
    grid = make_study(tmp_path, name, database, cells=cells)
    folder, _ = parts(grid)
    first = {"cases": (Case("wood", 0, "a0"),), "digest": "cell"}
    folder.write_trial(trial(0, "finished", value=0.4, **first))
    for number in (1, 2, 3):
        folder.write_trial(trial(number, "retired", f"r{number}"))
    Mirror(grid).sync(live=False)
    assert runs(grid)[1]["study", name].info.status == "KILLED"
    second = {"cases": (Case("wood", 1, "a1"),), "digest": "cell"}
    folder.write_trial(trial(1, "finished", value=0.5, **second))
    Mirror(grid).sync(live=False)
    assert runs(grid)[1]["study", name].info.status == "FINISHED"


def test_an_extended_study_keeps_one_run_and_marks_what_it_left_behind(study):
    Mirror(study).sync(live=True)
    folder, _ = parts(study)
    longer = dataclasses.replace(
        study, question="And now?", categories=("wood", "tile"), seeds=(0,)
    )
    document = {"study": longer.to_dict(), "inputs": {}}
    folder.write_document({**document, "extended": [{"when": 200.0, "differences": ["x"]}]})
    for number, keys in ((0, ["a0", "a1"]), (3, ["d0", "d1"])):
        folder.write_trial(trial(number, "retired", *keys, ended=120.0))
    # The other two are gone through again, so none is decided.
    folder.write_trial(trial(1, "begun", "b0", ended=None))
    folder.write_trial(trial(2, "begun", "c0", ended=None))
    Mirror(longer).sync(live=True)
    _, found = runs(longer)
    top = found["study", study.name]
    assert top.data.params["categories"] == '["wood"]'  # MLflow keeps the first value.
    assert json.loads(top.data.tags["param.categories"]) == ["wood", "tile"]
    assert json.loads(top.data.tags["param.seeds"]) == [0]
    assert top.data.metrics["finished_trials"] == 0
    left = [("configuration", "c0"), ("configuration", "c3"), ("fit", "a0"), ("fit", "d0")]
    for identity in left:
        assert found[identity].info.status == "KILLED"
        assert found[identity].data.tags["retired"] == "true"
    assert "retired" not in found["configuration", "c1"].data.tags
    assert Mirror(longer).sync(live=True) == 0

    # Back to the first question: nothing tells of the other one any more.
    folder.write_document({**document, "extended": [{"when": 200.0}, {"when": 300.0}]})
    folder.write_trial(trial(0, "finished", "a0", "a1", value=0.4))
    Mirror(study).sync(live=True)
    _, found = runs(study)
    assert not [t for t in found["study", study.name].data.tags if t.startswith("param.")]
    assert found["fit", "a0"].info.status == "FINISHED"
    assert "retired" not in found["fit", "a0"].data.tags
    assert found["study", study.name].data.metrics["finished_trials"] == 1


def test_what_cannot_be_read_is_said_and_the_rest_is_written(study, caplog):
    folder, ledger = parts(study)
    folder.write_trial(trial(4, "begun", "e0", ended=None, digest="c4"))
    ledger.write(fit("e0", "begun", study=study.name, ended=None))
    Mirror(study).sync(live=True)
    storage = Storage(study.storage)
    storage.write(f"studies/{study.name}/trials/0004.json", b"{")
    storage.write("ledger/d0/record.json", b"{")
    storage.write(f"studies/{study.name}/trials/0001.json", b"{")
    storage.write(f"studies/{study.name}/study.json", b"{")
    ledger.write(fit("d1", "begun", study=study.name, ended=None, seed=1))
    mirror = Mirror(study)
    mirror.sync(live=False)
    mirror.sync(live=False)
    said = [r.getMessage() for r in caplog.records if r.name == "study.tracking"]
    assert len(said) == 4
    assert [line for line in said if "ledger/d0/record.json" in line]
    _, found = runs(study)
    assert found["fit", "d1"].info.status == "KILLED"
    for identity in (("fit", "d0"), ("fit", "e0"), ("configuration", "c4")):
        assert found[identity].info.status == "KILLED"
    # A trial that cannot be read is not one that was left behind.
    assert "retired" not in found["configuration", "c1"].data.tags


def test_long_values_and_many_of_them_are_cut_to_mlflows_limits(study):
    cells = {f"cell-{i}": {"image_size": 64} for i in range(400)}
    many = [{"time": 91.0 + i, "cpu_utilization_percentage": 1.0 * i} for i in range(1100)]
    knobs = {**CONFIG.to_dict(), **{f"knob_{i}": i for i in range(150)}}
    _, ledger = parts(study)
    record = ledger.read("a0")
    notes = ["x" * 9000]
    ledger.write(dataclasses.replace(record, system=many, configuration=knobs, notes=notes))
    study = dataclasses.replace(study, cells=cells)
    Mirror(study).sync(live=False)
    assert Mirror(study).sync(live=False) == 0
    client, found = runs(study)
    leaf = found["fit", "a0"]
    assert len(leaf.data.params) == len(knobs)
    assert len(leaf.data.tags["mlflow.note.content"]) == 5000
    assert len(points(client, leaf, "system/cpu_utilization_percentage")) == 1100
    assert len(found["study", study.name].data.params["cells"]) == 6000


def test_a_server_that_is_away_costs_nothing_but_delay(study, tmp_path):
    away = dataclasses.replace(study, tracking_uri="http://127.0.0.1:9")
    writer = Background(away, tmp_path / "optuna.journal", seconds=0.1)
    writer.start()
    writer.finish(timeout=60)
    assert "127.0.0.1" in writer.unwritten
    assert "\n" not in writer.unwritten
    # When it is back, everything is written.
    assert Mirror(study).sync(live=False) == 10


def test_a_writer_that_is_given_up_leaves_the_rest_to_whoever_has_the_study(study, tmp_path):
    writer = Background(study, tmp_path / "optuna.journal")
    writer.start()
    writer.finish(timeout=0)
    assert writer.unwritten == "not finished within 0 s"
    writer._thread.join(60)
    assert not writer._thread.is_alive()
    assert len(runs(study)[1]) < 10
    Mirror(study).sync(live=False)
    assert len(runs(study)[1]) == 10


def test_four_fits_at_once_lose_no_point_and_write_none_twice(study):
    folder, ledger = parts(study)
    keys, rounds = ["p0", "p1", "p2", "p3"], 25
    synced_once = threading.Event()
    for number, key in enumerate(keys):
        folder.write_trial(trial(10 + number, "begun", key, ended=None))

    def work(key):
        record = fit(key, "begun", study=study.name, ended=None, history=[], system=[], iteration=0)
        for step in range(1, rounds + 1):
            entries = [*record.history, entry(step, select_pixel_ap=step / 100)]
            sample = {"time": 90.0 + step, "cpu_utilization_percentage": 1.0 * step}
            record = dataclasses.replace(
                record, history=entries, iteration=step, system=[*record.system, sample]
            )
            ledger.write(record)
            time.sleep(0.05)
            if step == rounds // 2:  # However slow the machine, a second look falls among the rest.
                synced_once.wait(60)
        ledger.write(dataclasses.replace(record, status="finished", ended=200.0))

    mirror = Mirror(study)
    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    synced = 0
    while any(thread.is_alive() for thread in threads):
        mirror.sync(live=True)
        synced += 1
        synced_once.set()
    for number, key in enumerate(keys):
        folder.write_trial(trial(10 + number, "finished", key, value=0.25))
    mirror.sync(live=False)
    assert synced >= 2
    client, found = runs(study)
    for key in keys:
        run = found["fit", key]
        assert run.info.status == "FINISHED"
        expected = [(step, step / 100) for step in range(1, rounds + 1)]
        assert points(client, run, "select_pixel_ap") == expected
        assert points(client, run, "loss") == [(s, 1 / s) for s in range(1, rounds + 1)]
        samples = points(client, run, "system/cpu_utilization_percentage")
        assert samples == [(s, 1.0 * s) for s in range(1, rounds + 1)]
        assert len(points(client, run, "seconds")) == 1


def test_a_study_on_an_object_store_is_written_too(bucket, tmp_path, database, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow's files are kept there.
    study = make_study(f"{bucket}/tracking", "on-s3", database)
    Mirror(study).sync(live=False)
    client, found = runs(study)
    names = artifacts(client, found["fit", "a0"])
    assert names == {"config.json", CHECKPOINT, "worst.png", "curves.csv"}
    assert artifacts(client, found["study", "on-s3"]) == {"study.json", "results.csv"}


def test_studies_of_one_name_on_two_storages_do_not_take_each_others_runs(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    configs = [make_study(tmp_path / where, "mine", uri) for where in ("a", "b")]
    for number, config in enumerate(configs):
        folder, _ = parts(config)
        folder.write_document({**folder.read_document(), "id": f"{number}" * 32})
    for _ in range(2):
        for config in configs:
            Mirror(config).sync(live=True)
    (client, first), (_, second) = (runs(config) for config in configs)
    assert first.keys() == second.keys()
    ids = {run.info.experiment_id for run in (*first.values(), *second.values())}
    assert sorted(client.get_experiment(i).name for i in ids) == ["mine", "mine (11111111)"]
    for found in (first, second):
        assert found["fit", "d0"].info.status == "RUNNING"
        assert "retired" not in found["fit", "d0"].data.tags
    assert Mirror(configs[1]).sync(live=True) == 0
    # Where the document is lost, the ledger says whose runs are whose.
    folder, before = parts(configs[1])[0], everything(configs[0])
    folder.keep_study_id("1" * 32)
    folder.storage.write(f"{folder.path}/study.json", b"{")
    Mirror(configs[1]).sync(live=False)
    assert everything(configs[0]) == before
    assert {r.info.experiment_id for r in runs(configs[1])[1].values()} < ids
    assert len(client.search_experiments()) == 1 + 2  # and MLflow's default one


def test_what_another_study_finished_of_a_stopped_trial_is_not_its_result(tmp_path):
    config = make_study(tmp_path, "mine", f"sqlite:///{tmp_path}/mlflow.db")
    Mirror(config).sync(live=False)
    _, ledger = parts(config)
    sittings = [sitting("mine"), sitting("other")]
    ledger.write(fit("b0", "finished", study="other", sittings=sittings, ended=500.0))
    Mirror(config).sync(live=False)
    _, found = runs(config)
    run = found["fit", "b0"]
    assert run.info.status == "KILLED"
    assert run.data.tags["stopped_early"] == "true"
    assert "reused_from" not in run.data.tags
    assert "cases" not in found["configuration", "c1"].data.metrics


def test_what_others_finished_of_cases_that_no_trial_came_to_is_left_behind(study):
    folder, ledger = parts(study)
    ledger.write(fit("d0", "finished", study=study.name))
    ledger.write(fit("d1", "finished", study="other", seed=1))
    Mirror(study).sync(live=True)
    _, found = runs(study)
    assert found["fit", "d1"].data.tags["reused_from"] == "other"
    # The worker's clock is ahead of the driver's, by which the trial ended before its fit.
    ledger.write(fit("d0", "finished", study=study.name, ended=180.0))
    folder.write_trial(trial(3, "stopped", "d0", "d1", intermediate={1: 0.4}))
    Mirror(study).sync(live=False)
    _, found = runs(study)
    assert found["fit", "d0"].info.status == "FINISHED"
    assert found["fit", "d1"].data.tags["retired"] == "true"
    assert found["configuration", "c3"].data.metrics["cases"] == 1
    assert Mirror(study).sync(live=False) == 0


def test_what_others_took_over_before_mlflow_was_there_is_told_as_it_was_left(tmp_path, database):
    def told(study):
        return {
            key: (
                *run[1:4],
                {k: v for k, v in run[4].items() if k not in ("study", "mlflow.parentRunId")},
                {k: [(m.value, m.step, m.timestamp) for m in line] for k, line in run[5].items()},
                *run[6:],
            )
            for (level, key), run in everything(study).items()
            if level == "fit"
        }

    present, absent = (
        make_study(tmp_path / name, f"{name}-{tmp_path.name.replace('_', '-')}", database)
        for name in ("present", "absent")
    )
    Mirror(present).sync(live=False)
    for study in (present, absent):
        _, ledger = parts(study)
        for key, status in (("b0", "finished"), ("c0", "begun"), ("d0", "begun")):
            mine = ledger.read(key)
            ledger.leave(mine)
            sittings = [*mine.sittings, sitting("other")]
            changes = {"study": "other", "sittings": sittings, "ended": 200.0}
            ledger.write(dataclasses.replace(fit(key, status), **changes))
        put(study, "b0", CHECKPOINT, "worst.png")
        Mirror(study).sync(live=False)
    assert told(absent) == told(present)
    assert told(absent).keys() == {"a0", "a1", "b0", "c0", "d0"}
    _, found = runs(absent)
    statuses = {key: found["fit", key].info.status for key in ("b0", "c0", "d0")}
    assert statuses == {"b0": "KILLED", "c0": "FAILED", "d0": "KILLED"}
    assert Mirror(absent).sync(live=False) == 0


def test_a_fit_that_was_taken_over_before_it_was_marked_ends_with_its_trial(study):
    folder, ledger = parts(study)
    ledger.leave(ledger.read("d0"))
    sittings = [sitting(study.name), sitting("other")]
    ledger.write(fit("d0", "begun", study="other", sittings=sittings))
    folder.write_trial(trial(3, "failed", "d0", "d1", error="its worker died"))
    Mirror(study).sync(live=True)
    run = runs(study)[1]["fit", "d0"]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "its worker died")
    assert run.info.end_time == 120_000
