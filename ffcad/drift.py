"""Whether a batch's scores still look like those of normal images: has the camera moved?

The two-sample test of Kolmogorov and Smirnov (SciPy's, exact for small samples) sees any change of
the scores' distribution and assumes none. Many defective images in a batch change it as well.

It is meant for batches of new images, each asked about once. Its level is that over detectors too:
one detector's normal scores are always the same ones, so it may be called a little more often than
that, and most are called less often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import ks_2samp

# How many of the batches in which nothing has changed are called drifted. A line asks after every
# batch: at one in twenty it would be called to the camera every day.
LEVEL = 0.001


@dataclass(frozen=True)
class DriftResult:
    """A batch's scores against those of the normal calibration images.

    Attributes:
        statistic: greatest distance of the two distribution functions, 0 to 1; None where the batch
            is too small to say anything.
        p_value: how probable such a distance is if both are of one distribution; None as above.
        images: of the batch.
        least_images: from how many on it can say anything.
        drifted: whether the p-value is below `LEVEL`.
    """

    statistic: float | None
    p_value: float | None
    images: int
    least_images: int
    drifted: bool

    def line(self) -> str:
        """What a user is told."""
        if self.p_value is None:
            few = "1 image says" if self.images == 1 else f"{self.images} images say"
            return f"drift: not known; {few} nothing, give at least {self.least_images} at a time"
        figures = f"Kolmogorov-Smirnov distance {self.statistic:.2f}, p = {self.p_value:.2g}"
        if self.drifted:
            return (
                f"drift: the scores of these {self.images} images are not those of the normal "
                f"calibration images ({figures}); unless most of them are defective, look at "
                "camera, light and position"
            )
        return (
            f"drift: none seen in {self.images} images ({figures}; below {LEVEL:g} would be some)"
        )


def drift(normal_scores: Sequence[float], batch_scores: Sequence[float]) -> DriftResult:
    """Tests a batch.

    Args:
        normal_scores: of the normal calibration images, at least one.
        batch_scores: of the batch; may be empty.

    Raises:
        ValueError: if there are no normal scores.
    """
    least, images = least_batch(len(normal_scores)), len(batch_scores)
    if images < least:
        return DriftResult(None, None, images, least, False)
    found = ks_2samp(batch_scores, normal_scores)
    p_value = float(found.pvalue)
    return DriftResult(float(found.statistic), p_value, images, least, p_value < LEVEL)


def least_batch(normal_images: int) -> int:
    """The smallest batch that could ever be called drifted.

    If all of its m scores lie above all n normal ones, the exact p-value is 2 / C(n + m, m).

    Args:
        normal_images: n.

    Raises:
        ValueError: if there are none.
    """
    if normal_images < 1:
        raise ValueError("drift is measured against normal scores but there are none")
    images = 1
    while 2 / math.comb(normal_images + images, images) >= LEVEL:
        images += 1
    return images
