"""`python -m ffcad fit` is stopped by a signal, and says where it goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import mvtec

from ffcad.checkpoint import load_checkpoint, previous_checkpoint
from ffcad.commands import main
from ffcad.commands.stopping import stop_signals

KNOBS = dict(
    image_size=64,
    autoencoder_channels=16,
    head_channels=8,
    batch_size=2,
    autoencoder_iterations=60,
    head_iterations=2,
    evaluate_every=1000,
    sgd_learning_rate=1e-3,
    device="cpu",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    """One category, "nut"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield mvtec(tmp_path_factory.mktemp("root"), train=4, good=4, defects={"bent": 4})


def fit(root: Path, out: Path, **values) -> list[str]:
    words = ["fit", "--data", "mvtec", "--data-root", str(root), "--out", str(out)]
    return words + [word for k, v in (KNOBS | values).items() for word in ("--set", f"{k}={v}")]


def handlers() -> list:
    return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_one_signal_is_noted_a_second_interrupts_and_the_handlers_come_back():
    before = handlers()
    with pytest.raises(KeyboardInterrupt), stop_signals() as caught:  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals() as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), (signal.SIGINT, 2), (signal.SIGTERM, 0)]
)
def test_a_signal_stops_it_between_evaluations_and_nothing_is_lost(
    root: Path, tmp_path: Path, capsys, number: int, workers: int
):
    """Ctrl-C of a terminal goes to the whole group of processes, so to the loader's workers too."""
    command = fit(root, tmp_path / "stopped", loader_workers=workers)
    process = subprocess.Popen(
        [sys.executable, "-m", "ffcad", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while "autoencoder 1/62" not in process.stdout.readline():
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    path = tmp_path / "stopped" / "checkpoint.pt"
    iteration = load_checkpoint(path)["iteration"]
    assert 1 <= iteration < 60
    assert error.splitlines()[-1] == (
        f"python -m ffcad fit: stopped at iteration {iteration} of 62; "
        "the same command goes on from there"
    )
    assert "Traceback" not in error

    assert main(command) == 0
    assert f"going on from {path}, iteration {iteration}\n" in capsys.readouterr().out
    assert main(fit(root, tmp_path / "whole")) == 0
    resumed, whole = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("stopped", "whole")
    )
    assert resumed["history"] == whole["history"]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(root: Path, tmp_path: Path):
    """Even in the iteration that the first one lets end: nothing is written any more."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ffcad", *fit(root, tmp_path, batch_size=4)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "autoencoder 1/62" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "fit: interrupted at iteration " in error
    assert "; the same command begins anew" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*checkpoint*"))


@pytest.mark.slow
def test_a_spoilt_checkpoint_is_told(root: Path, tmp_path: Path, capsys):
    short = fit(root, tmp_path, autoencoder_iterations=2, head_iterations=1, evaluate_every=1)
    assert main(short) == 0
    path = tmp_path / "checkpoint.pt"
    previous_checkpoint(path).write_bytes(path.read_bytes())
    path.write_bytes(b"spoilt")
    capsys.readouterr()
    assert main(short) == 0
    shown, said = capsys.readouterr()
    assert f"warning: {path} cannot be read as a checkpoint" in said
    assert f"going on from {previous_checkpoint(path)}, iteration 3\n" in shown
