"""Whole studies in processes of their own, for the tests that run and break them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient

SCRIPT = Path(__file__).parents[2] / "study" / "run.py"
FLAGS = (
    "--study mine --categories dial --set image_size=32 --set autoencoder_channels=16 "
    "--set head_channels=8 --set batch_size=2 --set autoencoder_iterations=4 "
    "--set head_iterations=8 --set evaluate_every=4"
)
TINY = FLAGS.split()
SECONDS = 600


def start(folder, *flags, command=(str(SCRIPT),)):
    """The driver, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *command, *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        start_new_session=True,
    )


def run(folder, *flags):
    """The driver's exit code and output."""
    process = start(folder, *flags)
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    return process.returncode, output


def kill(process):
    """SIGKILL to the driver's group and to what it started elsewhere; waits until all are gone."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Ray's processes end with their driver.
    _, left = psutil.wait_procs(family, timeout=20)
    for one in left:
        one.kill()
    return left


def family(process, *names):
    """The processes that a driver started whose command line has one of the names."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(name in " ".join(child.cmdline()) for name in names):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(condition, process):
    """Until the condition holds; fails if the driver ends before."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)


def records(folder):
    paths = (folder / "runs" / "ledger").glob("*/record.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def mlflow_runs(folder, name="mine"):
    """The runs of a study, in all experiments: it should have one."""
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, f"tags.study = '{name}'")
