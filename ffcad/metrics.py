"""Image and pixel metrics of a split, exact: pure functions of scores and labels.

Every distinct score is a threshold, pixels (or images) of equal score share it, and nothing is
binned or averaged over batches. A metric of many images is that of all their pixels together.

Each score is sorted once, the normal ones and the (few) defective ones in an array each. That is
enough for all metrics: between two scores of defective pixels, recall and overlap stand still while
false positives are added, so the curves are known from the number of normal scores above each
distinct defective one. Scores of any real dtype are compared as they are, without a conversion.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
AUPRO_LIMIT = 0.3


class MetricError(ValueError):
    """Scores or labels that a metric is not defined for."""


class F1Max(NamedTuple):
    """The greatest F1; an image or pixel is defective where its score is at least `threshold`."""

    f1: float
    precision: float
    recall: float
    threshold: float


class _Sweep(NamedTuple):
    """Counts at the T distinct scores of the positives as thresholds, highest first; each (T,)."""

    thresholds: np.ndarray
    positives: np.ndarray  # positives at or above the threshold
    negatives: np.ndarray  # negatives at or above it
    negatives_above: np.ndarray  # negatives strictly above it
    overlap: np.ndarray | None  # mean share of a region at or above it, where regions are known
    negatives_total: int

    @property
    def positives_total(self) -> int:
        return int(self.positives[-1])


def image_auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of the images; a tie between the classes counts one half.

    Args:
        scores: (N,) anomaly scores; higher is more anomalous.
        labels: (N,) bool or 0 and 1, true where the image is defective.

    Returns:
        Area in [0, 1].

    Raises:
        MetricError: if shapes differ, a score is not finite, or one class is missing.
    """
    return _auroc(_image_sweep(scores, labels))


def image_ap(scores: Any, labels: Any) -> float:
    """Average precision of the images: precision at each threshold, weighted by recall gained.

    Arguments, range and errors are those of `image_auroc`.
    """
    return _average_precision(_image_sweep(scores, labels))


def image_f1_max(scores: Any, labels: Any) -> F1Max:
    """The greatest F1 of the images, at the highest threshold giving it; see `image_auroc`."""
    return _f1_max(_image_sweep(scores, labels))


def pixel_auroc(maps: Any, masks: Any) -> float:
    """Area under the ROC curve of all pixels; a tie between the classes counts one half.

    Args:
        maps: (N, H, W) anomaly maps; higher is more anomalous.
        masks: (N, H, W) bool or 0 and 1, true where defective.

    Returns:
        Area in [0, 1].

    Raises:
        MetricError: if shapes differ, a score is not finite, or no pixel is defective or normal.
    """
    return _auroc(_pixel_sweep(maps, masks))


def pixel_ap(maps: Any, masks: Any) -> float:
    """Average precision of all pixels: precision at each threshold, weighted by recall gained.

    Arguments, range and errors are those of `pixel_auroc`.
    """
    return _average_precision(_pixel_sweep(maps, masks))


def pixel_aupro(maps: Any, masks: Any, max_fpr: float = AUPRO_LIMIT) -> float:
    """Area under the per-region-overlap curve (Bergmann et al., CVPR 2020, sec. 4.2).

    The mean, over the regions of all images, of the share of a region at or above the threshold,
    against the false-positive rate over all normal pixels: straight lines from (0, 0) through the
    points of every distinct score, cut by linear interpolation at `max_fpr`.

    Args:
        maps: (N, H, W) anomaly maps; higher is more anomalous.
        masks: (N, H, W) bool or 0 and 1, true where defective; 8-connected components of an image
            are its regions.
        max_fpr: false-positive rate up to which the curve is integrated, in (0, 1].

    Returns:
        Area divided by `max_fpr`, in [0, 1].

    Raises:
        MetricError: as in `pixel_auroc`, or if `max_fpr` is out of its range.
    """
    if not 0 < max_fpr <= 1:
        raise MetricError(f"max_fpr must be more than 0 and at most 1 but got {max_fpr!r}")
    sweep = _pixel_sweep(maps, masks, with_regions=True)
    return _area(sweep, sweep.overlap, max_fpr)


