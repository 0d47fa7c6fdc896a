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
        groups=np.arange(len(LABELS)),
    )


def part(one, images):
    """Some of the images, in the order given."""
    return ScoredImages(
        scores=one.scores[images],
        labels=one.labels[images],
        maps=one.maps[images],
        masks=one.masks[images],
        groups=one.groups[images],
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
    fewer = part(one, np.arange(1, len(LABELS)))
    with pytest.raises(ValueError, match="same images"):
        compare(one, fewer, 0.02)


def test_too_few_images_cannot_decide():
    good, bad = model(0.1), model(3.0, seed=1)
    few = np.r_[0:9, 40:60]
    (why, *_) = compare(part(good, few), part(bad, few), 0.02)
    assert (why.name, why.passed) == ("images", False)
    assert why.text.startswith("9 normal and 20 defective images")
    # The same image many times is one image.
    often = np.r_[np.repeat(np.arange(9), 10), 40:60]
    (why, *_) = compare(part(good, often), part(bad, often), 0.02)
    assert why.text.startswith("9 normal and 20 defective images")
    enough = np.r_[0:10, 40:50]
    assert len(compare(part(good, enough), part(bad, enough), 0.02)) == 2


def test_images_that_are_there_twice_make_nothing_surer():
    one, other = model(1.2, seed=2), model(1.2, seed=3)
    twice = np.repeat(np.arange(len(LABELS)), 8)
    once, often = compare(one, other, 0.02), compare(part(one, twice), part(other, twice), 0.02)
    for a, b in zip(once, often, strict=True):
        assert b.value == pytest.approx(a.value, abs=0.01)


def test_models_without_a_mistake_on_few_images_are_not_sure_to_make_none():
    one, other = model(0.01), model(0.01, seed=1)
    few = np.r_[0:12, 40:52]
    auroc = compare(part(one, few), part(other, few), 0.02)[0]
    assert auroc.details == {"challenger": 1.0, "champion": 1.0, "difference": 0.0}
    assert auroc.value < -0.05
    assert not auroc.passed


def test_a_figure_within_the_margin_says_that_hardly_anything_fails_it():
    blind = model(0.0)
    blind.maps[:] = blind.maps * 0  # Its pixel AP is the share of defective pixels.
    ap = compare(model(0.5), blind, 0.2)[1]
    assert ap.details["champion"] < 0.2
    assert ap.text.endswith("which hardly anything fails against so low a figure")


def test_limits_say_what_is_too_much():
    assert within("latency", 10.0, 10.0, "ms").passed
    check = within("size", 12.5, 10.0, "MB")
    assert not check.passed
    assert check.text == "size 12.5 MB, at most 10 allowed: 2.5 too much"
