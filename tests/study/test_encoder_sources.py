"""What encoders are made from: whose images, whose teacher, and what is said where they lack."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from ffcad.pretrain_config import PRETRAIN_VERSION
from study.arguments import parse
from study.encoder_sources import describe_makings, load_sources, recipe_of, study_corpus
from study.encoders import EncoderStore
from study.inputs import prepare
from study.run import main
from study.storage import Storage

KNOBS = "--set image_size=32 --set ffc_layers=1 --categories dial"


@pytest.fixture
def study_of(tmp_path, recipe):
    def make(flags=""):
        storage = ["--storage", str(tmp_path / "runs")]
        return parse([*storage, *KNOBS.split(), *recipe.split(), *flags.split()])[:2]

    return make


@pytest.fixture
def photos(tmp_path):
    """Two classes of three images, and a file that is none."""
    rng = np.random.default_rng(0)
    for name in ("bolt", "nut"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "nut" / "broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


def makings(made, tmp_path):
    return describe_makings(*made, EncoderStore(Storage(tmp_path / "runs")))


def test_the_default_corpus_is_what_the_fits_train_on_and_nothing_of_a_test_split(
    study_of, tmp_path
):
    config, _ = study_of()
    whole = study_corpus(config, recipe_of(config, "distilled", 32))
    # Both protocols train on the same images, and are other data sets.
    paper = dataclasses.replace(config, select_on="paper")
    assert study_corpus(paper, recipe_of(paper, "distilled", 32)).digest == whole.digest
    # This one selects on some of the normal images, which no encoder may see.
    held_out = dataclasses.replace(config, select_on="synthetic")
    fewer = study_corpus(held_out, recipe_of(held_out, "distilled", 32))
    assert len(fewer) < len(whole)
    assert fewer.digest != whole.digest
    other = dataclasses.replace(config, categories=("weave", "dial"))
    turned = dataclasses.replace(config, categories=("dial", "weave"))
    digests = {study_corpus(c, recipe_of(c, "distilled", 32)).digest for c in (other, turned)}
    assert len(digests) == 1
    assert whole.digest not in digests


def test_the_recipe_has_the_size_of_the_largest_fits_unless_it_says_another(study_of, tmp_path):
    made, _ = makings(study_of(), tmp_path)
    assert made["distilled"]["recipe"]["image_size"] == 32
    assert made["distilled"]["recipe"]["iterations"] == 4
    made, _ = makings(study_of("--pretrain image_size=64"), tmp_path)
    assert made["distilled"]["recipe"]["image_size"] == 64


def test_own_folders_may_be_the_corpus_and_what_does_not_decode_is_named(
    study_of, tmp_path, photos
):
    made, notes = makings(study_of(f"--corpus {photos}"), tmp_path)
    assert made["distilled"]["corpus"] != makings(study_of(), tmp_path)[0]["distilled"]["corpus"]
    (note,) = notes
    assert note.startswith("1 corpus image ")
    assert note.endswith(f": {photos}/nut/broken.png")
    made, _ = makings(study_of(f"--corpus {photos} --encoder supervised"), tmp_path)
    assert made["supervised"]["teacher"] is None


def test_a_worker_takes_the_teacher_from_the_storage(study_of, tmp_path, recipe):
    config, space = study_of("--set global_ratio=0.25")
    config, inputs, _ = prepare(config, space)
    need = inputs.encoder_need(space.corners([])[0])
    store = EncoderStore(Storage(tmp_path / "runs"))
    # Its own file of it is not needed.
    elsewhere = dataclasses.replace(config, teacher="/nowhere")
    corpus, teacher = load_sources(elsewhere, need, PRETRAIN_VERSION, store)
    assert (teacher.digest, corpus.digest) == (need.teacher, need.corpus)
    with pytest.raises(RuntimeError, match=f"the driver by {PRETRAIN_VERSION - 1}"):
        load_sources(config, need, PRETRAIN_VERSION - 1, store)
    # What a broken disk has spoilt is put there again by the next driver.
    path = tmp_path / "runs" / store.teacher(teacher.digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    prepare(*study_of("--set global_ratio=0.25"))
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--teacher nowhere.pth", "--teacher 'nowhere.pth' is no file"),
        ("--corpus nowhere", "--corpus 'nowhere' is no folder"),
        ("--corpus ,", "--corpus is empty"),
        ("--pretrain iterations", "--pretrain takes knob=value, but got 'iterations'"),
        ("--pretrain method=supervised", "--encoder says the method"),
        ("--pretrain iteration=3", "unknown knob 'iteration'; did you mean 'iterations'?"),
        ("--pretrain iterations=0", "iterations must be at least 1 but got 0"),
        ("--encoder random", "--teacher is for an encoder that is made, but it is 'random' here"),
        ("--encoder supervised", "--encoder supervised needs labels; give --corpus"),
        ("--set encoder_weights=random", "in a study that is --encoder"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_exit_code_2(
    recipe, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert main([*KNOBS.split(), *recipe.split(), *flags.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_empty_corpus_and_a_teacher_that_is_none_are_refused_too(
    recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([*KNOBS.split(), *recipe.split(), "--corpus", "empty"]) == 2
    assert "0 different images that can be read" in capsys.readouterr().err
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert main([*KNOBS.split(), *recipe.split(), "--teacher", "other.pth"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --teacher {tmp_path}/other.pth belongs to another arch")
    assert "is missing" in error


def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert main([*KNOBS.split(), "--encoder", "distilled"]) == 2
    captured = capsys.readouterr()
    assert "could not be downloaded" in captured.err
    assert "--teacher FILE" in captured.err
    assert "--encoder random" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "runs" / "studies").exists()


def test_images_of_ones_own_have_an_encoder_made_and_synthetic_ones_none(
    tmp_path, monkeypatch, photos
):
    monkeypatch.chdir(tmp_path)
    own = ["--data", "folder", "--data-root", str(photos / "bolt")]
    assert parse(own)[1].fixed["encoder_weights"] == "distilled"
    assert parse([*own, "--encoder", "random"])[1].fixed["encoder_weights"] == "random"
    assert "encoder_weights" not in parse([])[1].fixed
    said = tmp_path / "said.py"
    said.write_text('CELLS = {"a": {"encoder_weights": "random"}}\nFIXED = {}\n')
    assert "encoder_weights" not in parse([*own, "--space", str(said)])[1].fixed
