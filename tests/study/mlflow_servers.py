"""Servers that tests start for themselves: MLflow's over HTTP, and PostgreSQL."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

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


@contextmanager
def postgres_server():
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
