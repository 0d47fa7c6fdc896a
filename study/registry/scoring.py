"""What a model says of images, what it costs to ask, and which images it knows."""

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ffcad.datasets import Split
from ffcad.datasets.duplicates import near_duplicates
from ffcad.datasets.images import thumbnail
from ffcad.model import FFCAD
from ffcad.predictor import predict
from study.latency import predict_seconds
from study.machine import machine_in_words, peak_memory_mb, reset_peak_memory
from study.registry.bootstrap import ScoredImages


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What inspecting costs on the machine that promotes.

    Attributes:
        latency_ms: median of one image, from bytes to map and score, milliseconds.
        images_per_second: in batches of the configuration's size, median.
        peak_memory_mb: of the GPU where there is one, else of the process; 10**6 bytes.
        machine: that it was measured on, in words.
    """

    latency_ms: float
    images_per_second: float
    peak_memory_mb: float
    machine: str

    def tags(self) -> dict[str, str]:
        """Of a version."""
        return {
            "latency_ms": f"{self.latency_ms:.4g}",
            "images_per_second": f"{self.images_per_second:.4g}",
            "peak_memory_mb": f"{self.peak_memory_mb:.4g}",
            "measured_on": self.machine,
        }


def score(model: FFCAD, split: Split, use_head: bool) -> ScoredImages:
    """What a model says of a split's images, which have its size."""
    scores, maps = predict(model, split.images, use_head=use_head)
    return ScoredImages(
        scores=scores,
        labels=split.labels,
        maps=maps,
        masks=split.masks,
        groups=groups_of(split),
    )


def groups_of(split: Split) -> np.ndarray:
    """(N,) int, the same number for images of a split that are near-duplicates."""
    return near_duplicates(np.stack([thumbnail(Image.fromarray(i)) for i in split.images]))


def at_size(scored: ScoredImages, truth: Split) -> ScoredImages:
    """The same with maps of another size, so that models of two sizes face one ground truth.

    Args:
        scored: N images.
        truth: the same images, with masks of the size that is wanted.
    """
    side = truth.images.shape[1]
    maps = scored.maps
    if maps.shape[1] != side:
        tensor = torch.from_numpy(maps)[:, None]
        resized = F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False)
        maps = resized[:, 0].numpy()
    return dataclasses.replace(scored, labels=truth.labels, maps=maps, masks=truth.masks)


def measure_speed(model: FFCAD, use_head: bool) -> Speed:
    """Times a model on this machine."""
    reset_peak_memory()
    batch = model.config.batch_size
    seconds = predict_seconds(model, 1, use_head=use_head)
    batch_seconds = predict_seconds(model, batch, use_head=use_head)
    return Speed(
        latency_ms=1000 * seconds,
        images_per_second=batch / batch_seconds,
        peak_memory_mb=peak_memory_mb(),
        machine=machine_in_words(),
    )


def known_paths(split: Split, digests: Collection[str]) -> list[str]:
    """The paths of a split's images whose digests are among those given."""
    known = set(digests)
    return [path for i, path in enumerate(split.paths) if digest(split.images[i]) in known]


def content(split: Split) -> set[str]:
    """Digests of the pixels of a split's images."""
    return {digest(split.images[i]) for i in range(len(split))}


def digest(image: np.ndarray) -> str:
    """Of the pixels of one image, sixteen hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
