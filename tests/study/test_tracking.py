"""What MLflow holds of a study, on a real SQLite store."""

import dataclasses

import pytest

from ffcad.config import TrainConfig
from study.arguments import parse
from study.background import BackgroundMirror
from study.ledger import FitRecord, Ledger
from study.tracking import Mirror
from study.trials import Case, StudyFolder, TrialRecord

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(image_size=64)


def entry(iteration, **metrics):
    return {
        "iteration": iteration,
        "stage": "head",
        "loss": 1 / iteration,
        "time": 100.0,
        **metrics,
    }


def fit(key, status, **changes):
    history = [entry(5, select_pixel_ap=0.2), entry(10, select_pixel_ap=0.4, report_pixel_ap=0.3)]
    values = dict(
        key=key, status=status, study="mine", configuration=CONFIG.to_dict(),
        digest=CONFIG.digest(), category="wood", seed=0, select_on="holdout", inputs={},
        metrics={"select_pixel_ap": 0.4, "report_pixel_ap": 0.3}, history=history, iteration=10,
        iterations=10, seconds=12.0, peak_memory_mb=345.0, environment={"git_sha": "abc"},
        began=90.0, ended=110.0,
    )  # fmt: skip
    return FitRecord(**{**values, **changes})


def trial(number, state, *keys, **changes):
    values = dict(
        number=number, state=state, drawn={}, configuration=CONFIG.to_dict(), digest=f"c{number}",
        cases=tuple(Case("wood", seed, key) for seed, key in enumerate(keys)), began=90.0,
        ended=110.0,
    )  # fmt: skip
    return TrialRecord(**{**values, **changes})


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One database for all, because making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def study(tmp_path, database):
    """A study in which a trial finished, one was stopped, one failed and one is at work."""
    name = tmp_path.name.replace("_", "-")
    flags = ["--storage", str(tmp_path), "--study", name, "--tracking-uri", database]
    config, _ = parse([*flags, "--seeds", "0,1", "--num-trials", "4"])
    folder, ledger = StudyFolder(tmp_path, name), Ledger(tmp_path)
    folder.write_document({"study": config.to_dict(), "inputs": {}})
    for key, seed, ap in (("a0", 0, 0.3), ("a1", 1, 0.5)):
        metrics = {"select_pixel_ap": 0.4, "report_pixel_ap": ap}
        ledger.write(fit(key, "finished", seed=seed, metrics=metrics, study=name))
        ledger.checkpoint(key).write_bytes(b"weights")
        ledger.pictures(key)["worst"].write_bytes(b"picture")
    ledger.write(fit("b0", "stopped", study=name))
    ledger.write(fit("c0", "failed", study=name, error="NonFiniteLoss: it blew up"))
    ledger.write(
        fit("d0", "begun", study=name, ended=None, history=[entry(5, select_pixel_ap=0.2)])
    )
    folder.write_trial(trial(0, "finished", "a0", "a1", value=0.4))
    folder.write_trial(trial(1, "stopped", "b0", intermediate={1: 0.2}))
    folder.write_trial(trial(2, "failed", "c0", error="NonFiniteLoss: it blew up"))
    folder.write_trial(trial(3, "begun", "d0", "d1", ended=None))
    return config


def runs(config):
    """(level, identity) -> run, of the study's experiment."""
    mirror = Mirror(config)
    mirror._connect()
    found = mirror.client.search_runs([mirror.experiment])
    return mirror.client, {(r.data.tags["level"], r.data.tags["identity"]): r for r in found}


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
        )
        for identity, run in found.items()
    }


