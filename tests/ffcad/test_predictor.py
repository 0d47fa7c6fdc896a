"""The predictor: files and arrays, and the same numbers as the training that it comes from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffcad.config import IMAGENET_MEAN, IMAGENET_STD
from ffcad.datasets import DataError
from ffcad.metrics import all_metrics
from ffcad.model import FFCAD
from ffcad.predictor import Predictor, normalise, pick_device, predict, to_float
from ffcad.training import Progress, train

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


@pytest.fixture(scope="module")
def config(tiny):
    """The mean of five pixels as score, so that it is not simply the map's maximum."""
    short = dict(autoencoder_iterations=2, head_iterations=1, evaluate_every=1)
    return replace(tiny, image_score_pixels=5, **short)


@pytest.fixture(scope="module")
def trained(config, dial, tmp_path_factory) -> tuple[Path, Progress]:
    path = tmp_path_factory.mktemp("fit") / "checkpoint.pt"
    *_, final = train(config, dial, checkpoint=path)
    return path, final


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor.load(trained[0], "cpu")


def test_it_gives_the_numbers_that_training_reported(trained, predictor, dial):
    scores, maps = predictor(np.asarray(dial.report.images))
    metrics = all_metrics(scores, dial.report.labels, maps, dial.report.masks)
    reported = trained[1].metrics
    assert {k: reported[f"report_{k}"] for k in metrics} == metrics


def test_scores_are_the_mean_of_the_highest_pixels_of_the_maps(predictor, dial):
    images = np.asarray(dial.report.images)
    scores, maps = predictor(images)
    assert scores.dtype == maps.dtype == np.float32
    assert maps.shape == (len(images), 64, 64)
    highest = np.sort(maps.reshape(len(images), -1))[:, -5:]
    np.testing.assert_allclose(scores, highest.mean(axis=1), rtol=1e-6)


def test_an_image_gets_the_same_map_whatever_comes_with_it(predictor, dial):
    images = np.asarray(dial.report.images)
    _, maps = predictor(images)
    for i in (0, len(images) - 1):
        np.testing.assert_allclose(predictor(images[i : i + 1])[1][0], maps[i], atol=1e-5)


def test_files_of_any_size_and_kind_are_taken(predictor, dial, tmp_path):
    image = Image.fromarray(np.asarray(dial.report.images[0]))
    image.save(tmp_path / "same.png")
    image.resize((91, 130)).convert("L").save(tmp_path / "Other.JPG", "JPEG")
    scores, maps = predictor([tmp_path / "same.png", tmp_path / "Other.JPG"])
    assert (scores.shape, maps.shape) == ((2,), (2, 64, 64))
    expected = predictor(np.asarray(dial.report.images[:1]))
    np.testing.assert_allclose(maps[0], expected[1][0], atol=1e-5)


def test_a_file_that_is_no_image_is_named(predictor, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DataError, match=r"notes\.png"):
        predictor([tmp_path / "notes.png"])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 32, 64, 3), np.uint8),
        np.zeros((2, 64, 64), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 3, 64, 64), np.uint8),
        np.zeros((2, 64, 64, 3), np.float32),
    ],
)
def test_another_shape_or_type_is_refused(predictor, wrong):
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, 64, 64, 3\) but got"):
        predictor(wrong)


@pytest.mark.parametrize("none", [np.zeros((0, 64, 64, 3), np.uint8), []])
def test_nothing_to_inspect_is_refused(predictor, none):
    with pytest.raises(ValueError, match="no images were given"):
        predictor(none)


def test_before_the_head_is_trained_the_discrepancy_detects(config, dial, tmp_path):
    """A checkpoint of stage one, and a configuration that trains no head at all."""
    images = np.asarray(dial.report.images[:2])
    steps = train(config, dial, checkpoint=tmp_path / "early.pt")
    model = next(steps).model
    expected = predict(model, images, use_head=False)[1]
    found = Predictor.load(tmp_path / "early.pt", "cpu")(images)[1]
    np.testing.assert_array_equal(found, expected)
    headless = FFCAD(replace(config, head_iterations=0))
    headless.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(Predictor(headless, "cpu")(images)[1], expected)


def test_predicting_leaves_the_model_in_its_mode_and_state(tiny, dial):
    model = FFCAD(tiny)
    model.autoencoder.train()
    model.head.eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predict(model, dial.report.images)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_images_are_normalised_as_imagenets_are():
    pixel = np.array([[[[255, 0, 51]]]], np.uint8)
    found = normalise(to_float(pixel, torch.device("cpu")))
    values = zip((1, 0, 0.2), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    expected = [(v - mean) / std for v, mean, std in values]
    assert found.shape == (1, 3, 1, 1)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'cuda:77' is not there: torch sees \d+ GPUs"):
        pick_device("cuda:77")
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        pick_device("graphics")
