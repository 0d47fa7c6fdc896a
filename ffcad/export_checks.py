"""Whether an exported graph inspects as its model does, and how long each takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image

from ffcad.export import ExportError, Inspect

# Greatest difference of an anomaly map's value, in maps of [0, 1] (by the discrepancy [0, 2]), and
# of a score, which is a mean of such values.
TOLERANCE = 1e-4
WARM_UP = 2


@dataclass(frozen=True)
class Deviation:
    """The largest differences between a graph and its model.

    Attributes:
        images: on how many.
        map: of the maps' values.
        score: of the scores.
    """

    images: int
    map: float
    score: float


def random_images(size: int) -> np.ndarray:
    """Noise of two scales, and what no camera gives, a black and a white image.

    Returns:
        (4, size, size, 3) uint8, the same at every call.
    """
    drawn = np.random.default_rng(0)
    fine = drawn.integers(0, 256, (size, size, 3), np.uint8)
    coarse = Image.fromarray(drawn.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return np.stack([fine, smooth, np.zeros_like(fine), np.full_like(fine, 255)])


def check(
    graph: Inspect,
    images: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray],
    batch_sizes: Sequence[int],
) -> Deviation:
    """Compares a graph with what its model found.

    Args:
        graph: what is checked.
        images: (N, S, S, 3) uint8.
        expected: the model's scores (N,) and maps (N, S, S) of them.
        batch_sizes: how many images the graph gets at once, in turn.

    Raises:
        ExportError: if a map or a score differs by more than `TOLERANCE`, or is not finite.
    """
    differences, start, turn = [], 0, 0
    while start < len(images):
        part = slice(start, start + batch_sizes[turn % len(batch_sizes)])
        scores, maps = graph(images[part])
        of_maps, of_scores = np.abs(maps - expected[1][part]), np.abs(scores - expected[0][part])
        differences.append((of_maps.max(), of_scores.max()))
        start, turn = start + len(scores), turn + 1
    # max() of NumPy hands a NaN on; Python's would lose it.
    largest = np.max(differences, axis=0)
    for what, difference in zip(("anomaly maps", "scores"), largest, strict=True):
        if not difference <= TOLERANCE:
            raise ExportError(
                f"its {what} differ from the model's by up to {difference:.2g}, allowed are "
                f"{TOLERANCE:g}"
            )
    return Deviation(len(images), *map(float, largest))


def image_seconds(inspects: dict[str, Inspect], image: np.ndarray, rounds: int) -> dict[str, float]:
    """Median time of one image, from bytes to score and map.

    They take turns, so that what else the machine does meets all of them alike.

    Args:
        inspects: by name.
        image: (S, S, 3) uint8.
        rounds: measured ones, 1 or more; a few more come first.

    Returns:
        Seconds by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in inspects}
    for _ in range(WARM_UP + rounds):
        for name, inspect in inspects.items():
            started = time.perf_counter()
            inspect(image[None])
            seconds[name].append(time.perf_counter() - started)
    return {name: median(taken[WARM_UP:]) for name, taken in seconds.items()}
