"""Metrics: against scikit-learn, against the definition evaluated slowly, and their properties."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ffcad.metrics import (
    MetricError,
    all_metrics,
    image_ap,
    image_auroc,
    pixel_ap,
    pixel_aupro,
    pixel_auroc,
    pixel_f1_max,
    pixel_metrics,
)

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "metrics_speed.py"
PIXEL_METRICS = [pixel_auroc, pixel_ap, pixel_aupro, pixel_f1_max, pixel_metrics]
LIMITS = [0.01, 0.05, 0.3, 1.0]

# How maps are made from continuous ones: without ties, with many, with nearly nothing but ties.
LEVELS = {"continuous": None, "ties": 6, "two scores": 2}


def make_case(
    seed: int, levels: int | None, dtype: str = "float32", side: int = 14
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (5, side, side - 2), scores in about [-3, 6], and masks; the first image is good."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.standard_normal((5, side, side - 2)), (0, 1, 1)) > 0.35
    masks[0] = False
    maps = rng.standard_normal(masks.shape) + 1.2 * masks
    if levels:
        maps = np.digitize(maps, np.linspace(-1, 2, levels - 1)) / 7.0 - 0.3
    return maps.astype(dtype), masks


def aupro_by_definition(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Every distinct score a threshold; regions grown pixel by pixel; trapezoids one by one."""
    regions = [set(r) for image in range(len(masks)) for r in grown_regions(image, masks[image])]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        found = maps >= threshold
        overlap = np.mean([np.mean([found[p] for p in region]) for region in regions])
        points.append((float(found[~masks].mean()), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def grown_regions(image: int, mask: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """The 8-connected regions of one mask, as lists of (image, row, column)."""
    left = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    regions = []
    while left:
        region, border = [], [left.pop()]
        while border:
            row, column = border.pop()
            region.append((image, row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            border.extend(around)
        regions.append(region)
    return regions


# --- reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_area_and_precision_equal_scikit_learns(levels: int | None, dtype: str) -> None:
    maps, masks = make_case(1, levels, dtype)
    got = pixel_metrics(maps, masks)
    assert got["pixel_auroc"] == pytest.approx(
        roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12
    )
    assert got["pixel_ap"] == pytest.approx(
        average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12
    )
    scores, labels = maps.ravel(), masks.ravel()
    assert image_auroc(scores, labels) == pytest.approx(got["pixel_auroc"], abs=1e-12)
    assert image_ap(scores, labels) == pytest.approx(got["pixel_ap"], abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_f1_is_the_greatest_on_scikit_learns_curve(levels: int | None) -> None:
    maps, masks = make_case(2, levels)
    precision, recall, thresholds = precision_recall_curve(masks.ravel(), maps.ravel())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    best = int(np.argmax(f1))
    expected = (f1[best], precision[best], recall[best], thresholds[best])
    assert pixel_f1_max(maps, masks) == pytest.approx(expected, abs=1e-12)


def test_f1_threshold_gives_its_precision_and_recall() -> None:
    maps, masks = make_case(3, 6)
    best = pixel_f1_max(maps, masks)
    found = maps >= best.threshold
    assert best.precision == pytest.approx(masks[found].mean(), abs=1e-12)
    assert best.recall == pytest.approx(found[masks].mean(), abs=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("seed", [4, 5])
def test_aupro_equals_its_definition(seed: int, levels: int | None, limit: float) -> None:
    maps, masks = make_case(seed, levels, side=10)
    expected = aupro_by_definition(maps, masks, limit)
    assert pixel_aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


# --- cases worked out by hand --------------------------------------------------------------------


def test_aupro_cuts_the_segment_that_crosses_the_limit() -> None:
    # One region of three with scores 9, 9 and 7; nine normal pixels with 8, 7, 7 and six times 1.
    # The curve: (0, 0), (0, 2/3), (1/9, 2/3), the tie of 7 to (3/9, 1), and (1, 1).
    maps = np.array([[[9, 8, 7, 7, 7, 1], [1, 9, 1, 1, 1, 1]]], dtype=np.float32)
    masks = np.array([[[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]])
    at_limit = 2 / 3 + (1 / 3) * (0.3 - 1 / 9) / (2 / 9)
    area = (1 / 9) * (2 / 3) + (0.3 - 1 / 9) * (2 / 3 + at_limit) / 2
    assert pixel_aupro(maps, masks) == pytest.approx(area / 0.3, abs=1e-12)


def test_diagonal_pixels_are_one_region() -> None:
    # A diagonal pair beside a single pixel: were the pair two regions, finding the single one
    # first would be worth a third, not a half.
    masks = np.zeros((1, 4, 8), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 7] = True
    maps = np.zeros(masks.shape, dtype=np.float32)
    maps[0, 3, 7] = 1
    # From (0, 1/2) one line to (1, 1).
    assert pixel_aupro(maps, masks, 0.5) == pytest.approx((0.5 + 0.75) / 2, abs=1e-12)


def test_regions_end_at_the_border_of_their_image() -> None:
    # The last row of one image and the first row of the next are defective: two regions.
    masks = np.zeros((2, 3, 3), dtype=bool)
    masks[0, 2] = True
    masks[1, 0, 0] = True
    maps = np.zeros(masks.shape, dtype=np.float32)
    maps[1, 0, 0] = 1
    assert pixel_aupro(maps, masks, 1.0) == pytest.approx((0.5 + 1) / 2, abs=1e-12)


def test_negative_zero_equals_zero() -> None:
    assert image_auroc(np.array([0.0, -0.0]), np.array([True, False])) == 0.5
    assert image_auroc(np.array([-0.0, 0.0]), np.array([True, False])) == 0.5


def test_float64_scores_are_not_rounded_to_float32() -> None:
    scores = np.array([1.0, 1.0 + 1e-12])
    assert image_auroc(scores, np.array([False, True])) == 1.0


def test_constant_maps_know_nothing() -> None:
    _, masks = make_case(6, None)
    share = masks.mean()
    got = pixel_metrics(np.full(masks.shape, 0.7, dtype=np.float32), masks)
    assert got == pytest.approx(
        {
            "pixel_auroc": 0.5,
            "pixel_ap": share,
            "pixel_aupro": 0.15,  # the diagonal up to 0.3, over 0.3
            "pixel_f1_max": 2 * share / (1 + share),
            "pixel_precision": share,
            "pixel_recall": 1.0,
        },
        abs=1e-12,
    )


# --- properties ----------------------------------------------------------------------------------


def test_perfect_maps_reach_one() -> None:
    maps, masks = make_case(7, None)
    perfect = pixel_metrics(maps + 20 * masks.astype(np.float32), masks)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-12)
    assert max(perfect.values()) <= 1.0


def test_inverted_perfect_maps_reach_zero() -> None:
    maps, masks = make_case(7, None)
    inverted = pixel_metrics(-maps - 20 * masks.astype(np.float32), masks)
    assert inverted["pixel_auroc"] == 0.0
    assert inverted["pixel_aupro"] == 0.0
    assert inverted["pixel_ap"] < masks.mean()


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_increasing_functions_of_the_maps_change_nothing(levels: int | None) -> None:
    maps, masks = make_case(8, levels, "float64")
    assert pixel_metrics(np.exp(maps) * 3 - 1, masks) == pixel_metrics(maps, masks)


def test_order_of_images_and_pixels_changes_nothing() -> None:
    maps, masks = make_case(9, 6)
    turned = pixel_metrics(
        maps[::-1, ::-1].transpose(0, 2, 1), masks[::-1, ::-1].transpose(0, 2, 1)
    )
    assert turned == pytest.approx(pixel_metrics(maps, masks), abs=1e-12)


def test_arguments_are_left_as_they_were() -> None:
    maps, masks = make_case(10, None)
    maps_before, masks_before = maps.copy(), masks.copy()
    pixel_metrics(maps, masks)
    np.testing.assert_array_equal(maps, maps_before)
    np.testing.assert_array_equal(masks, masks_before)


def test_masks_of_zeros_and_ones_are_those_of_bools() -> None:
    maps, masks = make_case(11, None)
    assert pixel_metrics(maps, masks.astype(np.uint8)) == pixel_metrics(maps, masks)


def test_pixel_metrics_are_the_single_ones() -> None:
    maps, masks = make_case(12, 6)
    best = pixel_f1_max(maps, masks)
    assert pixel_metrics(maps, masks) == pytest.approx(
        {
            "pixel_auroc": pixel_auroc(maps, masks),
            "pixel_ap": pixel_ap(maps, masks),
            "pixel_aupro": pixel_aupro(maps, masks, 0.3),
            "pixel_f1_max": best.f1,
            "pixel_precision": best.precision,
            "pixel_recall": best.recall,
        },
        abs=1e-12,
    )


def test_all_metrics_join_image_and_pixel_metrics() -> None:
    maps, masks = make_case(13, None)
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    image = {"image_auroc": image_auroc(scores, labels), "image_ap": image_ap(scores, labels)}
    assert all_metrics(scores, labels, maps, None) == image
    assert all_metrics(scores, labels, maps, masks) == image | pixel_metrics(maps, masks)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize("value", [False, True], ids=["none", "all"])
def test_pixels_of_one_class_are_refused(metric: Callable, value: bool) -> None:
    maps, masks = make_case(14, None)
    with pytest.raises(
        MetricError, match=r"masks must hold both classes but got (0|840) defective"
    ):
        metric(maps, np.full_like(masks, value))


@pytest.mark.parametrize("metric", [image_auroc, image_ap])
@pytest.mark.parametrize("value", [False, True], ids=["none", "all"])
def test_images_of_one_class_are_refused(metric: Callable, value: bool) -> None:
    with pytest.raises(MetricError, match=r"labels must hold both classes but got (0|3) defective"):
        metric(np.arange(3.0), np.full(3, value))


def test_all_metrics_refuse_images_of_one_class() -> None:
    maps, masks = make_case(14, None)
    with pytest.raises(MetricError, match="labels must hold both classes"):
        all_metrics(maps.max(axis=(1, 2)), np.ones(5, dtype=bool), maps, masks)


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(metric: Callable, value: float) -> None:
    maps, masks = make_case(15, None)
    maps[2, 3, 4] = maps[4, 0, 0] = value
    with pytest.raises(MetricError, match=r"finite but got 2 NaN .* first at \(2, 3, 4\)"):
        metric(maps, masks)


def test_image_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(MetricError, match=r"scores must be finite but got 1 .* first at \(1,\)"):
        image_auroc(np.array([0.0, np.nan]), np.array([True, False]))


@pytest.mark.parametrize("metric", PIXEL_METRICS)
@pytest.mark.parametrize(
    ("maps_shape", "masks_shape"),
    [((5, 8, 8), (5, 8, 4)), ((5, 1, 8, 8), (5, 1, 8, 8)), ((8, 8), (8, 8)), ((0, 8, 8),) * 2],
    ids=["different", "with channel", "one map", "empty"],
)
def test_wrong_shapes_are_refused(
    metric: Callable, maps_shape: tuple[int, ...], masks_shape: tuple[int, ...]
) -> None:
    with pytest.raises(MetricError, match=r"one shape \(N, H, W\), not empty, but got") as error:
        metric(np.zeros(maps_shape), np.zeros(masks_shape, dtype=bool))
    assert str(maps_shape) in str(error.value)
    assert str(masks_shape) in str(error.value)


def test_wrong_shapes_of_image_scores_are_refused() -> None:
    with pytest.raises(MetricError, match=r"shape \(N\), not empty, but got \(3, 1\) and \(3,\)"):
        image_auroc(np.zeros((3, 1)), np.zeros(3, dtype=bool))


def test_maps_of_other_images_than_the_scores_are_refused() -> None:
    maps, masks = make_case(16, None)
    with pytest.raises(MetricError, match=r"each of the 2 scores but got shape \(5, 14, 12\)"):
        all_metrics(np.array([0.0, 1.0]), np.array([False, True]), maps, masks)
    with pytest.raises(MetricError, match=r"each of the 2 scores but got shape \(\)"):
        all_metrics(np.array([0.0, 1.0]), np.array([False, True]), None, masks)


def test_maps_and_masks_swapped_are_refused() -> None:
    maps, masks = make_case(17, None)
    with pytest.raises(MetricError, match="but got bool for maps; convert them, or swap them back"):
        pixel_metrics(masks, maps)


def test_masks_of_grey_values_are_refused() -> None:
    maps, masks = make_case(18, None)
    with pytest.raises(MetricError, match="masks must be bool or 0 and 1 but got 0 to 255"):
        pixel_metrics(maps, masks.astype(np.uint8) * 255)
    with pytest.raises(MetricError, match="bool or integers but got float32 for masks"):
        pixel_metrics(maps, masks.astype(np.float32))


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, float("nan")])
def test_limits_outside_their_range_are_refused(limit: float) -> None:
    maps, masks = make_case(19, None)
    with pytest.raises(MetricError, match="max_fpr must be more than 0 and at most 1 but got"):
        pixel_aupro(maps, masks, limit)


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.proof
def test_all_metrics_take_at_most_three_fifths_of_scikit_learns_two() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--rounds", "3", "--cases", "usual", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["cases"]["usual"]["ratio"] <= 0.6
