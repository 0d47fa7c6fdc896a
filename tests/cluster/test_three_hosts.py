"""A study on machines that are really separate, by what a user would type, while they are lost.

Takes a quarter of an hour. `python -m pytest -m proof -rP tests/cluster/test_three_hosts.py` shows
the figures, too.
"""

import importlib.util
import json
import os
import pwd
import subprocess
import time
from collections import Counter
from pathlib import Path

import hosts
import pytest

ROOT = Path(__file__).parents[2]
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))

STORAGE = f"{hosts.SHARED}/ffcad"
TRACKING = f"http://{hosts.address('services')}:5000"
WORKERS = ("worker1", "worker2")
SECONDS = 300.0
# Until a fit of a lost machine is gone on with elsewhere, where nobody else has the cores.
MOST_SECONDS = 30.0
EVERY, ITERATIONS = 20, 160
TOKEN = "0123456789abcdef" * 4

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(3600)]


class Cluster:
    """The hosts, and what is typed on them."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, host, command):
        """Begins a command, whose output goes together into one stream."""
        return subprocess.Popen(
            hosts.on(host, command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def type(self, host, command, code=0):
        """Runs a command and gives what it says."""
        process = self.start(host, command)
        output, _ = process.communicate(timeout=SECONDS)
        assert code is None or process.returncode == code, f"{command}\n{output[-5000:]}"
        return output

    def user(self, command):
        """What a user's command says, typed in the repository's folder on the laptop."""
        return self.type("laptop", f"cd ffcad-study && {command}")

    def fits(self, study):
        """The records of a study's fits, as far as they are written."""
        paths = (self.folder / "shared" / "ffcad" / "ledger").glob("*/record.json")
        records = [json.loads(path.read_text()) for path in paths]
        return {record["key"]: record for record in records if record["study"] == study}

    def nodes(self):
        """Hosts that Ray counts as alive."""
        program = "import ray; ray.init(log_to_driver=False); print('nodes', *sorted("
        program += "node['NodeManagerHostname'] for node in ray.nodes() if node['Alive']))"
        output = self.type("head", f'python -c "{program}"')
        [line] = [line for line in output.splitlines() if line.startswith("nodes ")]
        return line.split()[1:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.getuid():
        pytest.skip("only root can make hosts of namespaces")
    if missing := hosts.missing_packages():
        pytest.skip(f"not there: {', '.join(missing)}; apt-get install {' '.join(missing)}")
    if not POSTGRES or "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("no PostgreSQL; apt-get install postgresql")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed; pip install psycopg2-binary")
    folder = tmp_path_factory.mktemp("hosts")
    cluster = Cluster(folder)
    try:
        hosts.up(folder)
        server = start_services(cluster)
        lay_out_laptop(folder / "laptop" / "root")
        began = time.monotonic()
        cluster.user("ray up --yes cluster/local.yaml")
        head = time.monotonic() - began
        wait_for("worker", lambda: len(cluster.nodes()) == 3)
        print(f"ray up: {head:.0f} s, all workers {time.monotonic() - began:.0f} s")
        wait_for("answer of MLflow", lambda: "200 OK" in server_says(cluster), server)
        yield cluster
    finally:
        hosts.down()


def start_services(cluster):
    """PostgreSQL, which only its own machine reaches, and an MLflow server before it."""
    binaries = POSTGRES[-1].parent
    as_user = "runuser -u postgres --"
    cluster.type(
        "services",
        "install -d -o postgres /tmp/postgres && cd /tmp/postgres && "
        f"{as_user} {binaries}/initdb -D data -A trust -U mlflow --no-sync -E UTF8 --locale=C && "
        f"{as_user} {binaries}/pg_ctl -D data -l log -w start "
        "-o '-c listen_addresses=127.0.0.1 -c fsync=off -k /tmp/postgres'",
    )
    return start_server(cluster)


