"""MLflow's server as `cluster/services/mlflow.sh` starts it: who gets in, and who does not."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from study.mlflow_reach import mlflow_fault

pytestmark = pytest.mark.slow

SERVICES = Path(__file__).parents[2] / "cluster" / "services"
SCRIPT, ADD_USER = SERVICES / "mlflow.sh", SERVICES / "add_user.py"
PASSWORD = "for-this-test-alone"
SECONDS = 240.0


class Server:
    """`mlflow.sh` on a free port, before SQLite, so that nothing else is needed.

    Args:
        folder: of its files; those that it makes for itself are in `temporary` below it.
    """

    def __init__(self, folder):
        self.folder, self.temporary = folder, folder / "temporary"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
            # Addresses may have such signs.
            "MLFLOW_AUTH_DATABASE_URI": f"sqlite:///{folder / 'users%20.db'}",
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow.example.org,127.0.0.1:{self.port}",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "always the same",
            "MLFLOW_LISTEN_PORT": str(self.port),
        }

    def start(self):
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen(
                [SCRIPT], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + SECONDS
        while status(self.uri, path="/health") != 200:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.3)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def own_files(self):
        """What it keeps for itself beside its databases."""
        return [p for p in self.temporary.iterdir() if p.is_file()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("flask_wtf", reason="pip install -c constraints.txt -e '.[server]'")
    one = Server(tmp_path_factory.mktemp("services"))
    try:
        one.start()
        yield one
    finally:
        one.kill()


def add_user(server, *arguments, **variables):
    """What `add_user.py` prints, as variables; its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ADD_USER, *arguments],
        env={**server.environment, **variables}, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line.removeprefix("export ") for line in done.stdout.splitlines()]
    return dict(line.split("=", 1) for line in lines), done.returncode, done.stderr


@pytest.fixture(scope="module")
def user(server):
    """The environment of a study's machines."""
    variables, code, said = add_user(server, "study")
    assert code == 0, said
    return variables


def status(
    uri,
    *,
    user="admin",
    password=None,
    host=None,
    path="/api/2.0/mlflow/experiments/search?max_results=1",
):
    """What the server answers; 0 where there is none."""
    request = urllib.request.Request(uri + path)
    if password:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


def test_the_password_is_asked_for(server):
    assert status(server.uri) == 401
    assert status(server.uri, password="another") == 401
    assert status(server.uri, password=PASSWORD) == 200


def test_names_that_are_not_listed_are_refused_even_with_the_password(server):
    assert status(server.uri, password=PASSWORD, host="mlflow.example.org") == 200
    assert status(server.uri, password=PASSWORD, host="attacker.example.org") == 403


def test_nodes_are_told_what_the_server_refuses(server, user, monkeypatch):
    monkeypatch.setattr("study.mlflow_reach.ANSWER_SECONDS", SECONDS)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    assert mlflow_fault(server.uri) is None
    by_another_name = mlflow_fault(f"http://localhost:{server.port}")
    assert "refuses to be asked by this name" in by_another_name
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
    assert "refuses user or password" in mlflow_fault(server.uri)
    for name in user:
        monkeypatch.delenv(name)
    assert "asks for user and password" in mlflow_fault(server.uri)


def test_a_studys_user_may_write_and_promote_and_is_no_admin(server, user, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name, value in user.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(server.uri)
    assert client.get_experiment_by_name("mine") is None
    experiment = client.create_experiment("mine", tags={"study_id": "1"})
    assert client.get_experiment_by_name("mine").experiment_id == experiment
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "loss", 0.5)
    client.log_text(run, "text", "note.txt")
    assert [found.info.run_id for found in client.search_runs([experiment])] == [run]
    assert [entry.path for entry in client.list_artifacts(run)] == ["note.txt"]
    # What a promotion asks first must not read like a refusal.
    assert client.search_model_versions("name = 'model'") == []
    with pytest.raises(MlflowException) as missing:
        client.get_registered_model("model")
    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    client.create_registered_model("model")
    source = client.get_run(run).info.artifact_uri
    version = client.create_model_version("model", source, run_id=run).version
    client.set_registered_model_alias("model", "champion", version)
    assert client.get_model_version_by_alias("model", "champion").version == version
    as_user = {
        "MLFLOW_AUTH_ADMIN_USERNAME": user["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": user["MLFLOW_TRACKING_PASSWORD"],
    }
    _, code, said = add_user(server, "another", **as_user)
    assert code == 2
    assert "ermission" in said


def test_what_one_user_has_made_others_read_and_do_not_change(server, user, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name, value in user.items():
        monkeypatch.setenv(name, value)
    experiment = MlflowClient(server.uri).create_experiment("theirs", tags={"study_id": "1"})
    variables, code, said = add_user(server, "reader")
    assert code == 0, said
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(server.uri)
    # By which a study of the same name knows that it needs another one.
    assert client.get_experiment_by_name("theirs").tags["study_id"] == "1"
    with pytest.raises(MlflowException, match="ermission"):
        client.create_run(experiment)


def test_a_user_that_is_there_gets_another_password_when_asked(server):
    first, code, said = add_user(server, "somebody")
    assert code == 0, said
    _, code, said = add_user(server, "somebody")
    assert code == 2
    assert "already exists" in said
    assert "scrypt" not in said
    second, code, said = add_user(server, "somebody", "--anew")
    assert code == 0, said
    login = {"user": "somebody"}
    assert status(server.uri, password=first["MLFLOW_TRACKING_PASSWORD"], **login) == 401
    assert status(server.uri, password=second["MLFLOW_TRACKING_PASSWORD"], **login) == 200


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_no_file_is_left_behind(tmp_path, end):
    pytest.importorskip("flask_wtf", reason="pip install -c constraints.txt -e '.[server]'")
    server = Server(tmp_path)
    try:
        server.start()
        (file,) = server.own_files()
        assert file.stat().st_mode & 0o077 == 0
        assert PASSWORD not in file.read_text()
        server.process.send_signal(end)
        server.process.wait(SECONDS)
        assert server.own_files() == []
        assert status(server.uri, path="/health") == 0
    finally:
        server.kill()


@pytest.mark.parametrize("missing", ["MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_SERVER_ALLOWED_HOSTS"])
def test_nothing_starts_without(missing):
    names = (
        "MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_DATABASE_URI", "MLFLOW_ARTIFACTS_DESTINATION",
        "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    )  # fmt: skip
    environment = {name: "x" for name in names if name != missing} | {"PATH": os.environ["PATH"]}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert missing in done.stderr
