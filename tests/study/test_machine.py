"""What a record says of the machine and of the code."""

import platform
import subprocess
import threading
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from study.machine import (
    SystemSampler,
    code_environment,
    peak_memory_mb,
    reset_peak_memory,
)


def git(*arguments):
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout")
    return done.stdout.strip()


def test_the_code_is_known_by_its_revision_and_versions():
    found = code_environment()
    assert found["git_sha"] == git("rev-parse", "HEAD")
    parts = [":/ffcad", ":/study", ":/search_spaces"]
    assert found["git_dirty"] == (git("status", "--porcelain", "--", *parts) != "")
    for name in ("ray", "optuna", "mlflow", "torchvision", "numpy"):
        assert found[name] == version(name)


def test_an_image_says_its_revision_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = code_environment()
    assert (found["git_sha"], found["git_dirty"]) == (None, None)
    monkeypatch.setattr("study.machine.REVISION_FILE", tmp_path / "REVISION")
    for said, dirty in (("0123abc", False), ("0123abc-dirty\n", True)):
        (tmp_path / "REVISION").write_text(said)
        found = code_environment()
        assert (found["git_sha"], found["git_dirty"]) == ("0123abc", dirty)


def test_the_load_is_sampled_until_the_end_and_earlier_samples_are_kept():
    before = {"time": 1.0, "cpu_utilization_percentage": 5.0}
    began = time.time()
    sampler = SystemSampler([before], seconds=0.02)
    end = time.monotonic() + 20
    while len(sampler.samples()) < 3 and time.monotonic() < end:
        sum(range(100_000))  # A load to be seen.
    sampler.stop()
    first, *taken = sampler.samples()
    assert first == before
    assert len(taken) >= 2
    times = [sample["time"] for sample in taken]
    assert began <= times[0] < times[1] <= time.time()
    assert all(0 < s["system_memory_usage_percentage"] <= 100 for s in taken)
    assert all(s["process_memory_usage_megabytes"] > 10 for s in taken)
    assert max(s["process_cpu_utilization_percentage"] for s in taken) > 0
    time.sleep(0.1)
    assert len(sampler.samples()) == 1 + len(taken)


def test_samples_of_a_long_fit_are_thinned_out(monkeypatch):
    monkeypatch.setattr("study.machine.MOST_SAMPLES", 4)
    sampler = SystemSampler([{"time": float(i)} for i in range(4)], seconds=0.01)
    end = time.monotonic() + 20
    while [s["time"] for s in sampler.samples()][:2] != [0.0, 2.0]:
        assert time.monotonic() < end
        time.sleep(0.01)
    sampler.stop()
    assert len(sampler.samples()) <= 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back")
def test_a_fit_does_not_begin_with_the_memory_that_another_has_freed():
    kept = []

    def work():
        # What stays lies on top of all that is freed, as a library's caches do.
        freed = [bytearray(20_000) for _ in range(10_000)]
        kept.append(bytearray(20_000))
        del freed

    process = psutil.Process()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = process.memory_info().rss / 1e6
    reset_peak_memory()
    after = process.memory_info().rss / 1e6
    assert before - after > 150
    assert peak_memory_mb() == pytest.approx(after, abs=20)
