"""`python -m ffcad predict`: scores, verdicts and pictures of image files."""

import argparse
from pathlib import Path

from ffcad.commands.image_sources import find_sources
from ffcad.commands.inspecting import inspect_files
from ffcad.detector import Detector, DetectorError
from ffcad.predictor import Predictor


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "predict",
        help="inspect images with a trained detector",
        description="Inspects images and writes scores.csv, a picture of each, and index.html, a "
        "contact sheet, all with the most anomalous first and on one colour scale. Exit code 1 if "
        "a file could not be inspected.",
    )
    parser.add_argument(
        "detector",
        type=Path,
        help="a training's checkpoint.pt; or the folder of a calibrated detector, which gives "
        "verdicts and regions too",
    )
    add_arguments(parser)
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="true masks: a/b.png or a/b_mask.png for the image a/b.jpg below its folder",
    )
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that every command that inspects files has."""
    parser.add_argument(
        "images", type=Path, nargs="+", help="image files, or folders to search for them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="compare the scores with those of the normal calibration images: has the camera "
        "moved?",
    )


def run(args: argparse.Namespace) -> int:
    """Inspects the images; 1 if a file or a mask could not be read, else 0."""
    sources = find_sources(args.images, args.out)
    return inspect_files(
        load_detector(args.detector),
        str(args.detector),
        sources,
        args.out,
        masks=args.masks,
        monitor=args.monitor,
    )


def load_detector(path: Path, device: str = "auto") -> Detector:
    """A detector's folder; or a checkpoint, as a detector without calibration.

    Args:
        path: of either.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        CheckpointError, DetectorError: if it cannot be read.
    """
    if path.is_dir():
        return Detector.load(path, device)
    if not path.exists():
        raise DetectorError(f"{path}: no such checkpoint, and no folder of a detector")
    predictor = Predictor.load(path, device)
    return Detector(predictor.model, None, use_head=predictor.use_head, device=device)
