"""A cluster on hosts of their own, as a user makes it: `ray up` on a laptop, services elsewhere."""

import importlib.util
import json
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import hosts

ROOT = Path(__file__).parents[2]
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))

WORKERS = ("worker1", "worker2")
STORAGE = f"{hosts.SHARED}/ffcad"
SERVER = f"{hosts.address('services')}:5000"
TRACKING = f"http://{SERVER}"
TOKEN = "0123456789abcdef" * 4
# Of MLflow's admin, who no machine of a study is.
ADMIN, PASSWORD = "admin", "correct-horse-battery"
DATABASE_PASSWORD = "for-these-hosts-alone"
# MLflow's extra for passwords; without it the server is tried without one.
HAS_PASSWORDS = importlib.util.find_spec("flask_wtf") is not None
# What the shells of MLflow's host have.
DATABASE = "postgresql+psycopg2://mlflow@127.0.0.1"
SERVICES = (
    f"export PATH=~/{hosts.ENVIRONMENT}/bin:$PATH MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
    f"PGPASSWORD={DATABASE_PASSWORD} "
    f"MLFLOW_BACKEND_STORE_URI={DATABASE}/mlflow MLFLOW_WORKERS=1 "
    f"MLFLOW_AUTH_DATABASE_URI={DATABASE}/mlflow_auth MLFLOW_LISTEN=0.0.0.0 "
    f"MLFLOW_ARTIFACTS_DESTINATION={hosts.SHARED}/mlartifacts "
    f"MLFLOW_SERVER_ALLOWED_HOSTS={SERVER} MLFLOW_AUTH_ADMIN_PASSWORD={PASSWORD} "
    "MLFLOW_FLASK_SERVER_SECRET_KEY=1f0e"
)
SECONDS = 300.0


def missing() -> str | None:
    """Why no such cluster can be made here, if it cannot."""
    if os.getuid():
        return "only root can make hosts of namespaces"
    if packages := hosts.missing_packages():
        return f"not there: {', '.join(packages)}; apt-get install {' '.join(packages)}"
    if not POSTGRES or "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "no PostgreSQL; apt-get install postgresql"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed; pip install psycopg2-binary"
    return None


def wait_for(what, condition, process=None, seconds=SECONDS):
    """Seconds until a condition holds; the end of a process meanwhile is a failure."""
    began = time.monotonic()
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"no {what}, but an end: {process.communicate()[0][-5000:]}")
        assert time.monotonic() - began < seconds, f"no {what} within {seconds:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - began