def pixel_f1_max(maps: Any, masks: Any) -> F1Max:
    """The greatest F1 of all pixels, at the highest threshold giving it; see `pixel_auroc`."""
    return _f1_max(_pixel_sweep(maps, masks))


def pixel_metrics(maps: Any, masks: Any) -> dict[str, float]:
    """All pixel metrics, for the cost of one; arguments and errors are those of `pixel_auroc`.

    Returns:
        pixel_auroc, pixel_ap, pixel_aupro (up to 30 % false positives), pixel_f1_max, and
        pixel_precision and pixel_recall at the threshold of pixel_f1_max; all in [0, 1].
    """
    sweep = _pixel_sweep(maps, masks, with_regions=True)
    best = _f1_max(sweep)
    return {
        "pixel_auroc": _auroc(sweep),
        "pixel_ap": _average_precision(sweep),
        "pixel_aupro": _area(sweep, sweep.overlap, AUPRO_LIMIT),
        "pixel_f1_max": best.f1,
        "pixel_precision": best.precision,
        "pixel_recall": best.recall,
    }


def all_metrics(scores: Any, labels: Any, maps: Any, masks: Any | None) -> dict[str, float]:
    """Image metrics and, where there are masks, pixel metrics of one category's split.

    Args:
        scores: (N,) image scores; higher is more anomalous.
        labels: (N,) bool or 0 and 1, true where the image is defective.
        maps: (N, H, W) anomaly maps; not read where `masks` is None.
        masks: (N, H, W) bool or 0 and 1, true where defective; None where no ground truth exists.

    Returns:
        image_auroc, image_ap, and the keys of `pixel_metrics`; all in [0, 1].

    Raises:
        MetricError: as in `image_auroc` and `pixel_auroc`, or if the numbers of images differ.
    """
    sweep = _image_sweep(scores, labels)
    metrics = {"image_auroc": _auroc(sweep), "image_ap": _average_precision(sweep)}
    if masks is not None:
        _check_one_map_each(scores, maps)
        metrics |= pixel_metrics(maps, masks)
    return metrics


def _check_one_map_each(scores: Any, maps: Any) -> None:
    if np.shape(maps)[:1] != np.shape(scores):
        raise MetricError(
            f"maps must hold one map for each of the {len(scores)} scores but got shape "
            f"{np.shape(maps)}; give maps and scores of the same images"
        )


def _image_sweep(scores: Any, labels: Any) -> _Sweep:
    scores, labels = _checked(scores, labels, ("scores", "labels"), ("N",))
    return _sweep(scores[labels], scores[~labels])


def _pixel_sweep(maps: Any, masks: Any, with_regions: bool = False) -> _Sweep:
    maps, masks = _checked(maps, masks, ("maps", "masks"), ("N", "H", "W"))
    weights = _region_weights(masks) if with_regions else None
    return _sweep(maps[masks], maps[~masks], weights)


