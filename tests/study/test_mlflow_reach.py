"""Whether MLflow can be used from here, asked of small servers on loopback."""

import base64
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from study.mlflow_places import without_login
from study.mlflow_reach import PATH, _refusal, mlflow_fault

LOGIN = "Basic " + base64.b64encode(b"study:secret").decode()


class Server(ThreadingHTTPServer):
    """Answers as MLflow's server with users does, by the name 127.0.0.1 alone.

    Attributes:
        answer: status, kind and text of every answer, where all are alike.
        asked: paths that came in.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked = None, []

    @property
    def place(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, kind, text = self.server.answer or self._like_mlflow()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _like_mlflow(self):
        if self.headers["Host"] != self.server.place:
            said = "Invalid Host header - possible DNS rebinding attack detected"
            return 403, "text/plain", said
        if self.headers.get("Authorization") != LOGIN:
            return 401, "text/html", "You are not authenticated."
        return 200, "application/json", "{}"

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No user, password or token of whoever runs the tests, and no proxy on the way."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture
def login(monkeypatch):
    def set_variables(password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "study")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return set_variables


def test_a_server_that_answers_has_no_fault(server, login):
    login("secret")
    assert mlflow_fault(f"http://{server.place}") is None
    assert mlflow_fault(f"http://{server.place}/") is None
    assert server.asked == [PATH] * 2


def test_a_wrong_password_is_told_from_none(server, login):
    fault = mlflow_fault(f"http://{server.place}")
    assert fault.startswith(f"MLflow at {server.place} asks for user and password (401 ")
    login("guessed")
    fault = mlflow_fault(f"http://{server.place}")
    assert fault.startswith(f"MLflow at {server.place} refuses user or password (401 ")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in fault
    assert "guessed" not in fault


def test_user_and_password_of_the_uri_count_and_are_not_said(server):
    assert mlflow_fault(f"http://study:secret@{server.place}") is None
    fault = mlflow_fault(f"http://study:guessed@{server.place}")
    assert "refuses user or password" in fault
    assert "guessed" not in fault


def test_a_name_that_the_server_does_not_know_is_named(server, login):
    login("secret")
    fault = mlflow_fault(f"http://localhost:{server.server_port}")
    assert fault.startswith(
        f"MLflow at localhost:{server.server_port} refuses to be asked by this name (403 "
    )
    assert (
        f"add localhost:{server.server_port} to the server's MLFLOW_SERVER_ALLOWED_HOSTS" in fault
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "text/plain", "Permission denied"), "answers 403 Forbidden: Permission denied"),
        ((404, "text/html", "<p>no such\npage"), "answers 404 Not Found: <p>no such page"),
        # With no second attempt, for which a node that is asked has no time.
        ((503, "text/plain", ""), "answers 503 Service Unavailable: nothing else"),
        ((200, "text/html", "Please log in"), "is not MLflow: Please log in"),
    ],
)
def test_any_other_answer_is_shown(server, answer, said):
    server.answer = answer
    fault = mlflow_fault(f"http://{server.place}")
    assert fault.endswith(said)
    assert server.place in fault
    assert len(server.asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql+psycopg2"])
def test_where_nobody_listens_the_reason_is_said_and_no_password(scheme):
    with socket.socket() as taken:  # Bound, and nobody listens.
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        fault = mlflow_fault(f"{scheme}://me:secret@{place}/mlflow")
    assert fault == f"MLflow at {place} cannot be reached: Connection refused"


def test_what_speaks_no_http_is_not_reached():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        place = f"127.0.0.1:{server.getsockname()[1]}"

        def hang_up():
            connection, _ = server.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        fault = mlflow_fault(f"http://me:secret@{place}")
        thread.join()
    assert fault.startswith(f"MLflow at {place} cannot be reached: ")
    assert "secret" not in fault


def test_a_database_is_logged_in_to(postgres):
    assert mlflow_fault(postgres) is None
    place = postgres.partition("@")[2].partition("/")[0]
    stranger = postgres.replace("//mlflow@", "//stranger:secret@")
    fault = mlflow_fault(stranger)
    assert fault.startswith(f"MLflow's database at {place} cannot be used: ")
    assert fault.endswith('role "stranger" does not exist')
    assert mlflow_fault(f"{postgres}_of_others").endswith('_of_others" does not exist')


def test_what_is_no_database_is_said_and_a_file_is_not_asked():
    pytest.importorskip("psycopg2")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        place = "{}:{}".format(*server.getsockname())

        def hang_up():
            for _ in range(2):  # The port is tried first.
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        fault = mlflow_fault(f"postgresql+psycopg2://me:secret@{place}/mlflow")
        thread.join()
    assert fault.startswith(f"MLflow's database at {place} cannot be used: ")
    assert "secret" not in fault
    assert mlflow_fault("sqlite:///runs/mlflow.db") is None


@pytest.mark.parametrize("password", ["pa/ssw0rd", "pa#ssw0rd"])
def test_an_address_that_a_password_spoils_is_said_without_it(password):
    said = mlflow_fault(f"http://study:{password}@host:99999")
    assert said.startswith("MLflow's address cannot be read; signs of a password")
    assert "ssw0rd" not in said


def test_a_foreign_name_is_said_as_the_host_header_has_it():
    request = SimpleNamespace(headers={})
    answer = SimpleNamespace(
        status_code=403, reason="Forbidden", ok=False, text="Invalid Host header", request=request
    )
    said = _refusal(answer, "mlflow.example.org:443", "mlflow.example.org")
    assert "add mlflow.example.org to the server's MLFLOW_SERVER_ALLOWED_HOSTS" in said


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://study:s3cret@mlflow:5000", "http://mlflow:5000"),
        ("postgresql://study:s3/cr@et@db/mlflow", "postgresql://db/mlflow"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
    ],
)
def test_addresses_are_shown_without_user_and_password(uri, shown):
    assert without_login(uri) == shown
