"""A study on machines that are really separate, by what a user would type, while they are lost.

Takes a quarter of an hour. `python -m pytest -m proof -rP tests/cluster/test_three_hosts.py` shows
the figures, too.
"""

import json
import os
import time
from collections import Counter

import hosts
import pytest
from host_cluster import (
    ADMIN,
    HAS_PASSWORDS,
    PASSWORD,
    SECONDS,
    SERVICES,
    STORAGE,
    TRACKING,
    WORKERS,
    Cluster,
    missing,
    wait_for,
)

# After how long Ray counts a silent machine as lost: 2 + 5 * (1 + 2) s at most. How long a fit then
# takes to go on elsewhere depends on what else the cores have to do, and is only shown.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
EVERY, ITERATIONS = 20, 160

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if why := missing():
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("hosts"))
    try:
        cluster.up()
        yield cluster
    finally:
        hosts.down()


def submit(cluster, study, *flags):
    """A small study, two trials at once; where it is kept, the environment says.

    Studies share their fits, so each has another seed.
    """
    knobs = {"evaluate_every": EVERY, "autoencoder_iterations": 2 * EVERY}
    knobs["head_iterations"] = ITERATIONS - 2 * EVERY
    pins = [f"--set {name}={value}" for name, value in knobs.items()]
    flags = ("--no-early-stopping", "--max-concurrent 2", *flags)
    return cluster.submit("--space smoke", f"--study {study}", *pins, *flags)


def place(fit):
    return fit["sittings"][-1]["host"]


def lose(cluster, study, host, loss, process):
    """Loses a host, waits until its first fit is gone on with elsewhere, and shows how long Ray and
    the fit took."""
    before = {key: f for key, f in cluster.begun(study).items() if place(f) == host}
    lost = time.time()  # Epochs of all hosts are this machine's.
    loss(host)

    def gone_on():
        after = cluster.fits(study)
        return {
            key for key, f in before.items() if len(after[key]["sittings"]) > len(f["sittings"])
        }

    wait_for("successor", gone_on, process)
    went_on = []
    for key in gone_on():
        after = cluster.fits(study)[key]
        assert place(after) != host
        # What was on the storage when the host was lost was not done again.
        assert after["sittings"][-1]["iteration"] >= before[key]["iteration"]
        went_on.append(after["sittings"][-1]["began"])
    noticed = cluster.noticed(host)
    said = f"noticed by Ray after {noticed - lost:.1f} s, " if noticed and noticed > lost else ""
    print(f"{host}, lost: {said}its fit gone on with after {min(went_on) - lost:.1f} s; {load()}")


def load():
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def busiest(cluster, study):
    counted = Counter(place(f) for f in cluster.begun(study).values())
    return counted.most_common(1)[0][0] if counted else None


def end(driver):
    """Waits for the end of a study, which must be a good one; `ray submit` gives no exit code."""
    output, _ = driver.communicate(timeout=1500)
    assert "Best: trial" in output, output[-5000:]


def check_all_done_once(cluster, study, fits, checkout=True):
    records = cluster.fits(study)
    assert len(records) == fits
    for record in records.values():
        assert (record["status"], record["iteration"]) == ("finished", ITERATIONS)
        steps = [entry["iteration"] for entry in record["history"]]
        assert steps == list(range(EVERY, ITERATIONS + 1, EVERY))
        starts = [sitting["iteration"] for sitting in record["sittings"]]
        assert starts == sorted(starts)
        assert starts[0] == 0
        # A job's working folder has none.
        assert record["environment"]["git_dirty"] is (False if checkout else None)
    return records


def check_mlflow(monkeypatch, study, records):
    from mlflow import MlflowClient  # Takes seconds, and fast tests collect this module too.

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    client = MlflowClient(TRACKING)
    [experiment] = client.search_experiments(filter_string=f"name LIKE '%{study}%'")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    leaves = [run for run in runs if run.data.tags.get("level") == "fit"]
    assert len(leaves) == len(records)
    for run in leaves:
        points = client.get_metric_history(run.info.run_id, "select_pixel_ap")
        assert [p.step for p in points] == list(range(EVERY, ITERATIONS + 1, EVERY))


def test_ray_looks_for_silent_machines_as_the_file_says(cluster):
    assert cluster.settings("gcs_server").items() >= HEALTH.items()


