"""What one image costs with each way to have the Fourier transforms in an exported graph.

python benchmarks/export_speed.py

Processor time on one thread, of the model in torch and of its two ONNX graphs, which take turns in
this process: so what other programs leave of the cores counts little. Two models with random
weights: the default configuration at 256 pixels, one image at a time, and a narrow one (16 and 8
channels) at 64 pixels, three at a time.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from ffcad.config import TrainConfig
from ffcad.export import (
    FOURIER,
    InspectionGraph,
    inspect_with_model,
    load_onnx,
    write_onnx,
)
from ffcad.export_checks import random_images
from ffcad.model import FFCAD
from ffcad.predictor import Predictor

DEFAULT = TrainConfig(encoder_weights="random", device="cpu")
MODELS = {
    "default": (DEFAULT, 1),
    "narrow": (replace(DEFAULT, image_size=64, autoencoder_channels=16, head_channels=8), 3),
}


def processor_seconds(config: TrainConfig, images: int, rounds: int) -> dict[str, float]:
    """Median processor time of so many images at once, by runtime."""
    torch.manual_seed(0)
    predictor = Predictor(FFCAD(config), device="cpu")
    batch = random_images(config.image_size)[:images]
    inspects = {"torch": inspect_with_model(predictor)}
    with tempfile.TemporaryDirectory() as folder:
        for fourier in FOURIER:
            path = Path(folder) / f"{fourier}.onnx"
            graph = InspectionGraph(predictor.model, use_head=True, takes="uint8", fourier=fourier)
            write_onnx(graph, path)
            inspects[f"ONNX Runtime, {fourier}"] = load_onnx(path, 1)
        seconds: dict[str, list[float]] = {name: [] for name in inspects}
        for round_number in range(rounds + 1):
            for name, inspect in inspects.items():
                start = time.process_time()
                inspect(batch)
                if round_number:  # The first one warms up.
                    seconds[name].append(time.process_time() - start)
    return {name: median(times) for name, times in seconds.items()}


def main() -> None:
    """Prints a table for both models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "onnx", "onnxruntime"))
    table = Table(title=f"processor time on one thread; {platform.machine()}, {versions}")
    for heading in ("model", "runtime", "ms", "over torch"):
        table.add_column(heading, justify="left" if heading in ("model", "runtime") else "right")
    for model, (config, images) in MODELS.items():
        found = processor_seconds(config, images, given.rounds)
        for name, seconds in found.items():
            table.add_row(model, name, f"{1000 * seconds:.1f}", f"{seconds / found['torch']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
