"""What MLflow holds of a study, on a server over HTTP and on PostgreSQL."""

import dataclasses
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from test_tracking import check_full_study, entry, everything, fit, make_study, parts, points
from test_tracking import runs as runs_of
from test_tracking import trial as trial_of

from study.background import Background
from study.ledger import CHECKPOINT
from study.tracking import Mirror

pytestmark = pytest.mark.slow

START_SECONDS = 120.0
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(what, condition, seconds=START_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)


class Server:
    """`mlflow server` with a SQLite store and artifacts that go through it."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
            str(self.port), "--workers", "1", "--backend-store-uri",
            f"sqlite:///{self.folder / 'mlflow.db'}", "--serve-artifacts",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        wait_for("answer of the MLflow server", self.answers)

    def answers(self):
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


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


@pytest.fixture(scope="module")
def postgres():
    """URI of a database of a PostgreSQL server that is there for these tests alone."""
    if not POSTGRES:
        pytest.skip("no /usr/lib/postgresql/*/bin/pg_ctl; apt-get install postgresql")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed; pip install psycopg2-binary")
    user = {}
    # The server refuses to run as root, and pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="ffcad-postgres-"))
    if os.getuid() == 0:
        if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    binaries, port = POSTGRES[-1].parent, free_port()

    def run(program, *arguments):
        log = folder / f"{program}.log"
        with open(log, "a") as output:
            done = subprocess.run(
                [str(binaries / program), "-D", str(folder / "data"), *arguments],
                cwd=folder, stdout=output, stderr=subprocess.STDOUT, timeout=START_SECONDS, **user,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()[-2000:]

    try:
        run("initdb", "-A", "trust", "-U", "mlflow", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
        run("pg_ctl", "-w", "-l", str(folder / "server.log"), "-o", options, "start")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


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