def test_a_study_outlives_its_machines(cluster, monkeypatch):
    study = "three-hosts"
    began = time.monotonic()
    driver = submit(cluster, study, "--num-trials 4", "--categories wood,dial")
    first = wait_for("evaluated fits", lambda: len(cluster.begun(study)) == 2, driver)
    print(f"ray submit until both fits had an evaluation: {first:.0f} s")

    killed = busiest(cluster, study)
    print("killed:", end=" ")
    lose(cluster, study, killed, hosts.kill, driver)
    hosts.boot(killed, cluster.folder)
    seconds = wait_for("return of the host", lambda: killed in cluster.nodes(), driver)
    print(f"{killed} started again, part of the cluster after {seconds:.0f} s")

    wait_for("evaluated fit", lambda: busiest(cluster, study) not in (None, killed), driver)
    cut = busiest(cluster, study)
    print("cut off:", end=" ")
    lose(cluster, study, cut, hosts.cut, driver)
    output = cluster.user(f"python -m study status {study}")
    assert "on head" in output
    hosts.mend(cut)

    end(driver)
    print(f"all done after {time.monotonic() - began:.0f} s; {load()}")
    records = check_all_done_once(cluster, study, 8)
    hosts_of = {sitting["host"] for record in records.values() for sitting in record["sittings"]}
    assert hosts_of == set(WORKERS)
    check_mlflow(monkeypatch, study, records)
    output = cluster.user(f"python -m study report {study} --output ~/report")
    assert (cluster.folder / "laptop" / "root" / "report" / "report.html").is_file(), output


def test_a_worker_that_is_told_to_go_loses_its_fits_to_another(cluster, monkeypatch):
    study = "told-to-go"
    driver = submit(cluster, study, "--num-trials 2", "--seeds 1")
    wait_for("evaluated fits", lambda: len(cluster.begun(study)) == 2, driver)
    host = busiest(cluster, study)

    def tell(host):  # As a machine does that is shut down: Ray's own processes and its workers.
        cluster.type(host, "pkill -TERM ray")

    print("SIGTERM to all of Ray:", end=" ")
    lose(cluster, study, host, tell, driver)
    end(driver)
    check_mlflow(monkeypatch, study, check_all_done_once(cluster, study, 2))


def test_mlflow_that_is_away_for_a_minute_gets_all_of_it_later(cluster, monkeypatch):
    study = "without-mlflow"
    driver = submit(cluster, study, "--num-trials 2", "--seeds 2")
    wait_for("evaluated fits", lambda: len(cluster.begun(study)) == 2, driver)
    cluster.stop_mlflow()
    time.sleep(60)
    server = cluster.start_mlflow()
    wait_for("answer of MLflow", lambda: "200 OK" in cluster.mlflow_says("health"), server)
    end(driver)
    # Where the study ended before the server was there again.
    cluster.user(f"python -m study sync {study}")
    check_mlflow(monkeypatch, study, check_all_done_once(cluster, study, 2))


def test_a_study_goes_on_when_the_head_is_back(cluster, monkeypatch):
    study = "without-head"
    flags = ("--num-trials 2", "--seeds 3")
    driver = submit(cluster, study, *flags)
    wait_for("evaluated fits", lambda: len(cluster.begun(study)) == 2, driver)
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
    check_mlflow(monkeypatch, study, check_all_done_once(cluster, study, 2))


NODES = f"{hosts.address('head')}:6379"
SECRETS = ("RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=guessed")


def attempt(door):
    """A program that tries to get into the cluster."""
    return f"""python -c "import ray; ray.init('{door}'); print('inside')\""""


def stranger(cluster, secret, command):
    path = f"PATH=~/{hosts.ENVIRONMENT}/bin:$PATH"
    return cluster.type(
        "services", f"export {path} {secret}; timeout {SECONDS / 2:.0f} {command}", None
    )


def test_a_node_without_the_token_does_not_join(cluster):
    """The services' host is on the same network, has Ray, and no token."""
    for secret in SECRETS:
        said = stranger(cluster, secret, f"ray start --address={NODES}")
        assert "Ray runtime started" not in said, said
    assert "services" not in cluster.nodes()


