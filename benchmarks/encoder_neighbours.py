"""What a frozen encoder's features alone know of defects, without FFC-AD's training.

    python benchmarks/encoder_neighbours.py ENCODER.safetensors ... --teacher RESNET18 \
        --data mvtec --data-root DIR --categories mtoc,screw

A patch's anomaly is the cosine distance to the nearest patch of the normal training images, in the
second and third level's features, averaged over 3x3 cells (PatchCore, Roth et al. 2022, with a
random memory in place of a coreset). Nothing is trained, so encoders differ by their features and
not by a training's luck. Beside the files stand the plain ResNet-18 and, for the architecture of
the first file, random weights of three seeds. `--brightness 1,0.9` multiplies the test images.

`AUROC` is the image's, of its greatest patch; then pixel AP and AUPRO. In percent, on the whole
test split.
"""

import argparse
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ffcad.commands.arguments import positive_number
from ffcad.datasets import DATA_LAYOUTS, load_category
from ffcad.datasets.records import CategoryData
from ffcad.encoder_weights import load_encoder_weights, load_teacher, read_card
from ffcad.layers import concatenate
from ffcad.metrics import all_metrics
from ffcad.predictor import normalise, to_float
from ffcad.resnet import FFCResNet

# Patches of the memory: a coreset of PatchCore at 10 % of 48 images of 256 cells has 1,200.
MEMORY = 8192
BATCH = 16


def read(path: Path) -> FFCResNet:
    """The encoder of a file with a card, in eval mode."""
    a = read_card(path)["architecture"]
    encoder = FFCResNet(a["ratio"], a["layers"], lfu=a["lfu"])
    load_encoder_weights(encoder, str(path))
    return encoder.eval()


def random(like: FFCResNet, seed: int) -> FFCResNet:
    """The same architecture with random weights, as a training without an encoder has them."""
    torch.manual_seed(seed)
    a = like.architecture
    encoder = FFCResNet(a["ratio"], a["layers"], lfu=a["lfu"])
    load_encoder_weights(encoder, "random")
    return encoder.eval()


@torch.no_grad()
def patches(encoder: FFCResNet, images: np.ndarray, brightness: float = 1.0) -> Iterator[Tensor]:
    """Batches (B, C, h, w) of features whose inner product over 2 is the mean cosine of two levels.

    Args:
        encoder: in eval mode.
        images: (N, S, S, 3) uint8.
        brightness: a factor of the pixel values, which are cut off at white.
    """
    for i in range(0, len(images), BATCH):
        batch = to_float(np.array(images[i : i + BATCH]), torch.device("cpu"))
        levels = encoder(normalise((batch * brightness).clamp(0, 1)))
        second, third = (F.avg_pool2d(concatenate(x), 3, 1, 1) for x in levels[1:])
        third = F.interpolate(third, size=second.shape[2:], mode="bilinear", align_corners=False)
        yield torch.cat([F.normalize(second, dim=1), F.normalize(third, dim=1)], dim=1)


def detect(encoder: FFCResNet, data: CategoryData, brightness: tuple[float, ...]) -> list[dict]:
    """Metrics of the report split, one set for each factor of brightness."""
    rows = [f.permute(0, 2, 3, 1).flatten(0, 2) for f in patches(encoder, data.train.images)]
    memory = torch.cat(rows)
    chosen = np.random.default_rng(0).permutation(len(memory))[:MEMORY]
    memory = memory[torch.from_numpy(chosen)].T.contiguous()
    found, side = [], data.image_size
    for factor in brightness:
        maps, scores = [], []
        for f in patches(encoder, data.report.images, factor):
            b, c, h, w = f.shape
            nearest = (f.permute(0, 2, 3, 1).reshape(-1, c) @ memory).amax(1)
            distance = (1 - nearest / 2).reshape(b, 1, h, w)
            scores.append(distance.amax((1, 2, 3)))
            maps.append(F.interpolate(distance, size=side, mode="bilinear")[:, 0])
        maps, scores = torch.cat(maps).numpy(), torch.cat(scores).numpy()
        found.append(all_metrics(scores, data.report.labels, maps, data.report.masks))
    return found


def main() -> None:
    """Measures every encoder on every category and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", type=Path, nargs="+")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", choices=DATA_LAYOUTS, default="synthetic")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--categories", required=True, type=lambda text: text.split(","))
    parser.add_argument("--size", type=positive_number, default=128, help="of the images, pixels")
    parser.add_argument(
        "--brightness", type=lambda text: tuple(map(float, text.split(","))), default=(1.0,)
    )
    given = parser.parse_args()
    rows = {"plain ResNet-18": [load_teacher(given.teacher).network]}
    rows |= {path.stem: [read(path)] for path in given.encoders}
    like = read(given.encoders[0])
    rows["random, 3 seeds"] = [random(like, seed) for seed in range(3)]
    console = Console(width=110)
    console.print(
        f"{given.size} px, {platform.machine()}, torch {torch.__version__}, {date.today()}"
    )
    for category in given.categories:
        data = load_category(given.data, given.data_root, category, given.size, select_on="paper")
        heads = (f"brightness {b:g}: AUROC, AP, AUPRO" for b in given.brightness)
        table = Table(category, *heads)
        for name, encoders in rows.items():
            found = [detect(e, data, given.brightness) for e in encoders]
            cells = []
            for k in range(len(given.brightness)):
                keys = ("image_auroc", "pixel_ap", "pixel_aupro")
                means = [100 * np.mean([one[k][key] for one in found]) for key in keys]
                cells.append(" ".join(f"{m:.1f}" for m in means))
            table.add_row(name, *cells)
        console.print(table)


if __name__ == "__main__":
    main()
