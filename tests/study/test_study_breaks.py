"""Whole studies to which something happens: nothing is lost, done twice or left open."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drivers import SECONDS, TINY, kill, mlflow_runs, records, run, start, wait_for
from mlflow import MlflowClient
from relay import Relay

from study.ledger import Ledger
from study.storage import Storage
from study.trials import StudyFolder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GRID = """
'''Which?'''
CELLS = {"none": {"hsas": "none"}, "2d": {"hsas": "2d"}}
# At the default rate a cell may diverge, on one kind of processor and not on another.
FIXED = {"ffc_layers": 1, "global_ratio": 0.0, "sgd_learning_rate": 0.01}
"""


def numbers(record):
    """What must be equal bit for bit."""
    return record["metrics"], [{**entry, "time": 0} for entry in record["history"]]


@pytest.fixture
def grid(tmp_path):
    """Flags of a grid of two cells."""
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    return [*TINY, "--space", str(path)]


@pytest.mark.timeout(2700)
def test_three_kills_lose_nothing():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_test.py"), "--kills", "3"]
    command += ["--kinds", "grid,search"]  # All of them, and twenty kills: make proof.
    done = subprocess.run(command, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was lost, done twice or left open." in done.stdout


def test_two_studies_that_need_the_same_fits_at_once_do_each_once(tmp_path, grid):
    flags = [*grid, "--set", "head_iterations=60"]
    other = ["yours" if flag == "mine" else flag for flag in flags]
    processes = [start(tmp_path, *each, "--max-concurrent", "1") for each in (flags, other)]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            kill(process)
    done = records(tmp_path)
    assert len(done) == 2
    assert [r["status"] for r in done.values()] == ["finished"] * 2
    assert [len(r["sittings"]) for r in done.values()] == [1, 1]
    for name in ("mine", "yours"):
        fits = [r for r in mlflow_runs(tmp_path, name) if r.data.tags["level"] == "fit"]
        assert {r.data.tags["fit_key"] for r in fits} == set(done)
        for r in fits:
            by = done[r.data.tags["fit_key"]]["study"]
            assert r.data.tags.get("reused_from") == (None if by == name else by)


def test_broken_documents_are_mended_from_the_others(tmp_path, grid):
    code, output = run(tmp_path, *grid)
    assert code == 0, output
    before, folder = records(tmp_path), tmp_path / "runs"
    key = next(key for key, r in before.items() if r["trial"] == 0)
    record = folder / "ledger" / key / "record.json"
    record.write_bytes(record.read_bytes()[:300])
    trial = folder / "studies" / "mine" / "trials" / "0001.json"
    trial.write_bytes(b"")
    code, output = run(tmp_path, *grid)
    text = "".join(output.split())  # A long path is broken anywhere.
    assert code == 0, output
    assert "record.jsoncannotberead" in text
    assert "0001.jsoncannotberead" in text
    assert "itwasrebuiltfromtheledger" in text
    after = records(tmp_path)
    assert {k: numbers(r) for k, r in after.items()} == {k: numbers(r) for k, r in before.items()}
    # Nothing was trained: the finished checkpoint says what came out.
    assert [s["iteration"] for s in after[key]["sittings"]] == [after[key]["iterations"]]
    states = [t.state for t in StudyFolder(Storage(folder), "mine").trials()]
    assert states == ["finished"] * 2
    fits = [r for r in mlflow_runs(tmp_path) if r.data.tags["level"] == "fit"]
    assert sorted(r.data.tags["fit_key"] for r in fits) == sorted(after)

    # All of the study's own documents are lost: the ledger tells them, and nothing is done again.
    trials = StudyFolder(Storage(folder), "mine").trials()
    after = records(tmp_path)
    shutil.rmtree(trial.parents[1])
    code, output = run(tmp_path, *grid)
    assert code == 0, output
    assert "rebuilt from the ledger" in " ".join(output.split())
    assert StudyFolder(Storage(folder), "mine").trials() == trials
    assert records(tmp_path) == after
    assert len(mlflow_runs(tmp_path)) == 1 + 2 + 2
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"FINISHED"}


@pytest.mark.proof
def test_an_extended_study_does_only_what_is_new(tmp_path):
    flags = [*TINY, "--num-trials", "2", "--no-early-stopping"]
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    before = records(tmp_path)
    code, output = run(tmp_path, *flags, "--seeds", "0,1")
    assert code == 2
    assert "seeds was [0] and is now [0, 1]" in " ".join(output.split())
    code, output = run(tmp_path, *flags, "--seeds", "0,1", "--extend")
    assert code == 0, output
    after = records(tmp_path)
    assert {k: after[k] for k in before} == before
    assert sorted(r["seed"] for r in after.values()) == [0, 0, 1, 1]
    assert {r["digest"] for r in after.values()} == {r["digest"] for r in before.values()}
    # Another space: what it cannot draw is kept and neither ranked nor counted.
    pinned = next(iter(before.values()))["configuration"]["hsas"]
    flags += ["--set", f"hsas={pinned}", "--seeds", "0,1", "--extend", "--num-trials", "3"]
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    trials = StudyFolder(Storage(tmp_path / "runs"), "mine").trials()
    current = [t for t in trials if t.state != "retired"]
    assert [t.state for t in current] == ["finished"] * 3
    assert {t.configuration["hsas"] for t in current} == {pinned}
    now = records(tmp_path)
    assert {k: now[k] for k in after} == after


def test_a_worker_that_is_killed_for_its_memory_fails_once_with_that_reason(
    tmp_path, grid, monkeypatch
):
    # Ray takes a machine for full that uses a hundredth of its memory.
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    longer = [*grid, "--set", "head_iterations=2000", "--retries", "0"]
    code, output = run(tmp_path, *longer)
    assert code == 3, output
    assert "memory was nearly full" in " ".join(output.split())
    trials = StudyFolder(Storage(tmp_path / "runs"), "mine").trials()
    assert [trial.state for trial in trials] == ["failed"] * 2
    assert not any(trial.machine_failed for trial in trials)
    runs = mlflow_runs(tmp_path, "mine")
    failed = [r for r in runs if r.data.tags["level"] == "configuration"]
    assert [r.info.status for r in failed] == ["FAILED"] * 2
    assert all("memory" in r.data.tags["error"] for r in failed)


def test_a_full_disk_is_one_line_and_what_is_there_is_gone_on_with(tmp_path, grid):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        flags = [
            *grid,
            "--storage",
            str(disk),
            "--max-concurrent",
            "1",
            "--log-checkpoints",
            "none",
        ]
        flags += ["--set", "head_iterations=200"]
        ballast = disk / "ballast"
        process = start(tmp_path, *flags)
        try:
            wait_for(lambda: any((disk / "ledger").glob("*/checkpoint.pt")), process)
            with open(ballast, "wb") as f:
                try:
                    while True:
                        f.write(b"0" * 65536)
                        f.flush()
                except OSError:
                    pass
            output, _ = process.communicate(timeout=SECONDS)
        finally:
            kill(process)
        assert process.returncode == 4, output
        assert "No space left on device" in output
        assert "Nothing finished is lost." in output
        assert "Traceback" not in output
        ballast.unlink()
        code, output = run(tmp_path, *flags)
        assert code == 0, output
        ledger = Ledger(Storage(disk))
        fits, wrong = ledger.read_all(ledger.keys())
        assert not wrong
        assert [fit.status for fit in fits] == ["finished"] * 2
        assert max(len(fit.sittings) for fit in fits) == 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.proof
def test_a_study_on_an_object_store_is_killed_and_goes_on(tmp_path, grid, bucket):
    storage = Storage(f"{bucket}/{tmp_path.name}")
    ledger = Ledger(storage)
    flags = [*grid, "--storage", storage.where, "--set", "head_iterations=60"]

    def fits():
        return ledger.read_all(ledger.keys())[0]

    process = start(tmp_path, *flags)
    try:
        wait_for(lambda: any(fit.iteration >= 8 for fit in fits()), process)
    finally:
        kill(process)
    before = {fit.key: fit for fit in fits()}
    code, output = run(tmp_path, *flags)
    assert code == 0, output
    after = {fit.key: fit for fit in fits()}
    assert [fit.status for fit in after.values()] == ["finished"] * 2
    for key, fit in before.items():
        assert after[key].sittings[-1]["iteration"] >= fit.iteration
    # The same on a folder: the storage changes no number.
    code, output = run(tmp_path, *flags[: flags.index("--storage")], "--set", "head_iterations=60")
    assert code == 0, output
    for key, record in records(tmp_path).items():
        assert record["metrics"] == after[key].metrics
    status = subprocess.run(
        [sys.executable, "-m", "study", "status", "mine", "--storage", storage.where],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert "nobody runs it" in status.stdout, status.stderr


@pytest.mark.proof
def test_a_minute_without_the_storage_is_waited_out(tmp_path, grid, bucket, monkeypatch):
    """Nothing listens there: a worker is in the middle of a fit, the driver holds its lease."""
    relay = Relay(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    ledger = Ledger(Storage(f"{bucket}/{tmp_path.name}"))
    flags = [*grid, "--storage", ledger.storage.where, "--set", "head_iterations=120"]

    def fits():
        return ledger.read_all(ledger.keys())[0]

    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        process = start(tmp_path, *flags, "--max-concurrent", "1")
    try:
        wait_for(lambda: any(fit.iteration >= 8 for fit in fits()), process)
        relay.leave()
        began = {fit.key: fit.iteration for fit in fits()}
        time.sleep(60)
        assert process.poll() is None, process.communicate()[0]
        assert {fit.key: fit.iteration for fit in fits()} == began
        relay.come_back()
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 0, output
    text = " ".join(output.split())
    assert "Waiting for the storage, 2 minutes at most" in text
    # It is missed when it is next needed, and asked again every ten seconds at last.
    (seconds,) = re.findall(r"The storage answers again, after (\d+) s", text)
    assert 40 <= int(seconds) <= 80
    steps = list(range(4, 125, 4))
    assert [fit.status for fit in fits()] == ["finished"] * 2
    for fit in fits():
        # Nobody took it up: its own worker has gone on with it.
        assert len(fit.sittings) == 1
        assert [entry["iteration"] for entry in fit.history] == steps
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"FINISHED"}


@pytest.mark.proof
def test_a_server_that_comes_late_gets_everything(tmp_path, grid):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    process = start(tmp_path, *grid, "--tracking-uri", uri, "--set", "head_iterations=300")
    server = None
    try:
        wait_for(lambda: any(r["iteration"] >= 8 for r in records(tmp_path).values()), process)
        server = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/s.db",
                "--artifacts-destination", str(tmp_path / "served"),
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=tmp_path, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, output
        assert "not up to date" not in output
        assert "View run" not in output
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("mine")
        runs = client.search_runs([experiment.experiment_id])
        assert {r.info.status for r in runs} == {"FINISHED"}
        assert len(runs) == 1 + 2 + 2
    finally:
        kill(process)
        if server is not None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
