"""An encoder that was made without a study is taken into the store."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ffcad.encoder_weights import read_card, save_encoder
from ffcad.pretrain_config import EncoderArchitecture
from ffcad.resnet import FFCResNet
from study.__main__ import main
from study.encoder_adding import ELSEWHERE, add_encoder
from study.encoder_making import Making, encoder_file, wrong_with
from study.encoders import CARD, EncoderError, EncoderStore
from study.storage import Storage


@pytest.fixture(scope="module")
def made(make_context, recipe, first_fit, tmp_path_factory):
    """A study's context, what it needs, and the file of another storage's encoder of that kind."""
    flags = f"{recipe} --set global_ratio=0.25"
    elsewhere = make_context(tmp_path_factory.mktemp("elsewhere"), flags)
    need = elsewhere.inputs.encoder_need(first_fit(elsewhere)[0])
    list(Making(elsewhere, need).run())
    storage = Storage(elsewhere.study.storage)
    return make_context, flags, need, storage.local / EncoderStore(storage).weights(need.key)


def test_a_study_that_needs_it_does_not_make_it(made, tmp_path, capsys):
    make_context, flags, need, path = made
    context = make_context(tmp_path, flags)
    command = ["encoders", "add", str(path), "--storage", str(tmp_path)]
    assert main(command) == 0
    assert need.key in capsys.readouterr().out
    store = EncoderStore(Storage(tmp_path))
    record = store.read(need.key)
    assert (record.status, record.study) == ("finished", ELSEWHERE)
    assert record.figures == read_card(path)["figures"]
    assert [e["iteration"] for e in record.history] == [
        e["iteration"] for e in read_card(path)["history"]
    ]
    run = encoder_file(context, need, tmp_path)
    with pytest.raises(StopIteration) as end:
        next(run)
    assert load_file(end.value.value).keys() == load_file(path).keys()
    assert main(command) == 0  # once more changes nothing
    assert store.read(need.key) == record


@pytest.mark.parametrize("file", ["weights", "card"])
def test_it_mends_an_encoder_whose_files_are_broken(made, tmp_path, file):
    *_, need, path = made
    store = EncoderStore(Storage(tmp_path))
    whole = add_encoder(store, path)
    broken = tmp_path / (
        store.weights(need.key) if file == "weights" else f"{store.folder(need.key)}/{CARD}"
    )
    broken.write_bytes(broken.read_bytes()[:500])
    record = add_encoder(store, path)
    assert (record.status, record.weights) == ("finished", whole.weights)
    assert wrong_with(tmp_path / store.weights(need.key), store.read(need.key)) is None


def without_card(path):
    save_file(load_file(path), path)


def of_another_version(path):
    card = read_card(path)
    encoder = FFCResNet(**{k: card["architecture"][k] for k in ("ratio", "layers", "lfu")})
    save_encoder(path, encoder, {**card, "recipe": {**card["recipe"], "iterations": 999}})


def of_another_architecture(path):
    card = read_card(path)
    save_encoder(path, FFCResNet(0.5), card)


def with_unknown_knob(path):
    card = read_card(path)
    a = EncoderArchitecture(**card["architecture"])
    recipe = {**card["recipe"], "magic": 1}
    save_encoder(path, FFCResNet(a.ratio, a.layers), {**card, "recipe": recipe})


def truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_card, "has no card; give a file that `python -m ffcad pretrain` made"),
        (of_another_version, "was made by another version"),
        (of_another_architecture, "belongs to another architecture"),
        (with_unknown_knob, "a card that this version does not know: unknown knob 'magic'"),
        (truncated, "cannot be read as weights"),
    ],
)
def test_what_is_no_encoder_of_this_version_is_refused(made, tmp_path, spoil, message, capsys):
    path = tmp_path / "encoder.safetensors"
    shutil.copy(made[3], path)
    spoil(path)
    with pytest.raises(EncoderError, match=message):
        add_encoder(EncoderStore(Storage(tmp_path)), path)
    assert main(["encoders", "add", str(path), "--storage", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert EncoderStore(Storage(tmp_path)).keys() == []


def test_the_list_shows_it(made, tmp_path, capsys):
    *_, need, path = made
    assert main(["encoders", "add", str(path), "--storage", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["encoders", "list", "--json", "--storage", str(tmp_path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)["encoders"]
    assert found["key"] == need.key
