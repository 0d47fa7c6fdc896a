"""The commands, as their users meet them: files, words, exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import mvtec
from PIL import Image

from ffcad.commands import main
from ffcad.commands.arguments import configuration
from ffcad.commands.fit import default_folder
from ffcad.commands.image_sources import picture_names
from ffcad.commands.progress import TimeLeft, duration
from ffcad.config import ConfigError, TrainConfig, knobs
from ffcad.datasets import load_category, load_textures
from ffcad.training import Progress, train

TINY = dict(
    image_size=64,
    autoencoder_channels=16,
    head_channels=8,
    batch_size=2,
    autoencoder_iterations=2,
    head_iterations=2,
    evaluate_every=1,
    sgd_learning_rate=1e-3,
    device="cpu",
)


def fit(root: Path, out: Path, **values) -> list[str]:
    words = ["fit", "--data", "mvtec", "--data-root", str(root), "--out", str(out)]
    return words + [word for k, v in (TINY | values).items() for word in ("--set", f"{k}={v}")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "80")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One category, "nut": 4 images to train on, 2 + 2 to select on, 2 + 2 to report on."""
    return mvtec(tmp_path_factory.mktemp("root"), train=4, good=4, defects={"bent": 4})


@pytest.fixture(scope="module")
def fitted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    assert main(fit(root, out)) == 0
    return out


# --set


def test_every_knob_can_be_set_to_its_default():
    words = [f"{name}={'none' if f.default is None else f.default}" for name, f in knobs().items()]
    assert configuration(words) == TrainConfig()


