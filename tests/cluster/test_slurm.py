"""cluster/slurm.sh on this machine, with Slurm's commands played by a few lines of shell."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from study.ledger import CHECKPOINT

REPOSITORY = Path(__file__).parents[2]
# For a whole study, or for processes to end, on a machine that may have much else to do.
SECONDS = 600
# Runs what follows the options here; the machine's own address is loopback.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
[[ $1 != hostname ]] || { echo 127.0.0.1; exit; }
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$SCONTROL_LOG"
[[ $1 != show ]] || echo machine0
"""
# Instead of running what each machine does.
SRUN_THAT_WRITES = """#!/bin/bash
[[ $* != *hostname* ]] || { echo 127.0.0.1; exit; }
echo "${@//$'\\n'/ }" >> "$SRUN_LOG"
"""
FLAGS = (
    "--categories dial --study mine --num-trials 2 --set image_size=32 "
    "--set autoencoder_channels=16 --set head_channels=8 --set batch_size=2 --set ffc_layers=1 "
    "--set global_ratio=0 --set evaluate_every=50 --set head_iterations=50"
)


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job of one machine, and the folder that it was submitted from."""
    folder, commands, home = (tmp_path / name for name in ("repository", "commands", "home"))
    for path in (folder, commands, home / ".ray", home / ".ffcad"):
        path.mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
    (home / ".ffcad" / "environment").write_text(f"export FFCAD_STORAGE={tmp_path / 'storage'}\n")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "USER": "somebody",
        "OMP_NUM_THREADS": "1",
        "FFCAD_LOCAL": str(tmp_path / "disk"),
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": str(os.getpid()),  # Its ports follow from it.
        "SLURM_JOB_NODELIST": "machine0",
        "SLURM_CPUS_PER_TASK": "1",
    }


def batch(environment, *flags):
    return subprocess.Popen(
        ["bash", REPOSITORY / "cluster" / "slurm.sh", *FLAGS.split(), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def assert_nothing_is_left_over(job):
    """Ray's processes end some time after the one that started them."""
    end = time.monotonic() + SECONDS
    while left_over(job) and time.monotonic() < end:
        time.sleep(1)
    assert not left_over(job)


def left_over(job):
    """Processes of a job's Ray that are still there."""
    folder = f"/tmp/ffcad-ray-{job}"
    return [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])
            if p.info["cmdline"] and folder in " ".join(p.info["cmdline"])]  # fmt: skip


@pytest.fixture
def two_machines(slurm, tmp_path):
    """The environment of a job of two machines; what they would do is written down, not done."""
    (tmp_path / "repository" / ".venv").unlink()
    programs, commands = tmp_path / "repository" / ".venv" / "bin", tmp_path / "commands"
    programs.mkdir(parents=True)
    for path, text in (
        (programs / "python", "#!/bin/bash\n"),
        (commands / "srun", SRUN_THAT_WRITES),
        (commands / "scontrol", "#!/bin/bash\necho machine0; echo machine1\n"),
    ):
        path.write_text(text)
        path.chmod(0o755)
    return {**slurm, "SRUN_LOG": str(tmp_path / "srun.log")}


def ports(environment, job):
    """The ports that a job gives numbers to, on its head and on the other machine."""
    log = Path(environment["SRUN_LOG"])
    log.unlink(missing_ok=True)
    process = batch({**environment, "SLURM_JOB_ID": str(job)})
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0, said
    other, head = sorted(log.read_text().splitlines(), key=lambda line: " bash --head " in line)
    assert " bash --address=" in other
    found = (re.findall(r"--([\w-]*port)=(\d+)", line) for line in (head, other))
    return [{name: int(port) for name, port in one} for one in found]


def test_jobs_that_share_a_machine_share_no_port(two_machines):
    # All that Ray gives a fixed number to, unless it is told otherwise.
    anything = {"min-worker-port": 0, "max-worker-port": 0, "dashboard-agent-listen-port": 0}
    taken = []
    for job in (1000, 1001, 3999, 4998):
        head, other = ports(two_machines, job)
        assert head.items() >= anything.items()
        assert other == anything
        fixed = {name: port for name, port in head.items() if port}
        assert fixed.keys() == {"port", "ray-client-server-port", "dashboard-port"}
        taken += fixed.values()
    # Jobs whose numbers are 4000 apart do, and no others.
    assert len(set(taken)) == len(taken)
    assert all(20_000 <= port < 32_768 for port in taken)


@pytest.mark.slow
@pytest.mark.proof
def test_a_job_whose_time_is_over_is_queued_again_and_goes_on(slurm, tmp_path):
    job, log = slurm["SLURM_JOB_ID"], Path(slurm["SCONTROL_LOG"])
    long = ("--set", "autoencoder_iterations=100000")
    process = batch(slurm, *long)
    end = time.monotonic() + SECONDS
    try:
        while not list((tmp_path / "storage" / "ledger").rglob(CHECKPOINT)):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end
            time.sleep(1)
    finally:
        process.send_signal(signal.SIGUSR1)  # As Slurm does, before the time is over.
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 130, said
    assert f"requeue {job}" in log.read_text()
    assert_nothing_is_left_over(job)


@pytest.mark.slow
@pytest.mark.proof
def test_a_study_ends_with_its_job(slurm):
    job = slurm["SLURM_JOB_ID"]
    process = batch(slurm, "--set", "autoencoder_iterations=50")
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0, said
    assert "Best" in said
    assert "requeue" not in Path(slurm["SCONTROL_LOG"]).read_text()
    assert_nothing_is_left_over(job)
