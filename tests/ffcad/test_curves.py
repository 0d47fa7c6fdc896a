"""Curves: the metrics' areas, scikit-learn's shapes, and pictures that show them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import precision_recall_curve, roc_curve

from ffcad.curves import POINTS, Curve, curves_picture, curves_table, split_curves, thinned
from ffcad.metrics import (
    MetricError,
    image_ap,
    image_auroc,
    pixel_ap,
    pixel_aupro,
    pixel_auroc,
)

NAMES = ["image_roc", "image_precision_recall", "pixel_roc", "pixel_precision_recall", "pixel_pro"]


def make_case(seed: int, levels: int | None, n: int, side: int, lift: float = 1.2):
    """Scores, labels, maps and masks; the maps of few levels have many ties."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((n, side, side)), (0, 2, 2))
    masks = noise > 0.2
    masks[: n // 2] = False
    maps = (rng.standard_normal(masks.shape) + lift * masks).astype("float32")
    if levels:
        maps = np.digitize(maps, np.linspace(-1, 2, levels - 1)).astype("float32")
    labels = masks.any((1, 2))
    scores = rng.standard_normal(n) + lift * labels
    return scores, labels, maps, masks


def area(curve: Curve) -> float:
    return np.trapezoid(curve.y, curve.x) / (curve.x[-1] - curve.x[0])


@pytest.mark.parametrize("levels", [None, 6, 2])
@pytest.mark.parametrize(("n", "side"), [(4, 12), (30, 40), (1500, 12)])
@pytest.mark.parametrize("lift", [-0.5, 0.0, 1.2, 4.0])
def test_areas_of_the_thinned_curves_are_the_metrics(levels, n, side, lift):
    scores, labels, maps, masks = case = make_case(1, levels, n, side, lift)
    metrics = {
        "image_roc": image_auroc(scores, labels),
        "image_precision_recall": image_ap(scores, labels),
        "pixel_roc": pixel_auroc(maps, masks),
        "pixel_precision_recall": pixel_ap(maps, masks),
        "pixel_pro": pixel_aupro(maps, masks),
    }
    curves = split_curves(*case)
    assert [c.name for c in curves] == NAMES
    for curve in curves:
        assert curve.area == metrics[curve.name], curve.name
        assert area(curve) == pytest.approx(curve.area, abs=1e-3), curve.name
        assert 2 <= curve.x.size <= POINTS
        assert (np.diff(curve.x) >= 0).all()
        assert min(curve.x.min(), curve.y.min()) >= 0
        assert max(curve.x.max(), curve.y.max()) <= 1
        ends = (0, 0.3) if curve.name == "pixel_pro" else (0, 1)
        assert (curve.x[0], curve.x[-1]) == ends


def distance(x: np.ndarray, y: np.ndarray, curve: Curve) -> float:
    """From the points, the greatest to the nearest place on the curve's lines, as max(dx, dy)."""
    step = np.linspace(0, 1, 50)[:, None]
    places = [(a[:-1] + step * np.diff(a)).ravel() for a in (curve.x, curve.y)]
    return max(
        np.maximum(np.abs(places[0] - a), np.abs(places[1] - b)).min()
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("levels", [None, 6])
def test_shapes_are_those_of_scikit_learn(levels):
    _, _, maps, masks = case = make_case(2, levels, 20, 30)
    curves = {c.name: c for c in split_curves(*case)}
    truth, found = masks.ravel(), maps.ravel()
    fpr, tpr, _ = roc_curve(truth, found, drop_intermediate=False)
    some = slice(None, None, max(1, fpr.size // 500))
    assert distance(fpr[some], tpr[some], curves["pixel_roc"]) < 0.01
    precision, recall, _ = precision_recall_curve(truth, found)
    far = recall > 0.02  # before, precision jumps with each single pixel
    precision, recall = precision[far], recall[far]
    some = slice(None, None, max(1, recall.size // 500))
    # With ties a step of average precision is a slope of scikit-learn's: its corners are compared.
    assert distance(recall[some], precision[some], curves["pixel_precision_recall"]) < 0.02


def test_short_curves_are_kept_as_they_are():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    roc, precision_recall = split_curves(scores, labels, None, None)
    points = list(zip(roc.x.tolist(), roc.y.tolist(), strict=True))
    assert points == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert precision_recall.x.tolist() == [0, 0.5, 0.5, 1]
    assert precision_recall.y == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert (roc.area, precision_recall.area) == pytest.approx((0.75, 5 / 6))


def test_thinning_drops_what_lies_on_a_line_and_keeps_a_narrow_spike():
    x = np.linspace(0, 1, 100_001)
    y = np.where(x < 0.5, x, 0.5)
    found_x, found_y = thinned(x, y)
    assert found_x.size <= POINTS
    assert np.interp(x, found_x, found_y) == pytest.approx(y, abs=1e-4)
    y[60_000:60_100] = 1.0
    assert thinned(x, y)[1].max() == 1.0


def test_mistakes_are_those_of_the_metrics():
    scores, labels, maps, masks = make_case(3, None, 6, 12)
    with pytest.raises(MetricError, match="one map for each of the 6 scores"):
        split_curves(scores, labels, maps[:-1], masks[:-1])
    with pytest.raises(MetricError, match="labels must hold both classes"):
        split_curves(scores, np.zeros(6, bool), maps, masks)


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_picture_shows_a_panel_for_each_kind(tmp_path: Path, with_masks: bool):
    scores, labels, maps, masks = make_case(4, None, 20, 16)
    curves = split_curves(scores, labels, maps, masks if with_masks else None)
    path = tmp_path / "new" / "curves.png"
    curves_picture(curves, path, "a title with $dollars$, " + "long " * 30)
    picture = Image.open(path)
    assert picture.size == (1320 if with_masks else 880, 480)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue, orange = (
        (np.abs(pixels - colour).max(-1) < 12).any(0)
        for colour in ([0x1F, 0x5F, 0xA8], [0xD9, 0x66, 0x1F])
    )
    thirds = [[bool(p.any()) for p in np.array_split(c, 3)] for c in (blue, orange)]
    if with_masks:
        assert thirds == [[True, True, False], [True, True, True]]
    else:
        assert not orange.any()


def test_the_table_holds_every_point(tmp_path: Path):
    curves = split_curves(*make_case(5, None, 20, 16))
    curves_table(curves, tmp_path / "new" / "curves.csv")
    with open(tmp_path / "new" / "curves.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["curve", "x", "y"]
    for curve in curves:
        of_curve = [r for r in rows if r["curve"] == curve.name]
        assert [float(r["x"]) for r in of_curve] == pytest.approx(curve.x, abs=1e-7)
        assert [float(r["y"]) for r in of_curve] == pytest.approx(curve.y, abs=1e-7)


LARGE = """
import json, resource, time
import numpy as np
from ffcad.curves import split_curves
rng = np.random.default_rng(0)
masks = np.zeros((200, 256, 256), bool)
masks[100:, 60:160, 80:180] = True
maps = rng.standard_normal(masks.shape, dtype="float32")
maps += masks
began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
curves = split_curves(maps.max((1, 2)), masks.any((1, 2)), maps, masks)
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "off": max(abs(np.trapezoid(c.y, c.x) / c.x[-1] - c.area) for c in curves),
}))
"""


@pytest.mark.slow
def test_thirteen_million_pixels_pass():
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    print(found)
    assert found["mib"] < 2000
    assert found["seconds"] < 60  # a few, on a machine with nothing else to do
    assert found["off"] < 1e-3
