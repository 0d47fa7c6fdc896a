"""The detector: images of any kind in, the predictor's numbers and verdicts out, and its files."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffcad.datasets import DataError
from ffcad.detector import DESCRIPTION, WEIGHTS, Detector, DetectorError
from ffcad.predictor import Predictor

RNG = np.random.default_rng(1)
COLOUR = RNG.integers(0, 256, (40, 57, 3), np.uint8)
KINDS = {
    "colour": COLOUR,
    "grey": COLOUR[..., 0],
    "transparent": np.dstack([COLOUR, COLOUR[..., :1]]),
    "sixteen bits": COLOUR[..., 0].astype(np.uint16) * 200,
    "of the model's size": COLOUR[:32, :32],
    "one row": COLOUR[:1],
    "a view": COLOUR[::-1, ::2],
}


@pytest.fixture
def saved(detector, tmp_path) -> Path:
    detector.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_arrays_of_every_kind_are_seen_as_their_files_are(detector, tmp_path):
    paths = []
    for name, array in KINDS.items():
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(np.ascontiguousarray(array)).save(paths[-1])
    found = detector.inspect(KINDS.values())
    scores, maps = Predictor(detector.predictor.model, "cpu", True)(paths)
    assert [inspection.score for inspection in found] == pytest.approx(scores.tolist(), rel=1e-5)
    for inspection, anomaly_map in zip(found, maps, strict=True):
        np.testing.assert_allclose(inspection.anomaly_map, anomaly_map, atol=1e-5)


def test_verdicts_and_regions_follow_from_the_thresholds(detector):
    found = detector.inspect(RNG.integers(0, 256, (20, 50, 90, 3), np.uint8))
    threshold = detector.calibration.image_threshold
    assert [f.defect for f in found] == [f.score >= threshold for f in found]
    assert {f.defect for f in found} == {True, False}
    for f in found:
        above = f.anomaly_map >= detector.calibration.pixel_threshold
        assert bool(f.regions) == above.any()
        for region in f.regions:
            assert region.box[2] <= 90
            assert region.box[3] <= 50
            assert region.peak >= detector.calibration.pixel_threshold


def test_without_masks_there_are_no_regions_and_without_calibration_no_verdicts(detector):
    model = detector.predictor.model
    without = replace(detector.calibration, pixel_threshold=None)
    [found] = Detector(model, without, use_head=True, device="cpu").inspect([COLOUR])
    assert found.regions == []
    bare = Detector(model, None, use_head=True, device="cpu")
    [found] = bare.inspect([COLOUR])
    assert (found.defect, found.regions) == (None, [])
    with pytest.raises(DetectorError, match="calibrate it first"):
        bare.save(Path("nowhere"))


def test_no_image_gives_nothing(detector):
    assert detector.inspect([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((20, 20, 3), np.float32),
        np.zeros((20, 20, 2), np.uint8),
        np.zeros((20, 20, 3), np.uint16),
        np.zeros((2, 20, 20, 3), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_what_is_no_image_is_named_by_its_number(detector, wrong):
    with pytest.raises(DataError, match="image 1 must be"):
        detector.inspect([COLOUR, wrong])


def test_threads_get_what_one_would(detector):
    images = RNG.integers(0, 256, (8, 20, 20, 3), np.uint8)
    alone = [detector.inspect([image])[0].score for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: detector.inspect([image])[0].score, images))
    assert together == alone


def test_a_saved_detector_finds_the_same(detector, saved):
    assert sorted(path.name for path in saved.iterdir()) == [DESCRIPTION, WEIGHTS]
    loaded = Detector.load(saved, "cpu")
    assert loaded.calibration == detector.calibration
    assert loaded.config == detector.config
    for a, b in zip(detector.inspect([COLOUR]), loaded.inspect([COLOUR]), strict=True):
        assert (a.score, a.defect, a.regions) == (b.score, b.defect, b.regions)
        np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)


def test_the_discrepancy_is_remembered_where_the_head_was_not_trained(detector, tmp_path):
    model = detector.predictor.model
    early = Detector(model, detector.calibration, use_head=False, device="cpu")
    early.save(tmp_path)
    [a], [b], [head] = (
        d.inspect([COLOUR]) for d in (early, Detector.load(tmp_path, "cpu"), detector)
    )
    assert a.score == b.score != head.score


def change(folder, **values):
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_weights(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def config_of(folder, **values):
    change(folder, config=json.loads((folder / DESCRIPTION).read_text())["config"] | values)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "No such file or directory; give a folder with a detector"),
        (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS}: No such file"),
        (lambda f: (f / DESCRIPTION).write_text("{"), "cannot be read"),
        (lambda f: (f / DESCRIPTION).write_bytes(b"\xff\x00"), "cannot be read"),
        (lambda f: (f / DESCRIPTION).write_text("[]"), "no detector of ffcad"),
        (lambda f: change(f, format=2), "has format 2; this version reads 1"),
        (lambda f: change(f, method_version=99), "version 99 of the method, this is"),
        (lambda f: change(f, use_head="yes"), "use_head must be true or false"),
        (lambda f: change(f, calibration={}), "a calibration has"),
        (lambda f: change(f, config=None), DESCRIPTION),
        (lambda f: config_of(f, image_size=1), "image_size must be at least 32"),
        (lambda f: config_of(f, head_channels=16), "does not fit its configuration"),
        (other_weights, "damaged or of another detector"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_in_one_line(saved, harm, message):
    harm(saved)
    with pytest.raises(DetectorError) as refused:
        Detector.load(saved, "cpu")
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
