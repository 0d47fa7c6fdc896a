"""What the gate says of models that are better, equal and worse, and by how much."""

import numpy as np
import pytest

from ffcad.metrics import image_auroc, pixel_ap
from study.registry.bootstrap import ScoredImages
from study.registry.gate import IMAGE_AUROC, PIXEL_AP, compare, figures, within

LABELS = np.arange(80) >= 40


def model(noise, seed=0, masks=True):
    """One that sees defects the worse, the more noise it has."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((len(LABELS), 12, 12), bool)
    truth[LABELS, 3:7, 3:7] = True
    maps = truth + noise * np.random.default_rng([seed, 1]).normal(size=truth.shape)
    return ScoredImages(
        scores=LABELS + noise * generator.normal(size=len(LABELS)),
        labels=LABELS,
        maps=maps.astype(np.float32),
        masks=truth if masks else None,
    )


def test_a_model_holds_against_itself_with_any_margin_above_zero():
    one = model(0.8)
    checks = compare(one, one, 1e-6)
    assert [check.name for check in checks] == [IMAGE_AUROC, PIXEL_AP]
    assert all(check.passed and check.value == 0.0 for check in checks)
    # Without a margin it must be shown to be better.
    assert not any(check.passed for check in compare(one, one, 0.0))


def test_a_better_model_passes_and_a_worse_one_is_refused_with_by_how_much():
    good, bad = model(0.5), model(1.5, seed=1)
    assert all(check.passed for check in compare(good, bad, 0.02))
    auroc, ap = compare(bad, good, 0.02)
    assert not auroc.passed
    assert not ap.passed
    assert auroc.details["challenger"] == image_auroc(bad.scores, LABELS)
    assert ap.details["champion"] == pixel_ap(good.maps, good.masks)
    assert f"missed by {-0.02 - auroc.value:.3f}" in auroc.text
    assert f"needed: more than {-0.02:+.3f}" in auroc.text


def test_the_bound_counts_and_not_the_difference():
    one, other = model(1.2, seed=2), model(1.2, seed=3)
    check = compare(one, other, 0.02)[0]
    assert check.value < check.details["difference"]
    # The same figures pass with a margin that is wider than the bound, and with no smaller one.
    width = -check.value
    assert compare(one, other, width + 1e-9)[0].passed
    assert not compare(one, other, width)[0].passed


def test_without_masks_only_images_are_compared():
    one = model(0.8, masks=False)
    assert [check.name for check in compare(one, one, 0.02)] == [IMAGE_AUROC]
    assert [figure.metric for figure in figures(one)] == [IMAGE_AUROC]


def test_figures_lie_within_their_intervals():
    for figure in figures(model(1.0)):
        assert figure.low < figure.value < figure.high
        assert str(figure).startswith(f"{figure.value:.3f} [")


def test_other_images_are_no_comparison():
    one = model(0.8)
    fewer = ScoredImages(
        scores=one.scores[1:], labels=one.labels[1:], maps=one.maps[1:], masks=one.masks[1:]
    )
    with pytest.raises(ValueError, match="same images"):
        compare(one, fewer, 0.02)


def test_limits_say_what_is_too_much():
    assert within("latency", 10.0, 10.0, "ms").passed
    check = within("size", 12.5, 10.0, "MB")
    assert not check.passed
    assert check.text == "size 12.5 MB, at most 10 allowed: 2.5 too much"