def start_server(cluster):
    return cluster.start(
        "services",
        "export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false; "
        f"exec ~/{hosts.ENVIRONMENT}/bin/python -m mlflow server --workers 1 --host 0.0.0.0 "
        f"--allowed-hosts {hosts.address('services')}:5000 "
        "--backend-store-uri postgresql+psycopg2://mlflow@127.0.0.1/postgres "
        f"--artifacts-destination {hosts.SHARED}/mlartifacts > /tmp/mlflow.log 2>&1",
    )


def server_says(cluster, path="health", *options):
    """An answer of the MLflow server, with its status."""
    return cluster.type("laptop", " ".join(["curl -s -i", *options, f"'{TRACKING}/{path}'"]), None)


def lay_out_laptop(home):
    """What a user has: a clone, the environment, and a cluster file with the own machines in it."""
    repository = home / "ffcad-study"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
    (home / ".bashrc").write_text(
        f"export PATH=~/{hosts.ENVIRONMENT}/bin:$PATH RAY_USAGE_STATS_ENABLED=0\n"
    )
    (home / ".ffcad").mkdir()
    (home / ".ffcad" / "environment").write_text(
        f"export FFCAD_STORAGE={STORAGE}\nexport MLFLOW_TRACKING_URI={TRACKING}\n"
    )
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    file = repository / "cluster" / "local.yaml"
    text = file.read_text()
    for old, new in (
        ("192.168.1.10\n", f"{hosts.address('head')}\n"),
        ("192.168.1.11, 192.168.1.12", ", ".join(map(hosts.address, WORKERS))),
        ("ssh_user: ubuntu", "ssh_user: root"),
        # Two trials fit on each, on GPUs that are not there: Ray only counts them.
        (
            "--address=$RAY_HEAD_IP:6379",
            "--address=$RAY_HEAD_IP:6379 --num-cpus=2 --num-gpus=2 "
            """--resources='{"fake_gpus":1}'""",
        ),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text)


def wait_for(what, condition, process=None, seconds=SECONDS):
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"no {what}, but an end: {process.communicate()[0][-5000:]}")
        assert time.monotonic() - began < seconds, f"no {what} within {seconds:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - began


def submit(cluster, study, *flags):
    """`ray submit` of a small study, two trials at once."""
    command = "cd ffcad-study && ray submit cluster/local.yaml study/run.py -- --space smoke"
    command += f" --storage {STORAGE} --tracking-uri {TRACKING} --study {study} --max-concurrent 2"
    command += f" --set evaluate_every={EVERY} --set autoencoder_iterations={2 * EVERY}"
    command += f" --set head_iterations={ITERATIONS - 2 * EVERY} --no-early-stopping"
    return cluster.start("laptop", " ".join([command, *flags]))


def place(fit):
    return fit["sittings"][-1]["host"]


def begun(cluster, study):
    """Fits that are worked at and have been evaluated."""
    fits = cluster.fits(study).values()
    return {f["key"]: f for f in fits if f["status"] == "begun" and f["iteration"]}


def lose(cluster, study, host, loss, process):
    """Loses a host; gives the seconds until its first fit is gone on with elsewhere."""
    before = {key: f for key, f in begun(cluster, study).items() if place(f) == host}
    loss(host)

    def went_on():
        after = cluster.fits(study)
        return any(len(after[key]["sittings"]) > len(f["sittings"]) for key, f in before.items())

    seconds = wait_for("successor", went_on, process)
    for key, f in before.items():
        after = cluster.fits(study)[key]
        if len(after["sittings"]) > len(f["sittings"]):
            assert place(after) != host
            # What was on the storage when the host was lost was not done again.
            assert after["sittings"][-1]["iteration"] >= f["iteration"]
    return seconds


def load():
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def most_seconds():
    """What is allowed on a machine that may have more to do than this test."""
    return MOST_SECONDS * max(1.0, os.getloadavg()[0] / (2 * os.cpu_count()))


