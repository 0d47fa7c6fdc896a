"""What it saves that each stage computes only what it trains.

    python benchmarks/stage_cost.py --rounds 3

The paper's default model at 256x256, batch 8. An iteration of each stage, through the training's
own step, against one that computes everything in both stages, as the closest published design
(DeSTSeg, `train.py`) does: the frozen encoder on the normal and on the anomalous images, the
autoencoder and the head with gradients, both losses, and a backward pass and an optimizer step for
the stage's own loss. In stage two that backward pass runs through the autoencoder too. The two
alternate in one run; the table has medians, and the median of the pairs' ratios in wall time and in
processor time, which other programs on the machine disturb less.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from ffcad.batches import derived_seed, training_images
from ffcad.config import TrainConfig
from ffcad.datasets import load_category
from ffcad.encoder_weights import RandomEncoderWarning
from ffcad.model import feature_product
from ffcad.objectives import make_optimizer, reconstruction_loss, segmentation_loss
from ffcad.training import AUTOENCODER, HEAD, _Fit

TARGETS = {AUTOENCODER: 0.6, HEAD: 0.85}


def fit_in_stage(config: TrainConfig, stage: str) -> _Fit:
    """A training that stands at the beginning of a stage, with its first batch."""
    data = load_category("synthetic", None, "wood", config.image_size)
    fit = _Fit(config, data, 0, None)
    if stage == HEAD:
        fit.iteration = config.autoencoder_iterations
        fit._enter_stage()
    return fit


def everything_step(fit: _Fit, stage: str) -> Callable[[dict], None]:
    """An iteration that computes all of it, on the same model."""
    config, model = fit.config, fit.model
    model.autoencoder.requires_grad_(True)
    model.head.requires_grad_(True)
    part = model.autoencoder if stage == AUTOENCODER else model.head
    optimizer = make_optimizer(config, part)

    def step(batch: dict) -> None:
        generator = torch.Generator().manual_seed(derived_seed(0, fit.iteration, "anomalies"))
        normal, anomalous, mask = training_images(batch, config, fit.device, generator)
        seen = model.encoder(anomalous)
        output = model.autoencoder(anomalous, generator)
        logits = model.head(feature_product(seen, output))
        features = reconstruction_loss(model.encoder(normal), output, config.reconstruction_loss)
        masks = segmentation_loss(logits, mask, config.focal_gamma, config.l1_weight)
        model.zero_grad(set_to_none=True)
        (features if stage == AUTOENCODER else masks).backward()
        optimizer.step()
        features.item(), masks.item()  # both are logged there

    return step


def seconds(step: Callable[[dict], None], batch: dict) -> tuple[float, float]:
    """Wall and processor time of one iteration."""
    wall, processor = time.perf_counter(), time.process_time()
    step(batch)
    return time.perf_counter() - wall, time.process_time() - processor


def processor() -> str:
    """Its name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="iterations of each that are timed")
    parser.add_argument("--image-size", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", RandomEncoderWarning)
    config = TrainConfig(
        image_size=args.image_size, autoencoder_iterations=10_000, head_iterations=10_000
    )
    print(
        f"{date.today()}, {processor()}, {args.threads} threads on {os.cpu_count()} cores, "
        f"torch {torch.__version__}, {args.image_size}x{args.image_size}, batch "
        f"{config.batch_size}, {args.rounds} rounds after one that is not counted"
    )
    print(f"{'stage':12} {'ours, s':>9} {'all, s':>9} {'ratio':>7} {'CPU ratio':>10} {'aim':>6}")
    for stage, target in TARGETS.items():
        ours, everything = fit_in_stage(config, stage), fit_in_stage(config, stage)
        all_step = everything_step(everything, stage)
        batch = next(iter(ours.loader()))
        pairs = [
            (seconds(ours.step, batch), seconds(all_step, batch)) for _ in range(args.rounds + 1)
        ][1:]
        wall, cpu = (statistics.median(a[clock] / b[clock] for a, b in pairs) for clock in (0, 1))
        a, b = (statistics.median(pair[who][0] for pair in pairs) for who in (0, 1))
        print(f"{stage:12} {a:9.2f} {b:9.2f} {wall:7.2f} {cpu:10.2f} {target:6.2f}")


if __name__ == "__main__":
    main()
