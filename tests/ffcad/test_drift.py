"""Drift: seen where there is some, seldom where there is none, and never in too few images."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from ffcad.drift import LEVEL, drift, least_batch

RNG = np.random.default_rng(0)


def test_scores_of_one_distribution_are_seldom_called_drifted():
    found = [drift(RNG.normal(size=60), RNG.normal(size=40)) for _ in range(500)]
    assert sum(result.drifted for result in found) <= 3
    assert np.mean([result.p_value < 0.1 for result in found]) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("shift", [1.5, -1.5])
def test_scores_that_are_shifted_either_way_are(shift):
    found = drift(RNG.normal(size=60), RNG.normal(size=40) + shift)
    assert found.drifted
    assert found.statistic > 0.4
    assert "look at camera" in found.line()


def test_a_wider_distribution_with_the_same_mean_is_seen_too():
    assert drift(RNG.normal(size=100), RNG.normal(scale=5, size=100)).drifted


@pytest.mark.parametrize("normal_images", [2, 5, 20, 40])
def test_the_least_batch_is_the_first_that_could_be_called_drifted(normal_images):
    least = least_batch(normal_images)
    normal = np.arange(normal_images, dtype=float)
    # All of the batch above all normal ones: no batch of its size has a smaller p-value.
    before, at = (ks_2samp(np.arange(m) + 1e6, normal).pvalue for m in (least - 1, least))
    assert at < LEVEL <= before


@pytest.mark.parametrize("images", [0, 1, 3])
def test_too_few_images_say_nothing_and_how_many_would(images):
    found = drift(np.arange(20.0), np.full(images, 1e6))
    assert (found.p_value, found.drifted, found.images, found.least_images) == (
        None,
        False,
        images,
        4,
    )
    assert "nothing, give at least 4 at a time" in found.line()
    assert drift(np.arange(20.0), np.full(4, 1e6)).drifted


def test_without_normal_scores_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="there are none"):
        drift([], [1.0])