@pytest.mark.parametrize(
    ("door", "answer"),
    [
        (NODES, "uthenticat"),
        # Ray's client asks again and again until its time is over.
        (f"ray://{hosts.address('head')}:10001", "ray client connection timeout"),
    ],
)
def test_a_program_without_the_token_does_not_get_in(cluster, door, answer):
    """Where programs of the cluster's machines join, and the clients' port."""
    for secret in SECRETS:
        said = stranger(cluster, secret, attempt(door))
        assert "inside" not in said
        assert answer in said, said[-3000:]
    assert "inside" in cluster.type("head", attempt(door))


def test_the_dashboard_is_not_on_the_network(cluster):
    dashboard = f"{hosts.address('head')}:8265"
    refused = 7
    cluster.type("head", "curl -s http://127.0.0.1:8265/api/jobs/")  # There it answers.
    cluster.type("services", f"curl -s {dashboard}/api/jobs/", refused)


def test_mlflow_does_not_answer_to_a_foreign_name(cluster):
    path, user = "api/2.0/mlflow/experiments/get?experiment_id=0", f"-u {ADMIN}:{PASSWORD}"
    assert "200 OK" in cluster.mlflow_says(path, user)
    assert "403 Forbidden" in cluster.mlflow_says(path, user, "-H 'Host: elsewhere.example'")


@pytest.mark.skipif(not HAS_PASSWORDS, reason="no passwords; pip install 'mlflow[auth]'")
def test_mlflow_refuses_without_its_password(cluster):
    path = "api/2.0/mlflow/experiments/get?experiment_id=0"
    assert "401 Unauthorized" in cluster.mlflow_says(path)
    assert "401 Unauthorized" in cluster.mlflow_says(path, f"-u {ADMIN}:guessed")


def test_a_backup_brings_mlflow_back(cluster, monkeypatch):
    """As cluster/README.md has it, by hand; of the study that outlived its machines."""
    login = f"{SERVICES}; cd; connect='--host 127.0.0.1 --username mlflow'"
    for database in ("mlflow", "mlflow_auth"):
        dump = f"pg_dump $connect --format custom {database} > {database}.dump"
        cluster.type("services", f"{login}; {dump}")
    cluster.stop_mlflow()
    for database in ("mlflow", "mlflow_auth"):
        lose = "drop schema public cascade; create schema public"
        restore = f"pg_restore $connect --clean --if-exists --dbname {database}"
        cluster.type("services", f"{login}; psql -q $connect -c '{lose}' {database}")
        cluster.type("services", f"{login}; {restore} < {database}.dump")
    server = cluster.start_mlflow()
    wait_for("answer of MLflow", lambda: "200 OK" in cluster.mlflow_says("health"), server)
    check_mlflow(monkeypatch, "three-hosts", cluster.fits("three-hosts"))
    assert "0 runs written" in cluster.user("python -m study sync three-hosts")


def test_a_study_is_submitted_as_a_job(cluster):
    """As cluster/README.md has it: the working folder is sent along, so its code is what runs."""
    study = "by-job"
    environment = {
        "excludes": [".git", ".venv", "runs"],
        "env_vars": {"FFCAD_STORAGE": STORAGE, "MLFLOW_TRACKING_URI": TRACKING},
    }
    flags = f"--space smoke --study {study} --num-trials 2 --no-early-stopping --seeds 4"
    flags += f" --set evaluate_every={EVERY} --set autoencoder_iterations={2 * EVERY}"
    flags += f" --set head_iterations={ITERATIONS - 2 * EVERY}"
    said = cluster.type(
        "head",
        "cd ffcad-study && RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 ray job submit "
        f"--working-dir . --runtime-env-json '{json.dumps(environment)}' "
        f"-- python study/run.py {flags}",
    )
    assert "Best: trial" in said, said[-3000:]
    for record in check_all_done_once(cluster, study, 2, checkout=False).values():
        assert place(record) in WORKERS


def test_ray_down_ends_ray_on_all_machines(cluster):
    assert cluster.nodes() == ["head", *WORKERS]
    cluster.user("ray down --yes cluster/local.yaml")

    def at_rest():
        running = [cluster.type(host, "ps -e -o comm") for host in ("head", *WORKERS)]
        return not any("raylet" in processes for processes in running)

    print(f"ray down: all at rest after {wait_for('rest', at_rest):.0f} s")
