"""Pictures: the right cases, in a file of bearable size, whatever the images."""

import threading
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import Normalize
from PIL import Image

from ffcad.datasets import Split
from ffcad.pictures import Inspected, case_sheet, inspection_picture, overlay, ranked

RNG = np.random.default_rng(0)
CYAN = np.array([0, 229, 255])


def make_split(
    labels: list[bool], side: int = 40, masks: bool = True, noise: bool = False
) -> Split:
    n = len(labels)
    images = np.full((n, side, side, 3), 120, np.uint8)
    if noise:
        images = RNG.integers(0, 256, images.shape, np.uint8)
    truth = np.zeros((n, side, side), bool)
    truth[np.array(labels, bool), 0:6, 10:20] = True
    return Split(
        images=images,
        labels=np.array(labels, bool),
        defect_types=["hole" if label else "good" for label in labels],
        paths=[f"a/${i}$ [x]_{'long' * 20}.png" for i in range(n)],
        masks=truth if masks else None,
    )


def has_colour(path: Path, colour: np.ndarray) -> bool:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return bool((np.abs(pixels - colour).max(-1) < 40).any())


def test_worst_are_high_normals_and_low_defectives():
    labels = np.array([0, 1, 0, 1, 0, 1], bool)
    scores = np.array([0.5, 0.4, 0.9, 0.1, 0.2, 0.8])
    normal, defective = ranked(labels, scores, worst=True)
    assert (normal.tolist(), defective.tolist()) == ([2, 0, 4], [3, 1, 5])
    normal, defective = ranked(labels, scores, worst=False)
    assert (normal.tolist(), defective.tolist()) == ([4, 0, 2], [5, 1, 3])


def test_sheet_is_small_even_of_noise(tmp_path: Path):
    split = make_split([False] * 5 + [True] * 5, side=256, noise=True)
    maps = RNG.random((10, 256, 256), np.float32)
    case_sheet(split, maps.max((1, 2)), maps, tmp_path / "sheet.png", title="noise", threshold=0.9)
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.width <= 1600
    assert (tmp_path / "sheet.png").stat().st_size < 1_000_000


def test_best_and_worst_sheets_show_other_cases(tmp_path: Path):
    split = make_split([False] * 3 + [True] * 3)
    split.images[:] += np.arange(6, dtype=np.uint8)[:, None, None, None] * 20
    maps = RNG.random((6, 40, 40)).astype(np.float32)
    scores = np.linspace(0, 1, 6)
    for name, worst in (("worst", True), ("best", False)):
        case_sheet(split, scores, maps, tmp_path / f"{name}.png", title="t", rows=1, worst=worst)
    sheets = [
        np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB")) for n in ("worst", "best")
    ]
    assert sheets[0].shape == sheets[1].shape
    first_image = np.s_[120:140, 30:50]  # of the normal case
    assert (sheets[0][first_image] == 160).all(), "the highest-scored normal image, of grey 160"
    assert (sheets[1][first_image] == 120).all(), "the lowest-scored one"


@pytest.mark.parametrize("labels", [[False], [True], [False, True, True]])
@pytest.mark.parametrize("masks", [True, False])
def test_truth_is_outlined_where_it_is_known(tmp_path: Path, labels: list[bool], masks: bool):
    split = make_split(labels, masks=masks)
    maps = np.zeros((len(labels), 40, 40), np.float32)  # a constant map has a colour scale too
    path = tmp_path / "new" / "sheet.png"
    case_sheet(split, maps.max((1, 2)), maps, path, title="t", threshold=0.5)
    assert has_colour(path, CYAN) == (masks and any(labels))


def test_what_lies_above_the_threshold_is_outlined(tmp_path: Path):
    image = np.zeros((40, 40, 3), np.uint8)
    split = make_split([True])
    split.images[:] = image
    maps = np.zeros((1, 40, 40), np.float32)
    maps[0, 10:20, 10:20] = 0.1
    maps[0, 30, 30] = 1
    counts = []
    for threshold in (0.05, 0.5):
        path = tmp_path / f"{threshold}.png"
        case_sheet(split, maps.max((1, 2)), maps, path, title="", threshold=threshold)
        panel = np.asarray(Image.open(path).convert("RGB"))[80:-20, -320:-80]  # in the overlay
        counts.append(int((panel > 200).all(-1).sum()))
    assert counts[0] > counts[1] > 0


def test_overlay_is_the_grey_image_where_the_map_is_lowest():
    image = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    anomaly_map = np.zeros((4, 6))
    anomaly_map[0, 0] = 2.0
    shown = overlay(image, anomaly_map, Normalize(0, 2))
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(shown[1:], np.repeat(grey[1:, :, None], 3, axis=2))
    red, _, blue = shown[0, 0]
    assert red > blue + 0.2, "the top of the scale is yellow"


def test_one_image_in_another_thread_and_format(tmp_path: Path):
    inspected = Inspected(
        RNG.integers(0, 256, (30, 30, 3), np.uint8), RNG.random((30, 30)), "score 1", "x.png"
    )
    path = tmp_path / "a" / "one.jpg"
    thread = threading.Thread(
        target=inspection_picture, args=(inspected, path), kwargs={"limits": (0, 1)}
    )
    thread.start()
    thread.join()
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width > 3 * 300 - 100  # image, map and overlay; no truth
        narrow = picture.width
    masked = Inspected(inspected.image, inspected.anomaly_map, mask=np.ones((30, 30), np.uint8))
    inspection_picture(masked, tmp_path / "two.png", limits=(0, 1))
    assert Image.open(tmp_path / "two.png").width > narrow
    assert has_colour(tmp_path / "two.png", CYAN), "a mask of the whole image is outlined as well"