def busiest(cluster, study):
    counted = Counter(place(f) for f in begun(cluster, study).values())
    return counted.most_common(1)[0][0] if counted else None


def end(driver):
    """Waits for the end of a study, which must be a good one; `ray submit` gives no exit code."""
    output, _ = driver.communicate(timeout=1500)
    assert "Best: trial" in output, output[-5000:]


def check_all_done_once(cluster, study, fits):
    records = cluster.fits(study)
    assert len(records) == fits
    for record in records.values():
        assert (record["status"], record["iteration"]) == ("finished", ITERATIONS)
        steps = [entry["iteration"] for entry in record["history"]]
        assert steps == list(range(EVERY, ITERATIONS + 1, EVERY))
        starts = [sitting["iteration"] for sitting in record["sittings"]]
        assert starts == sorted(starts)
        assert starts[0] == 0
        assert record["environment"]["git_dirty"] is False
    return records


def check_mlflow(study, records):
    from mlflow import MlflowClient  # Takes seconds, and fast tests collect this module too.

    client = MlflowClient(TRACKING)
    [experiment] = client.search_experiments(filter_string=f"name LIKE '%{study}%'")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    leaves = [run for run in runs if run.data.tags.get("level") == "fit"]
    assert len(leaves) == len(records)
    for run in leaves:
        points = client.get_metric_history(run.info.run_id, "select_pixel_ap")
        assert [p.step for p in points] == list(range(EVERY, ITERATIONS + 1, EVERY))


def test_a_study_outlives_its_machines(cluster):
    study = "three-hosts"
    began = time.monotonic()
    driver = submit(cluster, study, "--num-trials", "4", "--categories", "wood,dial")
    first = wait_for("evaluated fits", lambda: len(begun(cluster, study)) == 2, driver)
    print(f"ray submit until both fits had an evaluation: {first:.0f} s")

    killed = busiest(cluster, study)
    seconds = lose(cluster, study, killed, hosts.kill, driver)
    print(f"{killed} killed, its fit gone on with after {seconds:.1f} s; {load()}")
    assert seconds < most_seconds()
    hosts.boot(killed, cluster.folder)
    seconds = wait_for("return of the host", lambda: killed in cluster.nodes(), driver)
    print(f"{killed} started again, part of the cluster after {seconds:.0f} s")

    wait_for("evaluated fit", lambda: busiest(cluster, study) not in (None, killed), driver)
    cut = busiest(cluster, study)
    seconds = lose(cluster, study, cut, hosts.cut, driver)
    print(f"{cut} cut off, its fit gone on with after {seconds:.1f} s; {load()}")
    assert seconds < most_seconds()
    output = cluster.user(f"python -m study status {study} --storage {STORAGE}")
    assert "on head" in output
    hosts.mend(cut)

    end(driver)
    print(f"all done after {time.monotonic() - began:.0f} s; {load()}")
    records = check_all_done_once(cluster, study, 8)
    hosts_of = {sitting["host"] for record in records.values() for sitting in record["sittings"]}
    assert hosts_of == set(WORKERS)
    check_mlflow(study, records)
    output = cluster.user(f"python -m study report {study} --storage {STORAGE} --output ~/report")
    assert (cluster.folder / "laptop" / "root" / "report" / "report.html").is_file(), output


def test_a_worker_that_is_told_to_go_loses_its_fits_to_another(cluster):
    study = "told-to-go"
    driver = submit(cluster, study, "--num-trials", "2")
    wait_for("evaluated fits", lambda: len(begun(cluster, study)) == 2, driver)
    host = busiest(cluster, study)

    def tell(host):
        cluster.type(host, "pkill -TERM -x raylet")

    print(f"SIGTERM to Ray on {host}, its fit gone on with after", end=" ")
    seconds = lose(cluster, study, host, tell, driver)
    print(f"{seconds:.1f} s; {load()}")
    assert seconds < most_seconds()
    end(driver)
    check_mlflow(study, check_all_done_once(cluster, study, 2))


