"""`python -m ffcad pretrain`, as its users meet it."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoders import teacher_file
from filelock import FileLock
from image_folders import picture, save

from ffcad.commands import main
from ffcad.encoder_weights import load_encoder_weights, read_card
from ffcad.resnet import FFCResNet

TINY = "image_size=32 iterations=4 batch_size=4 evaluate_every=2 calibration_batches=2 device=cpu"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def images(tmp_path) -> Path:
    for i in range(10):
        save(picture(i), tmp_path / "images" / f"{'ab'[i % 2]}" / f"{i}.png")
    return tmp_path / "images"


def command(images: Path, out: Path, *more: str, teacher: Path | str | None = None) -> list[str]:
    teacher = teacher or teacher_file(images.parent)
    words = ["pretrain", "--corpus", str(images), "--teacher", str(teacher), "--out", str(out)]
    return [*words, *(word for s in TINY.split() for word in ("--set", s)), *more]


@pytest.mark.slow
def test_it_writes_weights_that_a_training_takes(images, tmp_path, capsys):
    out = tmp_path / "made" / "encoder.safetensors"
    # Of a ratio that has many digits when it is rounded down to whole channels.
    (images / "a" / "bad.png").write_bytes(b"no image")
    assert main(command(images, out, "--ratio", "0.301", "--layers", "3")) == 0
    load_encoder_weights(FFCResNet(0.301, 3), str(out))
    card = read_card(out)
    assert card["iterations"] == 4
    shown, said = capsys.readouterr()
    assert "note: 1 corpus image cannot be read and was left out" in said
    assert "bad.png" in card["notes"][0]
    assert f"--set encoder_weights={out} --set global_ratio=0.30078125 --set ffc_layers=3" in shown
    assert "level 3, global" in shown
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80
    left = sorted(path.name for path in out.parent.iterdir() if path.suffix != ".lock")
    assert left == [out.name]


def test_one_that_is_there_is_not_made_again_nor_written_over(images, tmp_path, capsys):
    out = tmp_path / "encoder.safetensors"
    assert main(command(images, out)) == 0
    before = out.read_bytes()
    capsys.readouterr()
    assert main(command(images, out)) == 0
    assert f"{out} is there already" in capsys.readouterr().out
    assert main(command(images, out, "--ratio", "0.25")) == 2
    assert "is there and is another encoder; give another file" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.slow
def test_a_supervised_one_reports_its_accuracy(images, tmp_path, capsys):
    out = tmp_path / "encoder.safetensors"
    words = command(images, out, "--set", "method=supervised")
    at = words.index("--teacher")
    assert main([*words[:at], *words[at + 2 :]]) == 0
    assert "top-1" in capsys.readouterr().out
    assert 0 <= read_card(out)["figures"]["top1"] <= 1


class Payload:
    """Would leave a file behind if anybody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def truncated(folder: Path) -> Path:
    path = teacher_file(folder)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def with_code(folder: Path) -> Path:
    path = folder / "code.pth"
    path.write_bytes(pickle.dumps({"state_dict": Payload(folder / "ran")}))
    return path


def of_another_network(folder: Path) -> Path:
    path = folder / "ffc.pth"
    torch.save(FFCResNet(0.5).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (truncated, "cannot be read as weights: it is truncated or of another kind"),
        (with_code, "something else than tensors, which might be code and was not run"),
        (of_another_network, "layer1.0.conv1.ffc.convl2l.weight has shape (32, 64, 3, 3) instead"),
        (lambda folder: "random", "a teacher cannot be random"),
        (lambda folder: folder / "none.pth", "no such file of weights; give one, or 'torchvision'"),
    ],
)
def test_a_teacher_that_is_none_is_refused_in_one_line(images, tmp_path, capsys, teacher, message):
    out = tmp_path / "encoder.safetensors"
    assert main(command(images, out, teacher=teacher(tmp_path))) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--ratio", "1.5"),
            "--ratio 1.5, --layers 2: no encoder can be so: global_ratio must be less than 1",
        ),
        (("--ratio", "0.01"), "--ratio 0.01, --layers 2: no encoder can be so"),
        (("--layers", "4"), "ffc_layers must be one of 1, 2, 3 but got 4"),
        (("--out", "encoder.pt"), "--out must end in .safetensors but got encoder.pt"),
        (("--set", "iteration=3"), "unknown knob 'iteration'; did you mean 'iterations'?"),
        (("--set", "learning_rate=fast"), "learning_rate must be a number but got 'fast'"),
        (("--set", "method=supervised"), "--teacher is not for method=supervised"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(images, tmp_path, capsys, more, message):
    assert main(command(images, tmp_path / "encoder.safetensors", *more)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_two_makers_of_one_file_do_not_disturb_each_other(images, tmp_path, capsys):
    out = tmp_path / "encoder.safetensors"
    with FileLock(out.with_suffix(".lock")):
        assert main(command(images, out)) == 2
    assert "is being made by another process; wait for it, or end it" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_signal_stops_it_and_the_same_command_goes_on(images, tmp_path, capsys):
    paths = [tmp_path / f"{name}.safetensors" for name in ("stopped", "whole")]
    more = ("--set", "iterations=60", "--set", "evaluate_every=50")
    process = subprocess.Popen(
        [sys.executable, "-m", "ffcad", *command(images, paths[0], *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    while "encoder 1/60" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command goes on from there" in error
    assert main(command(images, paths[0], *more)) == 0
    assert "going on from" in capsys.readouterr().out
    assert main(command(images, paths[1], *more)) == 0
    cards = [read_card(path) for path in paths]
    assert cards[0]["figures"] == cards[1]["figures"]
