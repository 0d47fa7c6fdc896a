"""Whether a new model may replace the one in use: pure functions of what both say of images.

The images must have chosen neither model. The question is not whether the new one is shown to be
better, which a small test set almost never can, but whether it is shown to be no worse than by a
margin: the lower 95 % bound of the difference, paired by image, must exceed minus the margin. Below
a number of images no bound can be trusted, and the gate says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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

# The figures that a model is judged by, and how each is had and resampled.
IMAGE_AUROC, PIXEL_AP = "image_auroc", "pixel_ap"
# Of each class: images, near-duplicates counted once, that can decide.
LEAST_IMAGES = 10


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A metric of one model with its 95 % interval over images."""

    metric: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a model must fulfil to become the champion.

    Attributes:
        name: what was looked at.
        value: the figure.
        bound: what it is held against.
        passed: whether it holds.
        text: one line that says so.
        details: more figures, for programs.
    """

    name: str
    value: float
    bound: float
    passed: bool
    text: str
    details: dict[str, Any]


def figures(scored: ScoredImages) -> list[Figure]:
    """A model's metrics with intervals by resampling images; pixel AP where there are masks."""
    counts, found = resamples(scored.labels, scored.groups), []
    for metric, exact, resampled in _judged_by(scored):
        value, (low, high) = exact(scored), interval(resampled(scored, counts))
        if metric == IMAGE_AUROC:  # As for a difference: resamples know no error but those here.
            low = min(low, auroc_limit(value, *scored.independent(), upper=False, sides=2))
            high = max(high, auroc_limit(value, *scored.independent(), upper=True, sides=2))
        found.append(Figure(metric=metric, value=value, low=low, high=high))
    return found


def compare(challenger: ScoredImages, champion: ScoredImages, margin: float) -> list[Check]:
    """Holds a challenger against the champion on the same images.

    Args:
        challenger, champion: of the same images in the same order.
        margin: how much worse the challenger may be, as a share of 1.

    Returns:
        A check of image AUROC, and one of pixel AP where there are masks; before them one that
        fails if the images are too few.

    Raises:
        ValueError: if they are not the same images.
    """
    if not np.array_equal(challenger.labels, champion.labels):
        raise ValueError("challenger and champion must be of the same images")
    checks, (defective, normal) = [], challenger.independent()
    if min(defective, normal) < LEAST_IMAGES:
        checks.append(
            refused(
                "images",
                f"{normal:g} normal and {defective:g} defective images, near-duplicates counted "
                "once, "
                f"cannot decide: {LEAST_IMAGES} of each are needed; give --gate-data",
            )
        )
    counts = resamples(challenger.labels, challenger.groups)
    for metric, exact, resampled in _judged_by(challenger):
        figures = exact(challenger), exact(champion)
        both = resampled(challenger, counts), resampled(champion, counts)
        bound = lower_bound(both[0] - both[1])
        # Of equal scores the difference is zero, and no estimate.
        same = np.allclose(challenger.scores, champion.scores, rtol=1e-5, atol=0)
        if metric == IMAGE_AUROC and not same:
            spread = min(resample.std() for resample in both) > 0
            correlation = float(np.corrcoef(*both)[0, 1]) if spread else 0.0
            other = lower_bound_of_aurocs(*figures, correlation, defective, normal)
            bound = min(bound, other)
        checks.append(_difference(metric, *figures, bound, margin))
    return checks


def within(name: str, value: float, most: float, unit: str) -> Check:
    """Holds a cost against its limit."""
    return Check(
        name=name,
        value=value,
        bound=most,
        passed=value <= most,
        text=f"{name} {value:.4g} {unit}, at most {most:g} allowed"
        + ("" if value <= most else f": {value - most:.3g} too much"),
        details={},
    )


def refused(name: str, reason: str) -> Check:
    """Something that no figure makes up for."""
    return Check(name=name, value=0.0, bound=0.0, passed=False, text=reason, details={})


def _judged_by(scored: ScoredImages) -> list[tuple[str, Callable, Callable]]:
    """The metrics that there are: name, how it is had exactly, and how of each resample."""
    image = (IMAGE_AUROC, lambda one: image_auroc(one.scores, one.labels), resampled_image_auroc)
    pixel = (PIXEL_AP, lambda one: pixel_ap(one.maps, one.masks), resampled_pixel_ap)
    return [image] if scored.masks is None else [image, pixel]


def _difference(
    metric: str, challenger: float, champion: float, bound: float, margin: float
) -> Check:
    difference, passed = challenger - champion, bound > -margin
    text = (
        f"{metric} {challenger:.3f} against the champion's {champion:.3f}, difference "
        f"{difference:+.3f}, 95 % sure of more than {bound:+.3f}; needed: more than {-margin:+.3f}"
    )
    if not passed:
        text += f", missed by {-margin - bound:.3f}"
    elif champion <= margin:
        text += ", which hardly anything fails against so low a figure"
    return Check(
        name=metric,
        value=bound,
        bound=-margin,
        passed=passed,
        text=text,
        details={"challenger": challenger, "champion": champion, "difference": difference},
    )