def test_mlflow_that_is_away_for_a_minute_gets_all_of_it_later(cluster):
    study = "without-mlflow"
    driver = submit(cluster, study, "--num-trials", "2")
    wait_for("evaluated fits", lambda: len(begun(cluster, study)) == 2, driver)
    cluster.type("services", "pkill -KILL -f '[m]lflow server'; pkill -KILL -f '[u]vicorn'")
    assert "200 OK" not in server_says(cluster)
    time.sleep(60)
    server = start_server(cluster)
    wait_for("answer of MLflow", lambda: "200 OK" in server_says(cluster), server)
    end(driver)
    check_mlflow(study, check_all_done_once(cluster, study, 2))


def test_a_study_goes_on_when_the_head_is_back(cluster):
    study = "without-head"
    flags = ("--num-trials", "2")
    driver = submit(cluster, study, *flags)
    wait_for("evaluated fits", lambda: len(begun(cluster, study)) == 2, driver)
    before = cluster.fits(study)
    hosts.kill("head")
    driver.wait(SECONDS)
    hosts.boot("head", cluster.folder)
    began = time.monotonic()
    cluster.user("ray up --yes cluster/local.yaml")
    wait_for("worker", lambda: len(cluster.nodes()) == 3)
    driver = submit(cluster, study, *flags)

    def went_on():
        after = cluster.fits(study)
        return all(len(after[key]["sittings"]) > 1 for key in before)

    wait_for("successors", went_on, driver)
    print("head killed and started again; its fits gone on with after", end=" ")
    print(f"{time.monotonic() - began:.0f} s; {load()}")
    for key, fit in cluster.fits(study).items():
        assert fit["sittings"][1]["iteration"] >= before[key]["iteration"]
    end(driver)
    check_mlflow(study, check_all_done_once(cluster, study, 2))


def test_strangers_do_not_get_in(cluster):
    """The services' host is on the same network, has Ray, and no token."""
    head = hosts.address("head")
    python = f"~/{hosts.ENVIRONMENT}/bin/python"
    # The dashboard, through which jobs are sent, is not on the network at all.
    assert "Connection refused" in cluster.type("services", f"curl -sS {head}:8265/api/jobs/", 7)
    jobs = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:8265/api/jobs/"
    assert cluster.type("head", jobs) == "401"
    assert cluster.type("head", f"{jobs} -H 'Authorization: Bearer guessed'") == "403"
    assert cluster.type("head", f"{jobs} -H 'Authorization: Bearer {TOKEN}'") == "200"
    for secret in ("RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=guessed"):
        for door in (f"ray://{head}:10001", f"{head}:6379"):
            program = f"import ray; ray.init('{door}'); print('inside')"
            said = cluster.type("services", f'{secret} timeout 60 {python} -c "{program}"', None)
            assert "inside" not in said, f"{secret} {door}"
            assert "uthenticat" in said, said[-3000:]
        said = cluster.type(
            "services",
            f"{secret} timeout 60 ~/{hosts.ENVIRONMENT}/bin/ray start --address={head}:6379",
            None,
        )
        assert "Ray runtime started" not in said, said
    assert "services" not in cluster.nodes()


def test_mlflow_does_not_answer_to_a_foreign_name(cluster):
    assert "200 OK" in server_says(cluster)
    path = "api/2.0/mlflow/experiments/get?experiment_id=0"
    assert "200 OK" in server_says(cluster, path)
    assert "403 Forbidden" in server_says(cluster, path, "-H 'Host: elsewhere.example'")


def test_ray_down_ends_ray_on_all_machines(cluster):
    assert cluster.nodes() == ["head", *WORKERS]
    cluster.user("ray down --yes cluster/local.yaml")

    def at_rest():
        running = [cluster.type(host, "ps -e -o comm") for host in ("head", *WORKERS)]
        return not any("raylet" in processes for processes in running)

    print(f"ray down: all at rest after {wait_for('rest', at_rest):.0f} s")
