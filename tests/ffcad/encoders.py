"""A small corpus and a ResNet-18 with random weights, for what makes encoders."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffcad.corpus import Corpus, corpus_of_arrays
from ffcad.encoder_weights import Teacher, state_digest
from ffcad.pretrain_config import PretrainConfig
from ffcad.resnet import FFCResNet
from ffcad.warm_start import calibrate

RECIPE = PretrainConfig(
    image_size=32,
    iterations=6,
    batch_size=4,
    evaluate_every=2,
    calibration_batches=2,
    patience=9,
    learning_rate=3e-4,
    device="cpu",
)


def clouds(count: int, side: int, seed: int = 0) -> Tensor:
    """Normalised random images with structures of several sizes: (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(count, 3, n, n, generator=generator) for n in (4, side // 4, side)]
    up = [torch.nn.functional.interpolate(p, size=side, mode="bilinear") for p in parts]
    return sum(up) / 2


def make_teacher() -> Teacher:
    """A ResNet-18 with random weights whose norms know the images they are given."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        network = FFCResNet(0.0)
    calibrate(network, [clouds(8, 32)])
    network.requires_grad_(False).eval()
    return Teacher(network, state_digest(network.state_dict()))


def make_corpus(count: int = 24, labels: bool = False) -> Corpus:
    """Images as arrays; those of class 1 are darker."""
    images = (clouds(count, 40, seed=2) * 40 + 120).clamp(0, 255).permute(0, 2, 3, 1)
    arrays = images.to(torch.uint8).numpy().copy()
    if not labels:
        return corpus_of_arrays([arrays[:10], arrays[10:]], ["a", "b"])
    which = np.arange(count) % 2
    arrays[which == 1] //= 3
    return Corpus(arrays, "labelled", which, ("bright", "dark"))


def teacher_file(folder: Path) -> Path:
    """The teacher as a file of weights."""
    path = folder / "resnet18.pth"
    torch.save(make_teacher().network.state_dict(), path)
    return path
