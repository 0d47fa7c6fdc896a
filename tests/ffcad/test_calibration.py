"""Thresholds: the best there are, or those that keep a promise about normal images."""

import dataclasses
import json

import numpy as np
import pytest

from ffcad.calibration import (
    BEST_F1,
    FALSE_ALARM_RATE,
    Calibration,
    CalibrationError,
    best_f1,
    false_alarms,
)
from ffcad.regions import find_regions

RNG = np.random.default_rng(0)


def f1_at(threshold, scores, labels):
    found = scores >= threshold
    return 2 * np.sum(found & labels) / (np.sum(found) + np.sum(labels))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_greater_f1(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % 3 == 0
    scores = np.round(rng.normal(labels, 1), 1).astype(np.float32)  # with ties
    maps = np.round(rng.random((20, 6, 6)), 1).astype(np.float32)
    masks = (rng.random((20, 6, 6)) < 0.2) & labels[:, None, None]
    found = best_f1(scores, labels, maps, masks)
    best = max(f1_at(t, scores, labels) for t in scores)
    assert f1_at(found.image_threshold, scores, labels) == best
    best = max(f1_at(t, maps.ravel(), masks.ravel()) for t in np.unique(maps))
    assert f1_at(found.pixel_threshold, maps.ravel(), masks.ravel()) == best
    assert found.normal_scores == tuple(np.sort(scores[~labels].astype(float)))
    assert (found.normal_images, found.defective_images) == (13, 7)
    assert (found.rule, found.false_alarm_rate) == (BEST_F1, None)


def test_thresholds_lie_midway_so_that_rounding_turns_no_verdict():
    found = best_f1([0.1, 0.2, 0.6, 0.9], [False, False, True, True], None, None)
    assert found.image_threshold == pytest.approx(0.4)
    assert found.pixel_threshold is None, "without masks nobody knows it"
    lowest_is_defective = best_f1([0.5, 0.5], [False, True], None, None)
    assert lowest_is_defective.image_threshold == 0.5
    maps = np.float32([[[0.0, 0.25]], [[0.75, 0.875]]])
    masks = np.array([[[False, False]], [[True, True]]])
    assert best_f1([0.1, 0.6], [False, True], maps, masks).pixel_threshold == 0.5


@pytest.mark.parametrize("value", np.float32([0.1, 0.3, 1.0, 1e-30]))
def test_between_neighbours_the_threshold_is_the_upper_one(value):
    maps = np.full((2, 1, 2), value)
    maps[1] = np.nextafter(value, np.float32(2))
    masks = maps > value
    found = best_f1([0.1, 0.6], [False, True], maps, masks)
    assert found.pixel_threshold == maps.max()
    assert [len(find_regions(m, found.pixel_threshold, (2, 1))) for m in maps] == [0, 1]


def test_one_class_alone_has_no_f1():
    with pytest.raises(CalibrationError, match="best F1: labels must hold both classes"):
        best_f1([0.1, 0.2], [False, False], None, None)


def test_normal_images_pass_the_threshold_as_often_as_was_promised():
    n, rate = 59, 0.05  # the third highest of 59 is passed by 3 in 60
    alarms = []
    for _ in range(2000):
        scores = RNG.random(n)  # uniform: a threshold t is passed with probability 1 - t
        alarms.append(1 - false_alarms(scores, scores[:, None, None], rate).image_threshold)
    assert np.mean(alarms) == pytest.approx(rate, abs=0.002)


def with_regions(maps, threshold) -> int:
    return sum(bool(find_regions(m, threshold, (m.shape[1], m.shape[0]))) for m in maps)


def test_the_pixel_threshold_promises_the_same_of_regions():
    maps = RNG.random((40, 5, 5)).astype(np.float32)
    scores = maps.reshape(40, -1).max(axis=1)
    found = false_alarms(scores, maps, 0.1)
    assert found.pixel_threshold == found.image_threshold, "the score is the map's maximum here"
    assert with_regions(maps, found.pixel_threshold) == 3
    assert sum(score >= found.image_threshold for score in scores) == 3
    assert (found.rule, found.false_alarm_rate) == (FALSE_ALARM_RATE, 0.1)
    assert (found.normal_images, found.defective_images) == (40, 0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_values_that_are_tied_at_the_top_are_no_alarms(kind):
    maps = np.ones((40, 5, 5), kind)
    found = false_alarms(maps[:, 0, 0], maps, 0.1)
    assert with_regions(maps, found.pixel_threshold) == 0
    assert not (maps.astype(np.float32)[:, 0, 0] >= found.image_threshold).any()
    assert found.pixel_threshold == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "rate", "message"),
    [
        (18, 0.05, r"0.05 needs 19 held-out normal images but there are 18; .* at least 0.0527"),
        (98, 0.01, "needs 99 held-out"),
        (0, 0.5, "needs 1 held-out normal images but there are 0; give more images$"),
        (5, 0, "more than 0 and less than 1 but got 0"),
        (5, 1.0, "more than 0 and less than 1"),
        (5, float("nan"), "more than 0 and less than 1"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused(count, rate, message):
    with pytest.raises(CalibrationError, match=message):
        false_alarms(np.zeros(count), np.zeros((count, 2, 2)), rate)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (99, 0.01), (1, 0.5), (3, 0.25)])
def test_the_least_number_of_images_is_enough(count, rate):
    scores = np.arange(count, dtype=float)
    found = false_alarms(scores, scores[:, None, None], rate)
    assert found.image_threshold > scores.max()


def test_scores_that_are_no_numbers_are_refused():
    scores = np.array([0.1, np.nan, 0.3])
    with pytest.raises(CalibrationError, match="finite"):
        false_alarms(scores, np.zeros((3, 2, 2)), 0.4)
    with pytest.raises(CalibrationError, match=r"scores must be \(N,\)"):
        false_alarms(np.zeros(3), np.zeros((2, 2, 2)), 0.4)


def test_it_survives_json():
    for found in (
        best_f1([0.1, 0.2, 0.6], [False, False, True], None, None),
        false_alarms(np.float32([0.1, 0.2]), np.zeros((2, 2, 2), np.float32), 0.4),
    ):
        assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_threshold": float("nan")}, "finite"),
        ({"image_threshold": None}, "finite"),
        ({"pixel_threshold": "0.5"}, "finite"),
        ({"rule": "guess"}, "rule must be one of best_f1, false_alarm_rate but got 'guess'"),
        ({"false_alarm_rate": 0.1}, "false_alarm_rate must be"),
        ({"normal_images": 3}, "one score for each of the 3 normal images"),
        ({"normal_scores": [0.2, 0.1]}, "ascend"),
        ({"normal_scores": "0.2"}, "must be a list"),
        ({"colour": "red"}, "a calibration has"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(change, message):
    good = best_f1([0.1, 0.2, 0.6], [False, False, True], None, None).to_dict()
    with pytest.raises(CalibrationError, match=message):
        Calibration.from_dict(good | change)
    with pytest.raises(CalibrationError, match="a calibration has"):
        Calibration.from_dict([good])


def test_the_other_rule_needs_its_rate():
    good = best_f1([0.1, 0.6], [False, True], None, None)
    with pytest.raises(CalibrationError, match="false_alarm_rate must be"):
        dataclasses.replace(good, rule=FALSE_ALARM_RATE)
