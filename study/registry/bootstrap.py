"""How sure a model's figures are on the images that it was reported on, and a difference of two.

What is resampled are images, normal and defective ones apart, so that each resample has both
classes in their numbers. The pixels of an image stay together: they are no independent
observations. For the same reason near-duplicates stay together. A resample is a row of counts, how
often each image is in it, so that a metric of thousands of resamples is a matrix product. Two
models are resampled by the same rows: a difference is paired by image.

Where a model makes no mistake on the images there are, all resamples say so too, however few they
are. A difference of image AUROCs therefore has a second bound, which knows how many images there
are, and the lower one counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

RESAMPLES = 2000
# Thresholds of a resampled average precision.
THRESHOLDS = 1024
# Of an interval of one figure; and of the one-sided bound of a difference.
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """What one model says of images with known truth.

    Attributes:
        scores: (N,) anomaly scores.
        labels: (N,) bool, True where defective.
        maps: (N, H, W) anomaly maps.
        masks: (N, H, W) bool; None where there is no ground truth.
        groups: (N,) int, the same number for near-duplicates.
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray
    masks: np.ndarray | None
    groups: np.ndarray

    def independent(self) -> tuple[float, float]:
        """How many defective and how many normal images there are, near-duplicates counted once;
        where their groups are of unequal size, as many equal ones as weigh the same (Kish)."""
        sizes = [
            np.unique(self.groups[x], return_counts=True)[1] for x in (self.labels, ~self.labels)
        ]
        defective, normal = (float(np.floor(s.sum() ** 2 / (s**2).sum() + 1e-9)) for s in sizes)
        return defective, normal


def resamples(
    labels: np.ndarray, groups: np.ndarray, seed: int = 0, number: int = RESAMPLES
) -> np.ndarray:
    """How often each image is in each resample.

    Args:
        labels: (N,) bool, True where defective.
        groups: (N,) int, of near-duplicates, which are drawn together.
        seed: the same one gives the same resamples.
        number: B, of resamples.

    Returns:
        (B, N) counts.
    """
    generator = np.random.default_rng(seed)
    counts = np.zeros((number, len(labels)))
    for images in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        names, member_of = np.unique(groups[images], return_inverse=True)
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=number)
        counts[:, images] = drawn[:, member_of]
    return counts


def resampled_image_auroc(scored: ScoredImages, counts: np.ndarray) -> np.ndarray:
    """Image AUROC of each resample, exactly; a tie between the classes counts one half.

    Args:
        scored: N images.
        counts: (B, N), of `resamples`.

    Returns:
        (B,) areas in [0, 1].
    """
    defective, normal = scored.scores[scored.labels], scored.scores[~scored.labels]
    wins = (defective[:, None] > normal) + 0.5 * (defective[:, None] == normal)
    positive, negative = counts[:, scored.labels], counts[:, ~scored.labels]
    return ((positive @ wins) * negative).sum(1) / (positive.sum(1) * negative.sum(1))


def resampled_pixel_ap(scored: ScoredImages, counts: np.ndarray) -> np.ndarray:
    """Pixel average precision of each resample.

    Its thresholds are at most `THRESHOLDS` quantiles of the defective pixels' scores, so a figure
    differs from the exact one by some parts in a thousand; it is their spread that is asked for.

    Args:
        scored: N images with masks.
        counts: (B, N), of `resamples`.

    Returns:
        (B,) average precisions in [0, 1].
    """
    levels = np.linspace(0, 1, THRESHOLDS)
    defective = scored.maps[scored.masks]
    edges = np.unique(np.quantile(defective, levels, method="lower"))
    hits, alarms = (np.zeros((len(scored.labels), len(edges))) for _ in range(2))
    for i, (one, mask) in enumerate(zip(scored.maps, scored.masks, strict=True)):
        # The highest threshold that a pixel reaches; those below all of them are never alarms.
        reached = np.searchsorted(edges, one, side="right")
        hits[i] = np.bincount(reached[mask], minlength=len(edges) + 1)[1:]
        alarms[i] = np.bincount(reached[~mask], minlength=len(edges) + 1)[1:]
    # At or above each threshold, from the highest to the lowest.
    true = np.cumsum((counts @ hits)[:, ::-1], axis=1)
    false = np.cumsum((counts @ alarms)[:, ::-1], axis=1)
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
    gained = np.diff(true, axis=1, prepend=0.0)
    # A resample whose defective images have no pixel in their masks has nothing to be found.
    total = true[:, -1]
    return np.divide((precision * gained).sum(1), total, out=np.zeros_like(total), where=total > 0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of a resampled figure."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def lower_bound(differences: np.ndarray) -> float:
    """What 95 % of the resampled differences exceed."""
    return float(np.quantile(differences, 1 - CONFIDENCE))


def lower_bound_of_aurocs(
    one: float, other: float, correlation: float, defective: float, normal: float
) -> float:
    """What the difference of two image AUROCs exceeds, 95 % sure, from their values alone.

    Each AUROC's own limit, and both put together with their correlation (MOVER: Zou, Statistics in
    Medicine 27, 2008, for correlated estimates).

    Args:
        one, other: the AUROCs, of the same images; the difference is one minus the other.
        correlation: of the two over resamples.
        defective, normal: independent images of each class.
    """
    down = one - auroc_limit(one, defective, normal, upper=False)
    up = auroc_limit(other, defective, normal, upper=True) - other
    return one - other - max(down**2 + up**2 - 2 * correlation * down * up, 0.0) ** 0.5


def auroc_limit(
    value: float, defective: float, normal: float, *, upper: bool, sides: int = 1
) -> float:
    """A limit of an image AUROC, 95 % sure: where it would be just as far from the value as
    chance allows there (Newcombe, Statistics in Medicine 25, 2006, part 2, method 5).

    Args:
        value: that was found.
        defective, normal: images of each class.
        upper: which limit.
        sides: 2 for a limit of an interval that holds the truth in 95 % of the cases.
    """
    sign, most = (1, 1.0) if upper else (-1, 0.0)
    z, half = norm.ppf(1 - (1 - CONFIDENCE) / sides), (defective + normal) / 2 - 1

    def beyond(truth: float) -> float:
        spread = 1 + half * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * spread / (defective * normal)
        return sign * (truth - value) - z * variance**0.5

    if abs(value - most) < 1e-8:
        return most
    # Not from 0 or 1 themselves, where chance allows nothing.
    return float(brentq(beyond, value + sign * 1e-9, most))
