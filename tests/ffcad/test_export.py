"""Exported graphs: they inspect as their model does, alone, and nothing wrong gets a name."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import picture, save

from ffcad.commands import main
from ffcad.export import (
    ExportError,
    InspectionGraph,
    inspect_with_model,
    load_onnx,
    load_torch,
    write_onnx,
)
from ffcad.export_checks import TOLERANCE, check, image_seconds, random_images
from ffcad.layers import FourierUnit
from ffcad.model import FFCAD
from ffcad.predictor import Predictor, predict
from ffcad.training import train

REAL = os.environ.get("FFCAD_REAL_DATA")

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


@pytest.fixture(scope="module")
def config(tiny):
    """A size whose feature maps have odd sides: 37 -> 10, 5, 3, 2."""
    return replace(tiny, image_size=37, image_score_pixels=5)


@pytest.fixture(scope="module")
def model(config) -> FFCAD:
    torch.manual_seed(0)
    return FFCAD(config).eval()


@pytest.mark.parametrize("fourier", ["matrix", "dft"])
@pytest.mark.parametrize(("use_head", "takes"), [(True, "float32"), (False, "uint8")])
def test_the_graph_computes_what_the_predictor_does(model, use_head, takes, fourier):
    images = random_images(37)
    expected = predict(model, images, use_head=use_head)
    graph = InspectionGraph(model, use_head=use_head, takes=takes, fourier=fourier)
    given = torch.from_numpy(images)
    if takes == "float32":
        given = given.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        found = [part.numpy() for part in graph(given)]
    assert expected[1].std() > 1e-3
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    left = sum(isinstance(unit, FourierUnit) for unit in graph.modules())
    assert (left == 0) == (fourier == "matrix")
    assert any(isinstance(unit, FourierUnit) for unit in model.modules()), "its model is a copy"


def test_a_model_of_half_precision_is_compared_in_float32(model, config):
    half = FFCAD(replace(config, precision="bfloat16"))
    half.load_state_dict(model.state_dict())
    images = random_images(37)
    found = inspect_with_model(Predictor(half, "cpu"))(images)[1]
    np.testing.assert_allclose(found, predict(model, images)[1], atol=1e-6)
    assert np.abs(predict(half, images)[1] - found).max() > TOLERANCE


def brightness(images):
    maps = images.mean(axis=-1).astype(np.float32)
    return maps.max(axis=(1, 2)), maps


def test_a_check_tells_the_largest_difference_whatever_the_batches():
    def graph(images):
        sizes.append(len(images))
        scores, maps = brightness(images)
        maps[:, 3, 5] += np.float32(2.0**-14) * (images[:, 0, 0, 0] == 255)
        return scores + np.float32(2.0**-15), maps

    sizes = []
    images = random_images(16) // 2
    images[3] = 255
    found = check(graph, images, brightness(images), (1, 2))
    assert sizes == [1, 2, 1]
    assert (found.images, found.score) == (4, pytest.approx(2.0**-15, rel=0.1))
    assert found.map == pytest.approx(2.0**-14, rel=0.3)


@pytest.mark.parametrize("wrong", [2.0**-12, -0.5, np.nan])
@pytest.mark.parametrize("part", ["scores", "anomaly maps"])
def test_a_graph_that_differs_or_gives_no_number_is_refused(part, wrong):
    def graph(images):
        scores, maps = brightness(images)
        (scores if part == "scores" else maps[:, 0, 0])[-1] += wrong
        return scores, maps

    images = random_images(16)[:3]
    with pytest.raises(ExportError, match=f"its {part} differ from the model's by up to"):
        check(graph, images, brightness(images), (2,))


def test_times_are_taken_in_turns():
    order = []
    inspects = {name: lambda images, name=name: order.append(name) for name in "ab"}
    seconds = image_seconds(inspects, random_images(16)[0], 3)
    assert order == ["a", "b"] * (len(order) // 2)
    assert len(order) > 2 * 3
    assert all(0 < s < 1 for s in seconds.values())


def test_without_the_packages_an_onnx_export_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", "nowhere.pt", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "onnxruntime cannot be imported; pip install 'ffcad-study[export]'" in line
    command = ["export", "nowhere.pt", "--out", str(tmp_path / "out"), "--format", "torch"]
    assert main(command) == 2
    assert "nowhere.pt: no such checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Files: torch takes tens of seconds to write one.


@pytest.fixture(scope="module")
def checkpoint(tiny, dial, tmp_path_factory) -> Path:
    small = dict(ffc_encoder=False, ffc_layers=1, autoencoder_iterations=1, head_iterations=1)
    path = tmp_path_factory.mktemp("fit") / "checkpoint.pt"
    list(train(replace(tiny, **small), dial, checkpoint=path))
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for i in range(3):
        save(picture(i), folder / f"images/{i}.png")
    command = ["export", str(checkpoint), "--out", str(folder / "out"), "--input", "uint8"]
    assert main([*command, "--images", str(folder / "images"), "--rounds", "1"]) == 0
    return folder / "out"


@pytest.mark.slow
def test_both_files_inspect_as_the_predictor_any_number_of_images(checkpoint, exported, dial):
    predictor = Predictor.load(checkpoint, "cpu")
    inspects = load_onnx(exported / "detector.onnx", 1), load_torch(exported / "detector.pt2")
    for images in (dial.report.images[:1], dial.report.images[:5]):
        expected = predictor(np.asarray(images))
        for inspect in inspects:
            found = inspect(np.asarray(images))
            for a, b in zip(found, expected, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, atol=TOLERANCE)


@pytest.mark.slow
def test_the_card_says_what_the_files_take_and_how_far_they_are_from_the_model(exported):
    names = {"detector.onnx", "detector.pt2", "export.json"}
    assert {path.name for path in exported.iterdir()} == names
    card = json.loads((exported / "export.json").read_text())
    assert card["input"] == {
        "name": "images",
        "is": "(N, S, S, 3) uint8, as image decoders give",
    } | {"S": 64}
    assert (
        set(card["files"]) == set(card["seconds_per_image"]) - {"model"} == names - {"export.json"}
    )
    for file in card["files"].values():
        assert file["differs_on_random_images"]["images"] == 4
        assert file["differs_on_given_images"]["images"] == 3
        assert file["differs_on_given_images"]["map"] <= TOLERANCE


@pytest.mark.slow
def test_onnx_names_its_sides_and_has_no_transform_of_its_own(exported):
    import onnx

    graph = onnx.load(exported / "detector.onnx").graph
    sides = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sides == {
        "images": ["batch", 64, 64, 3],
        "anomaly_scores": ["batch"],
        "anomaly_maps": ["batch", 64, 64],
    }
    assert "DFT" not in {node.op_type for node in graph.node}


@pytest.mark.slow
def test_the_program_runs_without_this_package(exported, tmp_path):
    program = (
        "import sys, torch\n"
        f"module = torch.export.load({str(exported / 'detector.pt2')!r}).module()\n"
        "scores, maps = module(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))\n"
        "print(tuple(scores.shape), tuple(maps.shape), 'ffcad' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout == "(3,) (3, 64, 64) False\n", done.stderr


@pytest.mark.slow
def test_the_operator_agrees_too(checkpoint, tmp_path):
    import onnx

    predictor = Predictor.load(checkpoint, "cpu")
    graph = InspectionGraph(predictor.model, use_head=False, takes="float32", fourier="dft")
    write_onnx(graph, tmp_path / "a.onnx")
    assert "DFT" in {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    predictor.use_head = False
    inspect = load_onnx(tmp_path / "a.onnx", 1)
    images = random_images(64)
    expected = inspect_with_model(predictor)(images)
    assert check(inspect, images, expected, (1, 3)).images == 4


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="FFCAD_REAL_DATA names no folder of real images")
@pytest.mark.parametrize("category", ["magnetic_tile", "mtoc", "screw"])
def test_real_images_are_inspected_alike(checkpoint, exported, category):
    from ffcad.datasets import read_image

    files = sorted((Path(REAL) / category / "test").rglob("*.*g"))[::40]
    images = np.stack([read_image(path, 64) for path in files])
    expected = inspect_with_model(Predictor.load(checkpoint, "cpu"))(images)
    for inspect in (
        load_onnx(exported / "detector.onnx", 1),
        load_torch(exported / "detector.pt2"),
    ):
        assert check(inspect, images, expected, (2,)).images >= 2
