"""Regions of an anomaly map: where, how large, how high."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ffcad.metrics import EIGHT_CONNECTED


@dataclass(frozen=True)
class Region:
    """A connected part of an image whose map's values are at least the pixel threshold.

    Attributes:
        box: (x0, y0, x1, y1) in pixels of the image as it was given; x1 and y1 lie just outside.
        area: pixels of that image that it covers.
        peak: the map's highest value in it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


def find_regions(anomaly_map: np.ndarray, threshold: float, size: tuple[int, int]) -> list[Region]:
    """The regions of one map, the highest peak first.

    Args:
        anomaly_map: (H, W) of the image resized to the map's size.
        threshold: values that are at least this belong to a region; 8-connected.
        size: (width, height) of the image before it was resized.
    """
    labelled, count = ndimage.label(anomaly_map >= threshold, EIGHT_CONNECTED)
    if count == 0:
        return []
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(anomaly_map, labelled, numbers)
    pixels = np.bincount(labelled.ravel())[1:]
    across = size[0] / anomaly_map.shape[1]
    down = size[1] / anomaly_map.shape[0]
    regions = []
    for (rows, columns), peak, area in zip(
        ndimage.find_objects(labelled), peaks, pixels, strict=True
    ):
        box = (
            int(columns.start * across),
            int(rows.start * down),
            min(int(np.ceil(columns.stop * across)), size[0]),
            min(int(np.ceil(rows.stop * down)), size[1]),
        )
        regions.append(Region(box, max(1, round(area * across * down)), float(peak)))
    return sorted(regions, key=lambda region: -region.peak)
