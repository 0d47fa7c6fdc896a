"""`python -m ffcad export`: a trained detector as an ONNX file, as a torch.export program."""

import argparse
import sys
from dataclasses import asdict, dataclass
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ffcad import __version__
from ffcad.commands.arguments import (
    RANDOM_ENCODER,
    UsageError,
    output_folder,
    positive_number,
    whole_number,
)
from ffcad.commands.image_sources import find_sources
from ffcad.commands.predict import load_detector
from ffcad.commands.results import write_json
from ffcad.datasets import read_image
from ffcad.durable import whole_file
from ffcad.export import (
    FOURIER,
    INPUT,
    ONNX_PACKAGES,
    OPSET,
    OUTPUTS,
    TAKES,
    ExportError,
    Inspect,
    InspectionGraph,
    check_onnx_packages,
    inspect_with_model,
    load_onnx,
    load_torch,
    write_onnx,
    write_torch,
)
from ffcad.export_checks import TOLERANCE, Deviation, check, image_seconds, random_images
from ffcad.predictor import Predictor

# A folder of thousands would take an hour and show no more.
MOST_IMAGES = 16
ONNX_FILE, TORCH_FILE, CARD = "detector.onnx", "detector.pt2", "export.json"


@dataclass(frozen=True)
class Exported:
    """A file that was written, after it agreed with the model.

    Attributes:
        path: of the file.
        fourier: how it has the Fourier transforms.
        inspect: it, loaded.
        on_random, on_given: how far it is from the model; the second is None without `--images`.
    """

    path: Path
    fourier: str
    inspect: Inspect
    on_random: Deviation
    on_given: Deviation | None


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "export",
        help="a trained detector as ONNX and as torch.export's program",
        description="Writes a trained detector, from images to scores and maps, as one graph: "
        f"{ONNX_FILE}, {TORCH_FILE}, and {CARD}, which says what they take and give. Each file is "
        f"compared with the model (to {TOLERANCE:g} of map and score) before it takes its name.",
    )
    parser.add_argument(
        "detector", type=Path, help="a training's checkpoint.pt, or the folder of a detector"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--format",
        choices=("onnx", "torch", "both"),
        default="both",
        help="which files (default: both)",
    )
    parser.add_argument(
        "--input",
        choices=tuple(TAKES),
        default="float32",
        help="what the graph takes: " + ", or ".join(TAKES.values()) + " (default: float32)",
    )
    parser.add_argument(
        "--fourier",
        choices=FOURIER,
        default="matrix",
        help="ONNX's Fourier transforms: products with matrices, or the operator DFT, which fewer "
        "runtimes have and which is slower in ONNX Runtime (default: matrix)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help=f"also compare on real images: up to {MOST_IMAGES}, spread over the folder",
    )
    parser.add_argument(
        "--threads",
        type=positive_number,
        metavar="N",
        help="of each runtime where times are measured (default: torch's)",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number,
        default=9,
        metavar="N",
        help="times that each runtime inspects one image; the median is shown; 0 measures nothing "
        "(default: 9)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports, compares, measures."""
    if args.format != "torch":
        check_onnx_packages()
    detector = load_detector(args.detector, "cpu")
    predictor, calibration = detector.predictor, detector.calibration
    config = predictor.config
    given, found = _given_images(args.images, args.out, config.image_size)
    out = output_folder(args.out)
    console = Console(markup=False, highlight=False)
    if config.encoder_weights == "random":
        print(f"warning: {RANDOM_ENCODER}", file=sys.stderr)
    if config.precision != "float32":
        said = f"trained in {config.precision}, the graph computes in float32"
        print(f"warning: {said}", file=sys.stderr)
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    names = [ONNX_FILE] if args.format != "torch" else []
    names += [TORCH_FILE] if args.format != "onnx" else []
    model = inspect_with_model(predictor)
    made = random_images(config.image_size)
    compared = {"random": (made, model(made))}
    if given is not None:
        compared["given"] = (given, model(given))
    exported = []
    for name in names:
        with console.status(f"writing {name}: this takes minutes"):
            exported.append(_export(predictor, out / name, args, threads, compared))
    seconds = {}
    if args.rounds:
        inspects = {"model": model} | {file.path.name: file.inspect for file in exported}
        seconds = image_seconds(inspects, made[0], args.rounds)
    card = _card(predictor, args, exported, seconds, threads)
    card["calibration"] = calibration and calibration.to_dict()
    with whole_file(out / CARD) as temporary:
        write_json(temporary, card)
    console.print(_table(args, exported, seconds, threads, found))
    console.print(f"the files and {CARD} are in {out}", soft_wrap=True)
    return 0


def _given_images(folder: Path | None, out: Path, size: int) -> tuple[np.ndarray | None, int]:
    """Up to `MOST_IMAGES` of the folder's images, evenly spread, and how many it has."""
    if folder is None:
        return None, 0
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: no such folder")
    sources = find_sources([folder], out)
    chosen = np.linspace(0, len(sources) - 1, min(len(sources), MOST_IMAGES)).round().astype(int)
    return np.stack([read_image(sources[i].path, size) for i in chosen]), len(sources)


def _export(
    predictor: Predictor,
    path: Path,
    args: argparse.Namespace,
    threads: int,
    compared: dict[str, tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]],
) -> Exported:
    """Writes one file, and gives it its name when it has agreed with the model.

    Args:
        compared: images, with the model's scores and maps of them; 'random', and 'given'.
    """
    onnx = path.name == ONNX_FILE
    fourier = args.fourier if onnx else "dft"  # torch's own transforms are fast
    graph = InspectionGraph(
        predictor.model, use_head=predictor.use_head, takes=args.input, fourier=fourier
    )
    try:
        with whole_file(path) as temporary:
            (write_onnx if onnx else write_torch)(graph, temporary)
            inspect = load_onnx(temporary, threads) if onnx else load_torch(temporary)
            # One image, then several at once.
            found = {key: check(inspect, *pair, (1, 3)) for key, pair in compared.items()}
    except ExportError as e:
        advice = "; --fourier matrix does without the operator DFT" if fourier == "dft" else ""
        raise ExportError(f"{path}: {e}{advice if onnx else ''}; nothing was written there") from e
    return Exported(path, fourier, inspect, found["random"], found.get("given"))