def _checked(
    scores: Any, labels: Any, names: tuple[str, str], axes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, the labels bool; MetricError where no metric is defined for them."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    scores_name, labels_name = names
    if scores.ndim != len(axes) or scores.size == 0 or labels.shape != scores.shape:
        raise MetricError(
            f"{scores_name} and {labels_name} must be of one shape ({', '.join(axes)}), not empty, "
            f"but got {scores.shape} and {labels.shape}; bring both to one shape"
        )
    for name, array, kinds in ((scores_name, scores, "fiu"), (labels_name, labels, "biu")):
        if array.dtype.kind not in kinds:
            raise MetricError(
                f"{scores_name} must be real numbers and {labels_name} bool or integers but got "
                f"{array.dtype} for {name}; convert them, or swap them back"
            )
    if labels.min() < 0 or labels.max() > 1:
        raise MetricError(
            f"{labels_name} must be bool or 0 and 1 but got {labels.min()} to {labels.max()}; "
            "compare them with a threshold first"
        )
    finite = np.isfinite(scores)
    if not finite.all():
        first = np.unravel_index(np.argmin(finite), finite.shape)
        raise MetricError(
            f"{scores_name} must be finite but got {scores.size - np.count_nonzero(finite)} NaN or "
            f"infinite, the first at {tuple(map(int, first))}; look for a diverged model"
        )
    positives = np.count_nonzero(labels)
    if positives in (0, labels.size):
        raise MetricError(
            f"{labels_name} must hold both classes but got {positives} defective of {labels.size}; "
            "give a split that has both, or leave these metrics out"
        )
    return scores, labels.astype(bool, copy=False)


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """(P,) for the P defective pixels in row-major order: 1 / (regions x size of its region)."""
    of_pixel, regions = [], 0
    for mask in masks:
        if mask.any():
            labelled, count = ndimage.label(mask, EIGHT_CONNECTED)
            of_pixel.append(labelled[mask] + (regions - 1))
            regions += count
    region = np.concatenate(of_pixel)
    return 1.0 / (regions * np.bincount(region))[region]


def _sweep(positive: np.ndarray, negative: np.ndarray, weights: np.ndarray | None = None) -> _Sweep:
    """Sorts both arrays of scores, which it may overwrite, and counts; see `_Sweep`."""
    negative.sort()
    overlap = None
    if weights is None:
        positive.sort()
        positive = positive[::-1]
    else:
        order = np.argsort(positive)[::-1]
        positive = positive[order]
        overlap = np.cumsum(weights[order])
    # The last of each run of equal scores: only there is every pixel of the threshold counted.
    last = np.append(np.flatnonzero(positive[1:] != positive[:-1]), positive.size - 1)
    thresholds = positive[last]
    return _Sweep(
        thresholds=thresholds,
        positives=last + 1,
        negatives=negative.size - np.searchsorted(negative, thresholds, side="left"),
        negatives_above=negative.size - np.searchsorted(negative, thresholds, side="right"),
        overlap=None if overlap is None else overlap[last],
        negatives_total=negative.size,
    )


def _auroc(sweep: _Sweep) -> float:
    return _area(sweep, sweep.positives / sweep.positives_total, 1.0)


def _corners(sweep: _Sweep, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every corner of `height` (T,) against the false-positive rate, from (0, 0) to the end."""
    # Each threshold has two corners: the negatives strictly above it move the curve to the right
    # at the height reached before, then its own positives and negatives move it on a slope.
    x = np.zeros(2 * height.size + 2)
    y = np.zeros(2 * height.size + 2)
    x[1:-1:2] = sweep.negatives_above
    x[2:-1:2] = sweep.negatives
    x /= sweep.negatives_total
    x[-1] = 1.0
    y[2:-1:2] = height
    y[3::2] = height
    return x, y


def _area(sweep: _Sweep, height: np.ndarray, limit: float) -> float:
    """Area under `height` (T,) against the false-positive rate up to `limit`, over `limit`."""
    x, y = _corners(sweep, height)
    inside = int(np.searchsorted(x, limit, side="right"))
    area = np.trapezoid(y[:inside], x[:inside])
    if inside < x.size:
        x0, x1, y0, y1 = x[inside - 1], x[inside], y[inside - 1], y[inside]
        at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (limit - x0) * (y0 + at_limit) / 2
    # Rounding alone can leave [0, 1], by a few units of the last place.
    return float(min(max(area / limit, 0.0), 1.0))


def _average_precision(sweep: _Sweep) -> float:
    precision = sweep.positives / (sweep.positives + sweep.negatives)
    gained = np.diff(sweep.positives, prepend=0)
    return float(min(gained @ precision / sweep.positives_total, 1.0))


def _f1_max(sweep: _Sweep) -> F1Max:
    found = sweep.positives + sweep.negatives
    f1 = 2 * sweep.positives / (found + sweep.positives_total)
    best = int(np.argmax(f1))
    return F1Max(
        f1=float(f1[best]),
        precision=float(sweep.positives[best] / found[best]),
        recall=float(sweep.positives[best] / sweep.positives_total),
        threshold=float(sweep.thresholds[best]),
    )
