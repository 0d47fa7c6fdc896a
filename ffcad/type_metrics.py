"""Metrics of a split for each type of defect alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ffcad.metrics import all_metrics


def metrics_by_type(
    scores: Any, labels: Any, types: Sequence[str], maps: Any, masks: Any | None
) -> dict[str, dict[str, float]]:
    """The metrics of each type of defect: its images and all normal ones, without the other types.

    Args:
        scores: (N,) image scores; higher is more anomalous.
        labels: (N,) bool, true where the image is defective.
        types: N names; those of normal images are not read.
        maps: (N, H, W) anomaly maps.
        masks: (N, H, W) bool, true where defective; None where no ground truth exists.

    Returns:
        Type -> 'images', the number of its images, and what `all_metrics` gives. Where none of its
        images has a defective pixel (a defect smaller than one), it has image metrics only.

    Raises:
        MetricError: as in `all_metrics`.
    """
    scores, maps, labels = np.asarray(scores), np.asarray(maps), np.asarray(labels, bool)
    names = np.asarray(types)
    found: dict[str, dict[str, float]] = {}
    for name in sorted({str(n) for n in names[labels]}):
        of_type = labels & (names == name)
        chosen = of_type | ~labels
        regions = None if masks is None or not masks[of_type].any() else masks[chosen]
        metrics = all_metrics(scores[chosen], labels[chosen], maps[chosen], regions)
        found[name] = {"images": int(of_type.sum()), **metrics}
    return found