def _card(
    predictor: Predictor,
    args: argparse.Namespace,
    exported: list[Exported],
    seconds: dict[str, float],
    threads: int,
) -> dict[str, Any]:
    """What export.json holds."""
    config = predictor.config
    packages = ["torch", *(ONNX_PACKAGES if args.format != "torch" else ())]
    return {
        "input": {"name": INPUT, "is": TAKES[args.input], "S": config.image_size},
        "outputs": {OUTPUTS[0]: "(N,) float32", OUTPUTS[1]: "(N, S, S) float32"},
        "colours": "RGB; the graph normalises them",
        "resized": "the whole image to S x S by Pillow's BILINEAR, which averages over all pixels "
        "where it shrinks; a filter that does not gives other scores, and the thresholds are off",
        "map": "segmentation head" if predictor.use_head else "feature discrepancy",
        "score": f"mean of the map's {config.image_score_pixels} highest values",
        "config": config.to_dict(),
        "config_digest": config.digest(),
        "random_encoder": config.encoder_weights == "random",
        "files": {
            file.path.name: {
                "sha256": _sha256(file.path),
                "bytes": file.path.stat().st_size,
                "fourier": file.fourier,
                "opset": OPSET if file.path.name == ONNX_FILE else None,
                "differs_on_random_images": asdict(file.on_random),
                "differs_on_given_images": file.on_given and asdict(file.on_given),
            }
            for file in exported
        },
        "seconds_per_image": seconds,
        "threads": threads,
        "versions": {"ffcad": __version__} | {name: version(name) for name in packages},
    }


def _table(
    args: argparse.Namespace,
    exported: list[Exported],
    seconds: dict[str, float],
    threads: int,
    found: int,
) -> Table:
    caption = ["differs: the largest difference of an anomaly map's value from the model's,"]
    caption.append(f"on {exported[0].on_random.images} random images")
    if exported[0].on_given is not None:
        caption[-1] += f" and on {exported[0].on_given.images} of the {found} given ones"
    if seconds:
        caption.append(f"one image: median of {args.rounds} in turns; threads: {threads}")
    table = Table(
        title=f"{args.detector} as a graph that takes {TAKES[args.input]}",
        caption="\n".join(caption),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("Fourier")
    for name in ("MiB", "differs, random", "given", "one image"):
        table.add_column(name, justify="right")
    if seconds:
        table.add_row("the model", "torch's", "", "", "", f"{1000 * seconds['model']:.0f} ms")
    for file in exported:
        name, real = file.path.name, file.on_given
        operators = {"matrix": "matrices", "dft": "DFT" if name == ONNX_FILE else "torch's"}
        table.add_row(
            name,
            operators[file.fourier],
            f"{file.path.stat().st_size / 2**20:.1f}",
            f"{file.on_random.map:.1e}",
            "" if real is None else f"{real.map:.1e}",
            f"{1000 * seconds[name]:.0f} ms" if seconds else "",
        )
    return table


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return file_digest(f, "sha256").hexdigest()
