"""The images that decide about a model, what a model says of them, and what it costs to ask."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ffcad.datasets import CategoryData, DataError, Split, load_images
from ffcad.model import FFCAD
from ffcad.predictor import predict
from study.machine import peak_memory_mb, reset_peak_memory
from study.registry.bootstrap import ScoredImages

WARM_UP, MEASURED = 2, 9


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What inspecting costs on the machine that promotes.

    Attributes:
        latency_ms: median of one image, from bytes to map and score, milliseconds.
        images_per_second: in batches of the configuration's size, median.
        peak_memory_mb: of the GPU where there is one, else of the process; 10**6 bytes.
    """

    latency_ms: float
    images_per_second: float
    peak_memory_mb: float


def score(model: FFCAD, split: Split, use_head: bool) -> ScoredImages:
    """What a model says of a split's images, which have its size."""
    scores, maps = predict(model, split.images, use_head=use_head)
    return ScoredImages(scores=scores, labels=split.labels, maps=maps, masks=split.masks)


def measure_speed(model: FFCAD, use_head: bool) -> Speed:
    """Times a model on black images; the pixels' values do not matter for it."""
    config = model.config
    reset_peak_memory()
    seconds = {}
    for number in (1, config.batch_size):
        images = np.zeros((number, config.image_size, config.image_size, 3), np.uint8)
        taken = []
        for _ in range(WARM_UP + MEASURED):
            started = time.perf_counter()
            predict(model, images, use_head=use_head)
            taken.append(time.perf_counter() - started)
        seconds[number] = median(taken[WARM_UP:])
    return Speed(
        latency_ms=1000 * seconds[1],
        images_per_second=config.batch_size / seconds[config.batch_size],
        peak_memory_mb=peak_memory_mb(),
    )


def gate_images(folder: Path, image_size: int, data: CategoryData) -> Split:
    """All images of a folder, which must not be among those that made or chose the model.

    Args:
        folder: `good/` and a folder for each type of defect, `ground_truth/` if there are masks.
        image_size: pixels.
        data: what the model was trained and chosen on, at the same size.

    Raises:
        DataError: if it has no normal or no defective image, or shares images with those.
    """
    split = load_images(folder, image_size)
    if split.labels.all() or not split.labels.any():
        raise DataError(
            f"--gate-data {folder}: {(~split.labels).sum()} normal and {split.labels.sum()} "
            "defective images; a comparison needs both: good/ and a folder for each defect type"
        )
    used = content(data.train) | content(data.select)
    twice = [
        path for path, image in zip(split.paths, split.images, strict=True) if digest(image) in used
    ]
    if twice:
        raise DataError(
            f"--gate-data {folder}: {len(twice)} images trained or chose the model, as {twice[0]}; "
            "take them out"
        )
    return split


def content(split: Split) -> set[str]:
    """Digests of the pixels of a split's images."""
    return {digest(split.images[i]) for i in range(len(split))}


def digest(image: np.ndarray) -> str:
    """Of the pixels of one image."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
