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

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "cluster" / "services" / "mlflow.sh"
PASSWORD = "for-this-test-alone"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its address; before SQLite, so that nothing else is needed."""
    pytest.importorskip("flask_wtf", reason="pip install -c constraints.txt -e '.[server]'")
    folder = tmp_path_factory.mktemp("services")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
        # Passwords in addresses may have such signs.
        "MLFLOW_AUTH_DATABASE_URI": f"sqlite:///{folder / 'users%20.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow.example.org,127.0.0.1:{port}",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "always the same",
        "MLFLOW_LISTEN_PORT": str(port),
        "MLFLOW_WORKERS": "1",
    }
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [SCRIPT], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + 120
        while status(f"http://127.0.0.1:{port}", path="/health") != 200:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status(
    uri, *, password=None, host=None, path="/api/2.0/mlflow/experiments/search?max_results=1"
):
    """What the server answers; 0 where there is none."""
    request = urllib.request.Request(uri + path)
    if password:
        login = base64.b64encode(f"admin:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


def test_the_password_is_asked_for(server):
    assert status(server) == 401
    assert status(server, password="another") == 401
    assert status(server, password=PASSWORD) == 200


def test_names_that_are_not_listed_are_refused_even_with_the_password(server):
    assert status(server, password=PASSWORD, host="mlflow.example.org") == 200
    assert status(server, password=PASSWORD, host="attacker.example.org") == 403


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