def test_values_get_the_knobs_type():
    words = "hsas=none gradient_clip=2 sgd_learning_rate=1 vertical_flip=on compile=FALSE"
    words += " encoder_weights=/a=b batch_size=4 batch_size=6"
    assert configuration(words.split()) == TrainConfig(
        hsas="none",
        gradient_clip=2.0,
        sgd_learning_rate=1.0,
        vertical_flip=True,
        encoder_weights="/a=b",
        batch_size=6,
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size", "knob=value"),
        ("batch_size=2.5", "batch_size must be a whole number but got '2.5'"),
        ("batch_size=none", "batch_size must be a whole number"),
        ("gradient_clip=x", "gradient_clip must be a number or none but got 'x'"),
        ("compile=maybe", "compile must be true or false but got 'maybe'"),
        ("ffc_layer=2", "did you mean 'ffc_layers'"),
        ("ffc_layers=4", "ffc_layers must be one of 1, 2, 3"),
    ],
)
def test_a_setting_that_cannot_be(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        configuration([setting])


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "COMMAND"),
        ("fit --date mvtec", "--date"),
        ("fit --data mvtek", "mvtek"),
        ("fit --seed -1", "whole number"),
        ("fit --set image_sise=64", "did you mean 'image_size'"),
        ("fit --set device=cuda:99 --category dial", "cuda:99"),
        ("fit --category dia", "did you mean 'dial'"),
        ("fit", "--category is needed: one of dial, "),
        ("fit --data mvtec --category screw", "--data-root"),
        ("fit --data folder --data-root NOWHERE", "NOWHERE"),
        ("fit --data mvtec --data-root ROOT --textures NOWHERE", "NOWHERE"),
        ("fit --data mvtec --data-root ROOT --out FILE", "FILE"),
        (
            "fit --data mvtec --data-root ROOT --out OUT --set encoder_weights=no.pth",
            "no.pth",
        ),
        ("predict NOWHERE FILE --out OUT", "NOWHERE"),
        ("predict FILE FILE --out OUT", "FILE"),
        ("predict CHECKPOINT NOWHERE --out OUT", "NOWHERE: no such file or folder"),
        ("predict EMPTY FILE --out OUT", "give a folder with a detector"),
        ("predict CHECKPOINT FILE --out OUT --monitor", "--monitor needs the scores"),
        ("predict CHECKPOINT EMPTY --out OUT", "no image in it"),
        ("predict CHECKPOINT FILE --out OUT --masks NOWHERE", "--masks"),
        ("predict CHECKPOINT FILE --out OUT --masks EMPTY", "FILE_mask.png"),
        ("export NOWHERE --out OUT", "NOWHERE: no such checkpoint, and no folder of a detector"),
        ("export FILE --out OUT", "FILE cannot be read as a checkpoint"),
        ("export CHECKPOINT --out FILE", "--out FILE cannot be made"),
        ("export CHECKPOINT --out OUT --images NOWHERE", "--images NOWHERE: no such folder"),
        ("export CHECKPOINT --out OUT --images EMPTY", "no image in it"),
        ("describe --kernel 2", "odd"),
        ("describe --channels 2 2", "global_ratio"),
        ("describe --set global_ratio=1", "global_ratio must be less than 1"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(
    arguments: str, message: str, tmp_path: Path, root: Path, fitted: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("no image, no checkpoint, no folder")
    Path("EMPTY").mkdir()
    places = {"CHECKPOINT": str(fitted / "checkpoint.pt"), "ROOT": str(root)}
    words = [places.get(word, word) for word in arguments.split()]
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, error
    assert lines[0].startswith("python -m ffcad")
    assert message in lines[0]


def test_help_lists_every_knob(capsys):
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name}=" in shown for name in knobs())
    assert max(map(len, shown.splitlines())) <= 80


# describe


def test_describe_as_json_and_as_tables(capsys):
    small = ["--set", "image_size=64", "--set", "head_channels=8"]
    assert main(["describe", "--json", "--channels", "64", "128", *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["head_channels"] == 8
    assert [p["name"] for p in found["model"]["parts"]] == ["encoder", "autoencoder", "head"]
    assert found["model"]["parts"][0]["parameters"] == 2_307_872
    assert found["ffc"]["table_parameters"] == found["ffc"]["parameters"] == 62_464
    assert found["ffc"]["side"] == 16

    assert main(["describe", "--channels", "64", "128", *small]) == 0
    shown = capsys.readouterr().out
    assert "2.308 M" in shown
    assert "62,464" in shown
    assert "x = 0.8125, counted: x = 1.062" in shown  # 1 + 1/16
    assert "not counted: Fourier" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


# fit


def test_fit_leaves_everything_in_its_folder(fitted: Path):
    names = {"metrics.json", "config.json", "checkpoint.pt", "worst.png", "best.png"}
    assert {p.name for p in fitted.iterdir()} == names
    assert TrainConfig.from_dict(json.loads((fitted / "config.json").read_text())) == TrainConfig(
        **TINY
    )
    found = json.loads((fitted / "metrics.json").read_text())
    assert {"select_image_auroc", "report_pixel_aupro"} <= set(found["metrics"])
    assert found["case"]["category"] == "nut", "the only one"
    assert found["case"]["seed"] == 0
    assert found["case"]["holdout"] == "halves"
    assert found["digests"]["config"] == TrainConfig(**TINY).digest()
    state = torch.load(fitted / "checkpoint.pt", weights_only=True)
    assert found["digests"]["encoder"] == state["encoder_digest"]
    assert found["digests"]["data"] == state["data_digest"]
    assert found["random_encoder"] is True
    assert [h["iteration"] for h in found["history"]] == [1, 2, 3, 4]
    assert found["seconds"] > 0
    assert found["peak_memory_mib"]["process"] > 50
    for name in ("worst.png", "best.png"):
        assert Image.open(fitted / name).width <= 1600


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")
def test_a_killed_fit_goes_on_to_the_same_numbers(fitted: Path, root: Path, tmp_path: Path, capsys):
    data = load_category("mvtec", root, "nut", 64)
    for progress in train(TrainConfig(**TINY), data, 0, checkpoint=tmp_path / "checkpoint.pt"):
        if progress.iteration == 3:
            break
    assert main(fit(root, tmp_path)) == 0
    shown, said = capsys.readouterr()
    assert f"going on from {tmp_path}" in shown
    assert "head 4/4" in shown
    assert "autoencoder 1/4" not in shown
    assert said.count("random weights") == 1
    for text in ("image_auroc", "pixel_aupro", "select (4", "report (4", "peak memory", "random"):
        assert text in shown
    assert max(map(len, shown.splitlines()[1:-2])) <= 80  # the others name files
    resumed, whole = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, fitted)
    )
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["digests"] == whole["digests"]
    assert main([*fit(root, tmp_path), "--seed", "1"]) == 2
    assert "its seed is 0, here 1" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_with_code_3(root: Path, tmp_path: Path, capsys):
    assert main(fit(root, tmp_path, sgd_learning_rate=1e30, evaluate_every=100)) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "loss became" in last
    assert "sgd_learning_rate" in last


def test_each_training_has_a_folder_of_its_own_by_default(root: Path):
    config = TrainConfig(**TINY)
    data, other = (
        load_category("mvtec", root, "nut", 64, select_on=protocol)
        for protocol in ("holdout", "paper")
    )
    textures = load_textures(root / "nut" / "train", 64)
    folders = [
        default_folder(config, data, None, 0),
        default_folder(config, data, None, 1),
        default_folder(config, data, textures, 0),
        default_folder(config, other, None, 0),
        default_folder(replace(config, momentum=0.5), data, None, 0),
    ]
    assert len(set(folders)) == len(folders)
    later = replace(config, evaluate_every=7, loader_workers=1)
    assert default_folder(later, data, None, 0) == folders[0], "the same training"


def test_time_left_expects_stage_two_to_be_slower():
    config = TrainConfig(image_size=64, autoencoder_iterations=10, head_iterations=20)
    at = Progress(
        stage="autoencoder",
        iteration=1,
        iterations=30,
        loss=0.0,
        seconds=5.0,
        metrics=None,
        history=[],
        final=False,
        model=None,
        encoder_digest="",
    )
    time_left = TimeLeft(config)
    assert time_left.slower > 1.5
    assert time_left(at) is None, "the first iteration says nothing about the pace"
    left = time_left(replace(at, iteration=6, seconds=5.0 + 5 * 2))
    assert left == pytest.approx(2 * (4 + 20 * time_left.slower))
    assert time_left(replace(at, stage="head", iteration=11, seconds=30.0)) is None
    left = time_left(replace(at, stage="head", iteration=12, seconds=33.0))
    assert left == pytest.approx(3 * 18)
    assert time_left(replace(at, stage="head", iteration=30, final=True)) == 0
    assert [duration(s) for s in (None, 0, 61.6, 3723)] == ["?", "0:00", "1:02", "1:02:03"]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(root: Path, tmp_path: Path):
    longer = fit(root, tmp_path, autoencoder_iterations=100, head_iterations=1, evaluate_every=5)
    command = [sys.executable, "-m", "ffcad", *longer]
    run = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    process = subprocess.Popen(command, **run)
    while not (tmp_path / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    done = subprocess.run(command, **run, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout


# predict


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Files of all kinds; three of them are below a hidden folder, no image, or damaged."""
    folder = tmp_path / "images"
    (folder / "b" / ".hidden").mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(colour).save(folder / "a.jpg")
    Image.fromarray(colour).save(folder / "a.PNG")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "b" / "sixteen.png")
    Image.fromarray(np.dstack([colour, grey])).save(folder / "b" / "with [alpha] $x$.png")
    Image.fromarray(grey).save(folder / "b" / ".hidden" / "c.png")
    (folder / "b" / "broken.png").write_bytes((folder / "a.PNG").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_inspects_what_it_can_and_names_what_it_cannot(fitted: Path, images: Path, capsys):
    out = images / "out"  # what an earlier call has left there is not inspected
    (out / "pictures").mkdir(parents=True)
    (out / "pictures" / "earlier.jpg").write_bytes((images / "a.jpg").read_bytes())
    (out / "scores.csv").touch()
    command = ["predict", str(fitted / "checkpoint.pt"), str(images), "--out", str(out)]
    assert main(command) == 1
    shown, said = capsys.readouterr()
    assert f"error: {images / 'b' / 'broken.png'}: cannot be read" in said
    assert "random weights" in said
    assert "4 of 5 images inspected" in shown
    with open(out / "scores.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    names = {"a.jpg", "a.PNG", "sixteen.png", "with [alpha] $x$.png"}
    assert {Path(row["file"]).name for row in rows} == names
    listed = [line.split("  ", 1)[1] for line in shown.splitlines()[1:-2]]
    assert listed == [row["file"] for row in rows]
    assert sorted(out.rglob("*.png")) == sorted(out / row["picture"] for row in rows)
    assert {row["encoder"] for row in rows} == {"random"}, "the file says it when passed on"


def test_predict_draws_truth_where_there_is_a_mask(fitted: Path, images: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    (masks / "b").mkdir(parents=True)
    mask = np.zeros((30, 50), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(masks / "a_mask.png")
    Image.fromarray(mask).save(masks / "b" / "sixteen.png")
    command = ["predict", str(fitted / "checkpoint.pt"), str(images / "a.jpg"), str(images / "b")]
    (images / "b" / "broken.png").unlink()
    command += ["--out", str(tmp_path / "out"), "--masks", str(masks)]
    assert main(command) == 0
    width = {p.name: Image.open(p).width for p in (tmp_path / "out").rglob("*.png")}
    assert width["a.png"] > width["with [alpha] $x$.png"]  # a column more


def test_pictures_of_files_of_one_name_do_not_overwrite_each_other():
    names = [Path("a/x.png"), Path("a/x.jpg"), Path("x.jpg"), Path("a/x.bmp")]
    wanted = ["a/x.png", "a/x-2.png", "x.png", "a/x-3.png"]
    assert [p.as_posix() for p in picture_names(names)] == [f"pictures/{name}" for name in wanted]


def test_the_module_runs():
    command = [sys.executable, "-m", "ffcad", "predict", "nowhere.pt", "nowhere.png", "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "python -m ffcad predict: error: nowhere.png: no such file or folder\n"
