"""Resampled figures against the exact metrics, and intervals against simulated truth."""

import numpy as np
import pytest
from scipy.stats import norm

from ffcad.metrics import image_auroc, pixel_ap
from study.registry.bootstrap import (
    ScoredImages,
    auroc_limit,
    interval,
    lower_bound,
    lower_bound_of_aurocs,
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
    return ScoredImages(
        scores=scores, labels=labels, maps=maps, masks=masks, groups=np.arange(len(labels))
    )


def repeated(one, counts):
    """The images, each as often as a resample has it."""
    rows = np.repeat(np.arange(len(one.labels)), counts.astype(int))
    return one.scores[rows], one.labels[rows], one.maps[rows], one.masks[rows]


def test_a_resample_has_as_many_images_of_each_class_as_there_are():
    labels = np.arange(10) >= 6
    alone = np.arange(10)
    counts = resamples(labels, alone, number=50)
    assert (counts[:, labels].sum(1) == 4).all()
    assert (counts[:, ~labels].sum(1) == 6).all()
    assert len(np.unique(counts, axis=0)) > 40
    np.testing.assert_array_equal(counts, resamples(labels, alone, number=50))


def test_near_duplicates_are_drawn_together():
    labels = np.arange(10) >= 6
    groups = np.array([0, 0, 0, 1, 2, 3, 3, 4, 4, 5])  # Group 3 has both classes.
    counts = resamples(labels, groups, number=200)
    for same in ((0, 1, 2), (7, 8)):
        assert (counts[:, same] == counts[:, same[:1]]).all()
    assert (counts[:, 5] != counts[:, 6]).any()
    # Four groups of normal images, three of defective ones.
    assert (counts[:, [0, 3, 4, 5]].sum(1) == 4).all()
    assert (counts[:, [6, 7, 9]].sum(1) == 3).all()


def test_limits_of_an_auroc_have_the_published_variance():
    """Newcombe's variance is what validations are sized by (Riley et al., Statistics in Medicine
    40, 2021): where 1.8 % are defective, the 95 % interval of an AUROC of 0.8 is at most 0.1 wide
    from 4,252 images on (first test of their package pmvalsampsize)."""
    for upper, value in ((False, 0.85), (True, 0.75)):
        fewer, enough = (
            abs(value - auroc_limit(value, 0.018 * n, 0.982 * n, upper=upper, sides=2))
            for n in (4251, 4252)
        )
        assert enough <= 0.05 < fewer


@pytest.mark.parametrize(("defective", "normal"), [(10, 10), (12, 80), (80, 12), (163, 41)])
@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.8, 0.97, 1.0])
def test_limits_of_an_auroc_are_roots_of_its_quartic(value, defective, normal):
    """Squared and multiplied out, the equation is a polynomial; its roots come from eigenvalues."""
    truth = np.polynomial.Polynomial([0, 1])
    denominators, half = (2 - truth) * (1 + truth), (defective + normal) / 2 - 1
    spread = denominators + half * ((1 - truth) * (1 + truth) + truth * (2 - truth))
    chance = norm.ppf(0.95) ** 2 * truth * (1 - truth) * spread
    distance = defective * normal * (truth - value) ** 2 * denominators
    roots = (distance - chance).roots()
    # At 0 and 1 chance allows nothing; beyond them there is no AUROC.
    inside = [r.real for r in roots if abs(r.imag) < 1e-9 and 1e-6 < r.real < 1 - 1e-6]
    lower = auroc_limit(value, defective, normal, upper=False)
    upper = auroc_limit(value, defective, normal, upper=True)
    assert [x for x in (lower, upper) if 0 < x < 1] == pytest.approx(sorted(inside), abs=1e-7)
    assert lower == 0.0 if value == 0 else 0 < lower < value
    assert upper == 1.0 if value == 1 else value < upper < 1


def test_figures_of_resamples_are_those_of_the_repeated_images():
    one = scored(np.random.default_rng(0))
    counts = resamples(one.labels, one.groups, number=25)
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
    labels, groups = np.arange(6) >= 3, np.arange(6)
    scores = maps.max((1, 2))
    one = ScoredImages(scores=scores, labels=labels, maps=maps, masks=masks, groups=groups)
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
                groups=np.arange(60),
            )
            for _ in range(2)
        ]
        counts = resamples(labels, np.arange(60), number=400)
        one, other = (resampled_image_auroc(model, counts) for model in models)
        low, high = interval(one)
        held += low <= truth <= high
        above += lower_bound(one - other) <= 0.0
    assert 0.90 < held / rounds < 0.98
    assert 0.91 < above / rounds < 0.985


@pytest.mark.slow
@pytest.mark.parametrize("aurocs", [(0.98, 1 - 1e-6), (0.93, 0.95), (0.83, 0.85)])
@pytest.mark.parametrize("images", [10, 20, 50])
def test_a_model_that_is_worse_by_the_margin_seldom_exceeds_the_bound(aurocs, images):
    """Where resamples alone say "95 % sure" of too much: up to 40 % of the time with 10 images."""
    generator = np.random.default_rng(4)
    labels, alone, rounds, over = np.arange(2 * images) >= images, np.arange(2 * images), 200, 0
    shifts = norm.ppf(aurocs) * 2**0.5
    for i in range(rounds):
        common = generator.normal(0, 0.6**0.5, 2 * images)
        models = [
            ScoredImages(
                scores=common + generator.normal(0, 0.4**0.5, 2 * images) + labels * shift,
                labels=labels,
                maps=np.zeros((2 * images, 1, 1)),
                masks=None,
                groups=alone,
            )
            for shift in shifts
        ]
        counts = resamples(labels, alone, seed=i, number=400)
        one, other = (resampled_image_auroc(model, counts) for model in models)
        values = [image_auroc(model.scores, labels) for model in models]
        varied = min(one.std(), other.std()) > 0
        correlation = np.corrcoef(one, other)[0, 1] if varied else 0.0
        bound = lower_bound_of_aurocs(*values, correlation, images, images)
        over += min(lower_bound(one - other), bound) > -0.02
    assert over / rounds < 0.085  # 5 % and what 200 rounds may differ by.
