"""Ctrl-C and SIGTERM, whenever they come."""

import os
import signal
import socket
import subprocess
import sys
import threading

import psutil
import pytest
from drivers import SECONDS, TINY, family, kill, mlflow_runs, records, start, wait_for
from rich.console import Console

from study.signals import Interrupts
from study.storage import Storage
from study.trials import StudyFolder


def test_the_first_signal_asks_and_the_second_interrupts(capsys):
    told = threading.Event()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts(Console(width=80)) as interrupts:
        with pytest.raises(KeyboardInterrupt):  # Nothing is held yet.
            signal.raise_signal(signal.SIGTERM)
        interrupts.received = 0
        interrupts.hold()
        interrupts.tell(told.set)
        assert interrupts.patience(60.0) == 60.0
        signal.raise_signal(signal.SIGTERM)
        assert told.wait(10)
        assert interrupts.stopping.is_set()
        assert interrupts.patience(60.0) == 15.0
        late = threading.Event()
        interrupts.tell(late.set)
        assert late.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.patience(60.0) == 3.0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert "Stopping. Once more ends at once." in capsys.readouterr().out


def ends_as_interrupted(process):
    """The output of a driver that must end as one that was interrupted."""
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, output
    assert "--resume mine" in output
    assert "Traceback" not in output
    assert "SIGTERM received" not in output
    return output


@pytest.mark.slow
def test_sigterm_while_ray_starts_ends_in_good_order(tmp_path):
    process = start(tmp_path, *TINY, "--num-trials", "1", "--no-early-stopping")
    try:
        wait_for(lambda: family(process, "gcs_server", "raylet"), process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        ends_as_interrupted(process)
        _, left = psutil.wait_procs(children, timeout=20)
    finally:
        kill(process)
    assert left == []
    assert records(tmp_path) == {}
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"KILLED"}


@pytest.mark.slow
def test_sigterm_while_mlflow_is_written_at_the_end_does_not_wait_for_it(tmp_path):
    # A server that takes every connection and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flags = ["--num-trials", "1", "--no-early-stopping", "--tracking-uri", uri]
        process = start(tmp_path, *TINY, *flags)
        folder = StudyFolder(Storage(tmp_path / "runs"), "mine")

        def is_done():
            finished = [t.state for t in folder.trials()] == ["finished"]
            return finished and not family(process, "raylet")

        try:
            wait_for(is_done, process)
            process.send_signal(signal.SIGTERM)
            output = ends_as_interrupted(process)
        finally:
            kill(process)
    assert "MLflow is not up to date" in " ".join(output.split())
    assert [r["status"] for r in records(tmp_path).values()] == ["finished"]


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_leaves_checkpoints_and_twice_ends_at_once(tmp_path):
    flags = ["--set", "head_iterations=400", "--set", "evaluate_every=200", "--num-trials", "2"]
    process = start(tmp_path, *TINY, *flags, "--no-early-stopping")
    try:
        wait_for(lambda: any(r["iteration"] >= 4 for r in records(tmp_path).values()), process)
        # A terminal sends it to the whole process group, Ray's processes included.
        os.killpg(process.pid, signal.SIGINT)
        output = ends_as_interrupted(process)
    finally:
        kill(process)
    assert "Stopping: running fits write a checkpoint." in output
    begun = records(tmp_path)
    assert any(r["iteration"] not in (0, 4, 200, 400) for r in begun.values())
    assert {r["status"] for r in begun.values()} == {"begun"}
    assert all(r["error"] is None for r in begun.values())
    assert {r.info.status for r in mlflow_runs(tmp_path)} == {"KILLED"}

    # Workers that stand still cannot write: the first one waits for them, the second one does not.
    process = start(tmp_path, "--resume", "mine")
    try:
        last = {key: r["iteration"] for key, r in begun.items()}
        wait_for(
            lambda: any(r["iteration"] > last.get(k, 0) for k, r in records(tmp_path).items()),
            process,
        )
        for worker in family(process, "ImplicitFunc"):
            worker.suspend()
        os.killpg(process.pid, signal.SIGINT)
        lines = iter(process.stdout.readline, "")
        assert any("Once more ends at once." in line for line in lines)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        left = kill(process)
    assert process.returncode == 130, output
    assert "Ended at once." in output
    assert "--resume mine" in output
    assert "Traceback" not in output
    assert left == []


@pytest.mark.parametrize(
    "printing",
    [
        "print('line\\n' * 100_000)",
        # A study that runs goes on, in silence.
        "[console.print('line') for _ in range(20_000)]; sys.stderr.write('done')",
    ],
)
def test_a_reader_that_has_enough_is_no_error(printing):
    """`status --json | head`, whose output is longer than what a pipe holds."""
    code = (
        "import sys\n"
        "from study.signals import PatientConsole, run_and_exit\n"
        "console = PatientConsole()\n"
        f"def main():\n    {printing}\n    return 0\n"
        "run_and_exit(main)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "line\n"
    writer.stdout.close()
    assert writer.stderr.read() == ("done" if "done" in printing else "")
    assert writer.wait(60) == 0
