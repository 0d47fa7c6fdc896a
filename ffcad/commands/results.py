"""What a training's metrics.json holds, and the table of it."""

import json
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ffcad import __version__
from ffcad.commands.arguments import RANDOM_ENCODER
from ffcad.commands.progress import duration
from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, Textures
from ffcad.training import METHOD_VERSION, Progress


def results_document(
    config: TrainConfig,
    data: CategoryData,
    textures: Textures | None,
    seed: int,
    holdout: str,
    final: Progress,
) -> dict[str, Any]:
    """What metrics.json holds; the memory is this sitting's, the seconds are all sittings'."""
    device = next(final.model.parameters()).device
    on_gpu = device.type == "cuda"
    return {
        "config": config.to_dict(),
        "case": {
            "data": data.data,
            "category": data.category,
            "seed": seed,
            "select_on": data.select_on,
            "holdout": holdout if data.select_on == "holdout" else None,
            "images": {
                name: len(getattr(data, name).paths) for name in ("train", "select", "report")
            },
            "notes": list(data.notes),
        },
        "digests": {
            "config": config.digest(),
            "data": data.digest,
            "textures": textures and textures.digest,
            "encoder": final.encoder_digest,
        },
        "random_encoder": config.encoder_weights == "random",
        "metrics": final.metrics,
        "history": final.history,
        "seconds": final.seconds,
        "peak_memory_mib": {
            "process": _peak_memory(),
            "gpu": torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None,
        },
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {
            "ffcad": __version__,
            "method": METHOD_VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
    }


def _peak_memory() -> float:
    """The most memory that this process has held, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def results_table(document: dict[str, Any]) -> Table:
    """The metrics of both splits, with what belongs to them in title and caption."""
    case, memory = document["case"], document["peak_memory_mib"]
    gpu = "" if memory["gpu"] is None else f", on the GPU {memory['gpu']:,.0f} MiB"
    caption = [
        f"training {duration(document['seconds'])}; peak memory {memory['process']:,.0f} MiB{gpu}"
    ]
    if case["select_on"] == "paper":
        caption.append("select and report are the same images: choices have seen what is reported")
    if document["random_encoder"]:
        caption.append(f"warning: {RANDOM_ENCODER}")
    table = Table(
        title=f"{case['data']}/{case['category']}, seed {case['seed']}, selected on "
        f"{case['select_on']}",
        caption="\n".join(caption),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    for split in ("select", "report"):
        table.add_column(f"{split} ({case['images'][split]} images)", justify="right")
    metrics = document["metrics"]
    for name in dict.fromkeys(key.split("_", 1)[1] for key in metrics):
        cells = [metrics.get(f"{split}_{name}") for split in ("select", "report")]
        table.add_row(name, *("" if cell is None else f"{cell:.4f}" for cell in cells))
    return table


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