class Cluster:
    """The hosts, and what is typed on them.

    Args:
        folder: of their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def up(self) -> None:
        """Makes all of it; prints how long Ray takes."""
        hosts.up(self.folder)
        self._start_postgres()
        server = self.start_mlflow()
        wait_for("answer of MLflow", lambda: "200 OK" in self.mlflow_says("health"), server)
        self._lay_out_laptop(self.folder / "laptop" / "root", self._make_user())
        began = time.monotonic()
        self.user("ray up --yes cluster/local.yaml")
        head = time.monotonic() - began
        wait_for("workers", lambda: len(self.nodes()) == 3)
        print(f"ray up: {head:.0f} s, all workers {time.monotonic() - began:.0f} s")

    def start(self, host, command):
        """Begins a command; its output is one stream."""
        return subprocess.Popen(
            hosts.on(host, command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def type(self, host, command, code=0):
        """Runs a command and gives what it says; `code` is the expected one, None any."""
        process = self.start(host, command)
        output, _ = process.communicate(timeout=SECONDS)
        assert code is None or process.returncode == code, f"{command}\n{output[-5000:]}"
        return output

    def user(self, command):
        """What a user's command says, typed in the repository's folder on the laptop."""
        return self.type("laptop", f"cd ffcad-study && {command}")

    def submit(self, *arguments):
        """Begins `ray submit` of a study."""
        line = ["cd ffcad-study && ray submit cluster/local.yaml study/run.py --", *arguments]
        return self.start("laptop", " ".join(line))

    def fits(self, study):
        """The records of a study's fits, as far as they are written."""
        paths = (self.folder / "shared" / "ffcad" / "ledger").glob("*/record.json")
        records = [json.loads(path.read_text()) for path in paths]
        return {record["key"]: record for record in records if record["study"] == study}

    def begun(self, study):
        """Those that are worked at and have been evaluated."""
        fits = self.fits(study).items()
        return {key: f for key, f in fits if f["status"] == "begun" and f["iteration"]}

    def nodes(self):
        """Hosts that Ray counts as alive."""
        program = "import ray; ray.init(log_to_driver=False); print('nodes', *sorted("
        program += "node['NodeManagerHostname'] for node in ray.nodes() if node['Alive']))"
        output = self.type("head", f'python -c "{program}"')
        [line] = [line for line in output.splitlines() if line.startswith("nodes ")]
        return line.split()[1:]

    def noticed(self, host):
        """When Ray last noticed that a host was lost, epoch in seconds; None where it has not."""
        program = "from ray.util.state import list_nodes; print('noticed', *(node.end_time_ms "
        program += "for node in list_nodes(detail=True) if node.state == 'DEAD' "
        program += f"and node.node_ip == '{hosts.address(host)}'))"
        output = self.type("head", f'python -c "{program}"', None)
        found = [line.split()[1:] for line in output.splitlines() if line.startswith("noticed ")]
        return max((float(time) / 1000 for times in found for time in times), default=None)

    def settings(self, program):
        """The environment of a program of Ray's that runs on the head."""
        command = f"tr '\\0' '\\n' < /proc/$(pgrep -o -x {program})/environ"
        lines = self.type("head", command).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def mlflow_says(self, path, *options):
        """An answer of the MLflow server, with its status."""
        return self.type("laptop", " ".join(["curl -s -i", *options, f"'{TRACKING}/{path}'"]), None)

    def start_mlflow(self):
        """Begins MLflow's server as `cluster/services` has it, before PostgreSQL."""
        for name in ("mlflow.sh", "add_user.py"):
            shutil.copy(ROOT / "cluster/services" / name, self.folder / "services" / "root")
        command = "./mlflow.sh"
        if not HAS_PASSWORDS:
            command = "mlflow server --host 0.0.0.0 --workers 1"
        return self.start("services", f"{SERVICES}; exec {command} >> /tmp/mlflow.log 2>&1")

    def stop_mlflow(self):
        """Ends it without a word, and what it started; PostgreSQL, whose processes have the name of
        its user, stays."""
        self.type("services", r"pkill -KILL -f '[m]lflow server|[m]lflow\.sh|[u]vicorn'", None)
        assert "200 OK" not in self.mlflow_says("health")

    def _make_user(self):
        """The lines of a study's environment that let it write to MLflow's server."""
        if not HAS_PASSWORDS:
            return ""
        command = f"python -W ignore ./add_user.py study --server {TRACKING}"
        output = self.type("services", f"{SERVICES}; {command}")
        return "".join(f"{line}\n" for line in output.splitlines() if line.startswith("export "))

    def _start_postgres(self):
        """A database server that only its own machine reaches."""
        binaries, user = POSTGRES[-1].parent, "runuser -u postgres --"
        shutil.copy(ROOT / "cluster/services/databases.sql", self.folder / "services" / "root")
        self.type(
            "services",
            f"{SERVICES}; install -d -o postgres /tmp/postgres && cd /tmp/postgres && "
            "echo $PGPASSWORD > password && "
            f"{user} {binaries}/initdb -D data -A scram-sha-256 --pwfile=password -U mlflow "
            f"--no-sync -E UTF8 --locale=C && {user} {binaries}/pg_ctl -D data -l log -w start "
            "-o '-c listen_addresses=127.0.0.1 -c fsync=off -k /tmp/postgres' && "
            "createdb -h 127.0.0.1 -U mlflow mlflow && "
            "psql -q -h 127.0.0.1 -U mlflow -v ON_ERROR_STOP=1 mlflow < ~/databases.sql",
        )

    def _lay_out_laptop(self, home, login):
        """What a user has: a clone, an environment, and a cluster file with the own machines.

        Args:
            home: of the user.
            login: the environment's lines for MLflow.
        """
        repository = home / "ffcad-study"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
        (home / ".bashrc").write_text(
            f"export PATH=~/{hosts.ENVIRONMENT}/bin:$PATH RAY_USAGE_STATS_ENABLED=0\n"
            ". ~/.ffcad/environment\n"
        )
        (home / ".ffcad").mkdir()
        (home / ".ffcad" / "environment").write_text(
            f"export FFCAD_STORAGE={STORAGE} MLFLOW_TRACKING_URI={TRACKING}\n{login}"
        )
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(TOKEN)
        file = repository / "cluster" / "local.yaml"
        text = file.read_text()
        # Two trials fit on each worker, on GPUs that are not there: Ray only counts them.
        fake = """ --num-cpus=2 --num-gpus=2 --resources='{"fake_gpus":1}'"""
        for old, new in (
            ("192.168.1.10\n", f"{hosts.address('head')}\n"),
            ("192.168.1.11, 192.168.1.12", ", ".join(map(hosts.address, WORKERS))),
            ("ssh_user: ubuntu", "ssh_user: root"),
            ("--address=$RAY_HEAD_IP:6379", f"--address=$RAY_HEAD_IP:6379{fake}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file.write_text(text)
