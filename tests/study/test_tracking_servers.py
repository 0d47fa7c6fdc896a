"""What MLflow holds of a study, on a server over HTTP and on PostgreSQL."""

import dataclasses
import importlib.util
import threading
from pathlib import Path

import pytest
from mlflow_servers import START_SECONDS, Server, wait_for
from test_tracking import check_full_study, entry, everything, fit, make_study, parts, points
from test_tracking import runs as runs_of
from test_tracking import trial as trial_of

from study.background import Background
from study.ledger import CHECKPOINT
from study.tracking import Mirror

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("mlflow server needs uvicorn, which is not installed")
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def add_trials(study, number, cases):
    """Trials with many points, whose fits are all done."""
    folder, ledger = parts(study)
    history = [entry(step, select_pixel_ap=step / 1000) for step in range(1, 31)]
    for i in range(number):
        keys = [f"m{i}-{case}" for case in range(cases)]
        for key in keys:
            ledger.write(fit(key, "finished", study=study.name, history=history))
        folder.write_trial(trial_of(100 + i, "finished", *keys, value=0.1))


def test_a_server_holds_a_full_study_with_its_files(server, tmp_path):
    study = make_study(tmp_path, "over-http", server.uri)
    check_full_study(study)
    client, found = runs_of(study)
    leaf = found["fit", "a0"]
    assert leaf.info.artifact_uri.startswith("mlflow-artifacts:")
    path = client.download_artifacts(leaf.info.run_id, CHECKPOINT, str(tmp_path))
    assert Path(path).read_text() == CHECKPOINT
    assert not (tmp_path / "mlartifacts").exists()


def test_a_server_that_is_killed_half_way_gets_the_rest_when_it_is_back(server, tmp_path):
    study = make_study(tmp_path, "killed-half-way", server.uri)
    add_trials(study, number=12, cases=2)
    expected = 10 + 12 * 3
    mirror, raised = Mirror(study), []

    def write():
        try:
            mirror.sync(live=True)
        except Exception as e:
            raised.append(e)

    thread = threading.Thread(target=write)
    thread.start()
    # Its own view of MLflow: a request more could meet the server at another moment.
    wait_for("run", lambda: len(mirror.experiment.runs) > expected // 2)
    server.kill()
    thread.join()
    assert raised
    background = Background(study, tmp_path / "optuna.journal", seconds=0.3)
    background.start()
    wait_for("error", lambda: background.error is not None)
    assert "127.0.0.1" in background.error
    server.start()
    # The interrupted writer too: nothing that it remembers may be in the way.
    # The writer rests for 19 times as long as it computes, which adds up.
    wait_for("success", lambda: background.error is None, seconds=4 * START_SECONDS)
    background.finish(timeout=60)
    assert background.unwritten is None

    client, found = runs_of(study)
    assert len(found) == expected
    assert "RUNNING" not in {run.info.status for run in found.values()}
    for i in range(12):
        run = found["fit", f"m{i}-0"]
        steps = [(step, step / 1000) for step in range(1, 31)]
        assert points(client, run, "select_pixel_ap") == steps
        assert len(points(client, run, "system/cpu_utilization_percentage")) == 2
        assert len(run.inputs.dataset_inputs) == 3
    before = everything(study)
    assert mirror.sync(live=False) == 0
    assert Mirror(study).sync(live=False) == 0
    assert everything(study) == before


def test_postgres_holds_a_full_study(postgres, tmp_path):
    study = make_study(tmp_path, "on-postgres", postgres)
    check_full_study(study)


def test_points_that_postgres_has_are_not_written_twice(postgres, tmp_path):
    study = make_study(tmp_path, "points-on-postgres", postgres)
    _, ledger = parts(study)
    record = ledger.read("d0")
    Mirror(study).sync(live=True)
    longer = [*record.history, entry(10, select_pixel_ap=0.3)]
    ledger.write(dataclasses.replace(record, history=longer, iteration=10))
    # Another process does not know what the first one has written.
    Mirror(study).sync(live=True)
    client, found = runs_of(study)
    assert points(client, found["fit", "d0"], "select_pixel_ap") == [(5, 0.2), (10, 0.3)]
