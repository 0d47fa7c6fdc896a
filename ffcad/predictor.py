"""A trained detector: images in, anomaly scores and maps out."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffcad.checkpoint import load_checkpoint
from ffcad.config import IMAGENET_MEAN, IMAGENET_STD, TrainConfig
from ffcad.model import FFCAD, image_scores


def pick_device(name: str) -> torch.device:
    """The device that a configuration asks for: 'auto' is the GPU where there is one.

    Raises:
        ValueError: if the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N' but got {name!r}"
        ) from e
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs"
        )
    return device


def to_float(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [0, 1] on the device."""
    tensor = torch.as_tensor(images).to(device)
    return tensor.permute(0, 3, 1, 2).float() / 255


def normalise(images: Tensor) -> Tensor:
    """ImageNet's normalisation of (B, 3, H, W) in [0, 1]."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=images.device)[:, None, None]
    return (images - mean) / std


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The mixed-precision region that `config.precision` asks for."""
    dtype = getattr(torch, config.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


@torch.no_grad()
def predict(
    model: FFCAD, images: np.ndarray, *, use_head: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps of images that have the model's size.

    Args:
        model: on its device; left in the mode it came in.
        images: (N, H, W, 3) uint8, memory-mapped or not.
        use_head: False takes the feature discrepancy, which needs no trained head.

    Returns:
        Anomaly scores (N,) and anomaly maps (N, H, W), float32.
    """
    config, device = model.config, next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    maps = []
    for start in range(0, len(images), config.batch_size):
        batch = normalise(to_float(np.array(images[start : start + config.batch_size]), device))
        if config.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with autocast(config, device):
            maps.append((model(batch) if use_head else model.discrepancy(batch)).float())
    for module, mode in modes:
        module.training = mode
    all_maps = torch.cat(maps)
    scores = image_scores(all_maps, config.image_score_pixels)
    return scores.cpu().numpy(), all_maps.cpu().numpy()


class Predictor:
    """Inspects images with a trained model.

    Args:
        model: a trained `FFCAD`.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        use_head: False takes the feature discrepancy, which needs no trained head; None does so
            where the configuration trains none.
    """

    def __init__(self, model: FFCAD, device: str = "auto", use_head: bool | None = None) -> None:
        self.model = model.to(pick_device(device)).eval()
        self.config = model.config
        self.use_head = self.config.head_iterations > 0 if use_head is None else use_head

    @classmethod
    def load(cls, checkpoint: Path, device: str = "auto") -> "Predictor":
        """Reads a training's checkpoint; one from stage one detects by the feature discrepancy.

        Raises:
            CheckpointError: if it is missing, unreadable, or of another version.
        """
        state = load_checkpoint(checkpoint)
        model = FFCAD(TrainConfig.from_dict(state["config"]))
        model.load_state_dict(state["model"])
        return cls(model, device, state["iteration"] > model.config.autoencoder_iterations)

    def __call__(self, images: np.ndarray | Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and maps.

        Args:
            images: a uint8 batch (N, H, W, 3) of the model's size, or image files of any size.

        Returns:
            Anomaly scores (N,) and anomaly maps (N, S, S) with S = config.image_size, float32.

        Raises:
            ValueError: if an array has another shape or type, or there is no image.
            DataError: if a file is no image.
        """
        size = self.config.image_size
        if not isinstance(images, np.ndarray):
            from ffcad.datasets import read_image

            images = np.array([read_image(Path(path), size) for path in images], np.uint8)
        if len(images) == 0:
            raise ValueError("no images were given; give at least one")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images must be uint8 (N, {size}, {size}, 3) but got {images.dtype} "
                f"{images.shape}; give files to have them resized"
            )
        return predict(self.model, images, use_head=self.use_head)
