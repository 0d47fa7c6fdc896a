"""How an autoencoder's frozen batch norms stand images that differ from the training ones.

    python benchmarks/norm_statistics.py runs/screw/checkpoint.pt --data mvtec --data-root DIR \
        --category screw

Prints the mean squared difference of the reconstructed features (summed over the levels, no
anomalies, no HSAS) of normal training and normal test images, once with the running statistics of
the batch norms, as in an inspection, and once with the batch's own, as in training. Where the first
is many times the second, the autoencoder has not learned what normal is; its batch norms have
learned one narrow range of inputs. The mean grey value of both sets stands beside it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ffcad.commands.arguments import positive_number
from ffcad.datasets import DATA_LAYOUTS, load_category
from ffcad.objectives import reconstruction_loss
from ffcad.predictor import Predictor, normalise, to_float


@torch.no_grad()
def losses(predictor: Predictor, images: np.ndarray) -> tuple[float, float]:
    """The reconstruction loss with running and with batch statistics; the model is changed."""
    model = predictor.model
    batch = normalise(to_float(images, next(model.parameters()).device))
    target = model.encoder(batch)
    model.autoencoder.eval()
    running = reconstruction_loss(target, model.autoencoder(batch), "l2").item()
    model.autoencoder.train()
    model.autoencoder.hsas.eval()
    return running, reconstruction_loss(target, model.autoencoder(batch), "l2").item()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", choices=DATA_LAYOUTS, default="synthetic")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--category", required=True)
    parser.add_argument("--images", type=positive_number, default=16, help="of each set")
    args = parser.parse_args()
    size = Predictor.load(args.checkpoint).config.image_size
    data = load_category(args.data, args.data_root, args.category, size, select_on="paper")
    normal = np.flatnonzero(~data.report.labels)
    sets = {
        "training": data.train.images[np.arange(min(args.images, len(data.train)))],
        "test, normal": data.report.images[normal[: args.images]],
    }
    print(f"{'images':14} {'grey value':>10} {'running':>10} {'batch':>10}")
    for name, images in sets.items():
        # A fresh copy: batch statistics move the running ones.
        running, batch = losses(Predictor.load(args.checkpoint), images)
        print(f"{name:14} {images.mean():10.1f} {running:10.3f} {batch:10.3f}")


if __name__ == "__main__":
    main()
