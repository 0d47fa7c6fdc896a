"""Resampled figures against the exact metrics, and intervals against simulated truth."""

import numpy as np
import pytest

from ffcad.metrics import image_auroc, pixel_ap
from study.registry.bootstrap import (
    ScoredImages,
    interval,
    lower_bound,
    resampled_image_auroc,
    resampled_pixel_ap,
    resamples,
)

SIDE = 8


def scored(generator, normal=9, defective=7, shift=1.0, digits=1):
    """Images whose scores have ties, and whose masks are of different sizes."""
    labels = np.arange(normal + defective) >= normal
    scores = generator.normal(labels * shift, 1.0).round(digits)
    masks = np.zeros((len(labels), SIDE, SIDE), bool)
    for i in np.flatnonzero(labels):
        masks[i, : 1 + i % 4, :3] = True
    maps = generator.normal(masks * shift, 1.0).round(digits).astype(np.float32)
    return ScoredImages(scores=scores, labels=labels, maps=maps, masks=masks)


def repeated(one, counts):
    """The images, each as often as a resample has it."""
    rows = np.repeat(np.arange(len(one.labels)), counts.astype(int))
    return one.scores[rows], one.labels[rows], one.maps[rows], one.masks[rows]


def test_a_resample_has_as_many_images_of_each_class_as_there_are():
    labels = np.arange(10) >= 6
    counts = resamples(labels, number=50)
    assert (counts[:, labels].sum(1) == 4).all()
    assert (counts[:, ~labels].sum(1) == 6).all()
    assert len(np.unique(counts, axis=0)) > 40
    np.testing.assert_array_equal(counts, resamples(labels, number=50))


def test_figures_of_resamples_are_those_of_the_repeated_images():
    one = scored(np.random.default_rng(0))
    counts = resamples(one.labels, number=25)
    aurocs, aps = resampled_image_auroc(one, counts), resampled_pixel_ap(one, counts)
    for row, auroc, ap in zip(counts, aurocs, aps, strict=True):
        scores, labels, maps, masks = repeated(one, row)
        assert auroc == pytest.approx(image_auroc(scores, labels), abs=1e-12)
        # Fewer defective pixels than thresholds: no value is left out.
        assert ap == pytest.approx(pixel_ap(maps, masks), abs=1e-9)


def test_pixel_ap_of_many_pixels_differs_little_from_the_exact_one():
    generator = np.random.default_rng(1)
    masks = np.zeros((6, 96, 96), bool)
    masks[3:, 20:60, 20:60] = True
    maps = generator.normal(masks * 1.5, 1.0)
    one = ScoredImages(scores=maps.max((1, 2)), labels=np.arange(6) >= 3, maps=maps, masks=masks)
    found = resampled_pixel_ap(one, np.ones((1, 6)))
    assert found == pytest.approx(pixel_ap(maps, masks), abs=1e-3)


def test_a_resample_without_a_defective_pixel_finds_nothing():
    one = scored(np.random.default_rng(2), normal=2, defective=2)
    one.masks[2] = False
    counts = np.array([[1, 1, 2, 0], [1, 1, 1, 1]])
    assert resampled_pixel_ap(one, counts)[0] == 0.0
    assert resampled_pixel_ap(one, counts)[1] > 0.0


@pytest.mark.slow
def test_the_interval_and_the_bound_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(3)
    # P(N(1.5, 1) > N(0, 1)) = Phi(1.5 / sqrt(2)), and of the difference of two equal models, 0.
    truth, rounds, held, above = 0.8556, 300, 0, 0
    for _ in range(rounds):
        labels = np.arange(60) >= 30
        common = generator.normal(labels * 1.5, 0.8)
        models = [
            ScoredImages(
                scores=common + generator.normal(0, 0.6, 60),
                labels=labels,
                maps=np.zeros((60, 1, 1)),
                masks=None,
            )
            for _ in range(2)
        ]
        counts = resamples(labels, number=400)
        one, other = (resampled_image_auroc(model, counts) for model in models)
        low, high = interval(one)
        held += low <= truth <= high
        above += lower_bound(one - other) <= 0.0
    assert 0.90 < held / rounds < 0.98
    assert 0.91 < above / rounds < 0.985
