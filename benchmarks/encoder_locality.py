"""How far a defect reaches in a frozen encoder's features.

    python benchmarks/encoder_locality.py ENCODER.safetensors ... --teacher RESNET18 --images FOLDER

A patch of noise is laid onto each image. Per level: the mean cosine distance between the features
with and without it, over the cells that lie inside the patch, and over those that lie far from it,
beyond every 3x3 convolution's reach. A detector that compares features needs the first to be large
and the second to be small. The plain ResNet-18 is the first row.
"""

import argparse
import platform
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ffcad.corpus import central_crop, read_corpus
from ffcad.encoder_weights import load_encoder_weights, load_teacher, read_card
from ffcad.layers import concatenate
from ffcad.model import cosine_distance
from ffcad.predictor import normalise, to_float
from ffcad.resnet import FFCResNet

# Pixels: the patch's side, and the distance from its edge beyond which a cell is far. A cell of
# ResNet-18's third stage is reached from at most 105 pixels away; half of that has nearly all of
# its weight.
PATCH, FAR = 16, 48


def read(path: Path) -> FFCResNet:
    """The encoder of a file with a card."""
    a = read_card(path)["architecture"]
    encoder = FFCResNet(a["ratio"], a["layers"], lfu=a["lfu"])
    load_encoder_weights(encoder, str(path))
    return encoder.eval()


@torch.no_grad()
def reach(encoder: FFCResNet, images: np.ndarray, seed: int) -> list[tuple[float, float]]:
    """Per level, the mean distance inside the patch and far from it.

    Args:
        encoder: in eval mode.
        images: (N, S, S, 3) uint8.
        seed: of the patches' places and noise.
    """
    rng, side = np.random.default_rng(seed), images.shape[1]
    sums = np.zeros((3, 2, 2))
    for image in images:
        top, left = rng.integers(8, side - PATCH - 8, 2)
        spoilt = image.copy()
        noise = rng.integers(0, 256, (PATCH // 2, PATCH // 2, 3), dtype=np.uint8)
        spoilt[top : top + PATCH, left : left + PATCH] = noise.repeat(2, 0).repeat(2, 1)
        pair = normalise(to_float(np.stack([image, spoilt]), torch.device("cpu")))
        for k, level in enumerate(encoder(pair)):
            f = concatenate(level)
            distance = cosine_distance(f[:1], f[1:])[0].numpy()
            cell = side / distance.shape[0]
            centres = (np.arange(distance.shape[0]) + 0.5) * cell
            y = np.maximum(top - centres, centres - top - PATCH)  # outside by; negative inside
            x = np.maximum(left - centres, centres - left - PATCH)
            apart = np.maximum(y[:, None], x[None])
            for j, cells in enumerate((apart <= 0, apart > FAR)):
                sums[k, j] += distance[cells].sum(), cells.sum()
    return [tuple(sums[k, :, 0] / sums[k, :, 1]) for k in range(3)]


def main() -> None:
    """Measures every encoder and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", type=Path, nargs="+")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    corpus = read_corpus([given.images])
    chosen = np.linspace(0, len(corpus) - 1, min(given.count, len(corpus))).astype(int)
    images = np.stack([central_crop(corpus.image(int(i)), given.size) for i in chosen])
    table = Table("encoder", *(f"level {k}: in, far, in/far" for k in (1, 2, 3)))
    rows = {"ResNet-18": load_teacher(given.teacher).network}
    rows |= {path.stem: read(path) for path in given.encoders}
    for name, encoder in rows.items():
        found = reach(encoder, images, seed=0)
        words = (f"{a:.3f} {b:.5f} {a / b if b else float('inf'):.0f}" for a, b in found)
        table.add_row(name, *words)
    console = Console(width=100)
    console.print(f"{len(images)} images, {platform.machine()}, {date.today()}")
    console.print(table)


if __name__ == "__main__":
    main()
