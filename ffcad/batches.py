"""Which images and random numbers an iteration gets: a function of (seed, iteration) alone."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ffcad.anomalies import augment, simulate_anomalies
from ffcad.config import TrainConfig
from ffcad.datasets import Split, Textures
from ffcad.predictor import normalise, to_float


class Batches(Dataset):
    """Batch i: the training images and textures that (seed, i) draws, as uint8."""

    def __init__(self, split: Split, textures: Textures | None, seed: int, batch_size: int) -> None:
        self.images = split.images
        self.textures = None if textures is None else textures.images
        self.seed, self.batch_size = seed, batch_size

    def __getitem__(self, iteration: int) -> dict[str, Tensor]:
        chosen = batch_indices(len(self.images), self.batch_size, self.seed, iteration)
        batch = {"images": torch.from_numpy(self.images[chosen])}
        if self.textures is not None:
            draw = np.random.default_rng(derived_seed(self.seed, iteration, "textures"))
            chosen = draw.integers(len(self.textures), size=self.batch_size)
            batch["textures"] = torch.from_numpy(self.textures[chosen])
        return batch


def training_images(
    batch: dict[str, Tensor],
    config: TrainConfig,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Augments a batch and simulates its anomalies.

    Args:
        batch: 'images' and perhaps 'textures', uint8 (B, H, W, 3).
        config: the knobs of both.
        device: where it is done.
        generator: on the CPU.

    Returns:
        Normal images and the same with anomalies, normalised (B, 3, H, W), and masks (B, 1, H, W).
    """
    images = augment(
        to_float(batch["images"], device),
        generator,
        rotation_degrees=config.rotation_degrees,
        horizontal_flip=config.horizontal_flip,
        vertical_flip=config.vertical_flip,
    )
    textures = batch.get("textures")
    anomalous, mask = simulate_anomalies(
        images,
        generator,
        textures=None if textures is None else to_float(textures, device),
        probability=config.anomaly_probability,
        perlin_max_exponent=config.perlin_max_exponent,
        perlin_threshold=config.perlin_threshold,
        opacity_min=config.opacity_min,
    )
    images, anomalous = normalise(images), normalise(anomalous)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
        anomalous = anomalous.contiguous(memory_format=torch.channels_last)
    return images, anomalous, mask


def batch_indices(images: int, batch_size: int, seed: int, iteration: int) -> np.ndarray:
    """Which images batch `iteration` holds: an epoch is a permutation."""
    positions = iteration * batch_size + np.arange(batch_size)
    epochs = positions // images
    orders = {
        e: np.random.default_rng(derived_seed(seed, int(e), "order")).permutation(images)
        for e in np.unique(epochs)
    }
    return np.array([orders[e][p % images] for e, p in zip(epochs, positions, strict=True)])


def derived_seed(seed: int, index: int, purpose: str) -> int:
    """A seed for a generator, from the case's seed, a position and what it is for."""
    words = np.random.SeedSequence([seed, index, *purpose.encode()]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1
