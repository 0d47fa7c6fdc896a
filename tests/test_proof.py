"""What takes minutes: the promises of the README, tried as a new user would."""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffcad.config import TrainConfig
from ffcad.datasets import load_category
from ffcad.training import train

ROOT = Path(__file__).parents[1]

MOST_RATIO = 1.10

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]


def test_make_study_in_a_fresh_clone_ends_within_five_minutes_of_its_installation(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run(["make", "setup"], cwd=clone, check=True)
    started = time.monotonic()
    done = subprocess.run(["make", "study"], cwd=clone, capture_output=True, text=True)
    seconds = time.monotonic() - started
    subprocess.run(["make", "clean"], cwd=clone, check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Best: trial" in done.stdout
    assert "mlflow ui" in done.stdout
    assert "--data folder" in done.stdout
    assert (clone / "runs" / "mlflow.db").is_file()
    assert seconds < 300


def test_twenty_kills_lose_nothing():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_test.py"), "--kills", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was lost, done twice or left open." in done.stdout


def test_a_study_costs_little_more_than_plain_tune(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "machinery_speed.py")]
    command += ["--rounds", "5", "--trials", "10", "--ways", "plain,study", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    in_loop = 1e3 * statistics.median(figures["result"]["study"])
    assert in_loop < 10, f"{in_loop:.2f} ms per result in Tune's loop, 10 are allowed"
    plain, study = figures["trial"]["plain"], figures["trial"]["study"]
    ratio = statistics.median(b / a for a, b in zip(plain, study, strict=True))
    assert ratio < MOST_RATIO, (
        f"{ratio:.2f} times plain Tune, {MOST_RATIO} are allowed\n{done.stdout}"
    )


def test_each_stage_computes_only_what_it_trains():
    command = [sys.executable, str(ROOT / "benchmarks" / "stage_cost.py"), "--rounds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = re.findall(r"^(autoencoder|head)\s+(.*)$", done.stdout, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["autoencoder", "head"]
    for name, figures in rows:
        _, _, _, processor, aim = map(float, figures.split())
        assert processor <= aim, f"{name}\n{done.stdout}"


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_training_begins_like_any_other():
    knobs = dict(image_size=32, autoencoder_channels=16, head_channels=8, ffc_layers=1)
    knobs |= dict(global_ratio=0.25, batch_size=2, sgd_learning_rate=1e-3)
    knobs |= dict(autoencoder_iterations=2, head_iterations=2)
    data = load_category("synthetic", None, "dial", 32)
    plain, compiled = (
        [p.loss for p in train(TrainConfig(**knobs, compile=c), data)] for c in (False, True)
    )
    assert compiled[0] == pytest.approx(plain[0], rel=1e-3)
    # FFC amplifies rounding from step to step.
    assert compiled == pytest.approx(plain, rel=0.1)