def test_runs_are_nested_and_carry_what_the_ledger_says(study):
    Mirror(study).sync(live=True)
    client, found = runs(study)
    top = found["study", study.name]
    middle = found["configuration", "c0"]
    leaf = found["fit", "a0"]
    assert middle.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert leaf.data.tags["mlflow.parentRunId"] == middle.info.run_id
    assert len(found) == 1 + 4 + 5

    assert leaf.data.params["image_size"] == "64"
    assert leaf.data.params["gradient_clip"] == "null"
    history = client.get_metric_history(leaf.info.run_id, "select_pixel_ap")
    assert [(m.step, m.value) for m in history] == [(5, 0.2), (10, 0.4)]
    assert leaf.data.metrics["report_pixel_ap"] == 0.3
    assert leaf.data.metrics["seconds"] == 12.0
    assert leaf.data.metrics["peak_memory_mb"] == 345.0
    expected = {
        "fit_key": "a0", "configuration": CONFIG.digest(), "category": "wood", "seed": "0",
        "select_on": "holdout", "encoder": "random", "stopped_early": "false", "git_sha": "abc",
        "study": study.name,
    }  # fmt: skip
    assert expected.items() <= leaf.data.tags.items()
    names = {a.path for a in client.list_artifacts(leaf.info.run_id)}
    assert names == {"config.json", "checkpoint.pt", "worst.png"}

    assert middle.data.metrics["cases"] == 2
    assert middle.data.metrics["report_pixel_ap_mean"] == pytest.approx(0.4)
    assert middle.data.metrics["report_pixel_ap_worst"] == 0.3
    assert middle.data.metrics["report_pixel_ap_std"] == pytest.approx(0.141421, abs=1e-6)
    assert top.data.metrics["best_objective"] == 0.4


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
    Mirror(study).sync(live=False)
    assert "RUNNING" not in {run.info.status for run in runs(study)[1].values()}


def test_writing_twice_changes_nothing(study):
    mirror = Mirror(study)
    assert mirror.sync(live=False) == 10
    before = everything(study)
    assert mirror.sync(live=False) == 0
    assert Mirror(study).sync(live=False) == 0
    assert everything(study) == before


def test_a_writer_that_dies_half_way_is_completed_by_the_next(study):
    before = Mirror(study)
    before.sync(live=False)
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


def test_a_fit_that_goes_on_after_a_kill_stays_one_run(study):
    Mirror(study).sync(live=False)
    killed = runs(study)[1]["fit", "d0"]
    assert killed.info.status == "KILLED"
    ledger = Ledger(study.storage)
    ledger.write(fit("d0", "finished", study=study.name))
    ledger.write(fit("d1", "finished", study=study.name, seed=1))
    folder = StudyFolder(study.storage, study.name)
    folder.write_trial(trial(3, "finished", "d0", "d1", value=0.5))
    Mirror(study).sync(live=False)
    client, found = runs(study)
    resumed = found["fit", "d0"]
    assert resumed.info.run_id == killed.info.run_id
    assert resumed.info.status == "FINISHED"
    history = client.get_metric_history(resumed.info.run_id, "select_pixel_ap")
    assert [m.step for m in history] == [5, 10]
    assert found["study", study.name].info.status == "FINISHED"


def test_a_fit_of_another_study_gets_a_run_without_its_files(study):
    ledger = Ledger(study.storage)
    ledger.write(fit("d0", "finished", study="elder"))
    ledger.checkpoint("d0").write_bytes(b"weights")
    Mirror(study).sync(live=False)
    client, found = runs(study)
    reused = found["fit", "d0"]
    assert reused.data.tags["reused_from"] == "elder"
    history = client.get_metric_history(reused.info.run_id, "select_pixel_ap")
    assert [m.step for m in history] == [10]
    assert [a.path for a in client.list_artifacts(reused.info.run_id)] == ["config.json"]


def test_checkpoints_stay_out_of_mlflow_where_asked(study):
    Mirror(dataclasses.replace(study, log_checkpoints="none")).sync(live=False)
    client, found = runs(study)
    names = {a.path for a in client.list_artifacts(found["fit", "a0"].info.run_id)}
    assert names == {"config.json", "worst.png"}


def test_a_server_that_is_away_costs_nothing_but_delay(study):
    away = dataclasses.replace(study, tracking_uri="http://127.0.0.1:9")
    writer = BackgroundMirror(away, seconds=0.1)
    writer.start()
    reason = writer.finish(timeout=60)
    assert "127.0.0.1" in reason
    assert "\n" not in reason
    # When it is back, everything is written.
    assert Mirror(study).sync(live=False) == 10
