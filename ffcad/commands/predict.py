"""`python -m ffcad predict`: scores and pictures of image files."""

import argparse
import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ffcad.commands.arguments import RANDOM_ENCODER, UsageError, output_folder
from ffcad.config import TrainConfig
from ffcad.datasets import DataError, read_image
from ffcad.datasets.images import Unreadable, is_image_file, read_mask, resize_mask
from ffcad.pictures import Inspected, inspection_picture
from ffcad.predictor import Predictor

SHOWN = 20


@dataclass(frozen=True)
class Source:
    """An image file to inspect; `name` is its path below the argument that named it."""

    path: Path
    name: Path


@dataclass(frozen=True)
class Result:
    """What was found on an image; the map has half precision, so that thousands fit in memory."""

    source: Source
    score: float
    anomaly_map: np.ndarray


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "predict",
        help="inspect images with a trained detector",
        description="Inspects images and writes a picture of each, and scores.csv, the most "
        "anomalous first. The pictures share one colour scale. Exit code 1 if a file could not "
        "be inspected.",
    )
    parser.add_argument("checkpoint", type=Path, help="a training's checkpoint.pt")
    parser.add_argument(
        "images", type=Path, nargs="+", help="image files, or folders to search for them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="true masks: a/b.png or a/b_mask.png for the image a/b.jpg below its folder",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspects the images; 1 if a file or a mask could not be read, else 0."""
    sources = find_sources(args.images, args.out)
    masks = None if args.masks is None else find_masks(args.masks, sources)
    predictor = Predictor.load(args.checkpoint)
    out = output_folder(args.out)
    console = Console(markup=False, highlight=False)
    encoder = Path(predictor.config.encoder_weights).name
    if encoder == "random":
        print(f"warning: {RANDOM_ENCODER}", file=sys.stderr)
    results, problems = _inspect(predictor, sources, console)
    results.sort(key=lambda result: -result.score)
    names = picture_names([result.source.name for result in results])
    _write_scores(out / "scores.csv", results, names, encoder)
    problems += _draw(out, results, names, masks, predictor.config, console)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if results:
        console.print("score   file")
    for result in results[:SHOWN]:
        console.print(
            f"{result.score:.4f}  {result.source.path}",
            soft_wrap=True,
        )
    more = f" ({len(results) - SHOWN} more)" if len(results) > SHOWN else ""
    console.print(
        f"{len(results)} of {len(sources)} images inspected{more}; scores.csv and the pictures "
        f"are in {out}",
        soft_wrap=True,
    )
    return 1 if problems else 0


def find_sources(paths: list[Path], out: Path) -> list[Source]:
    """The files that the arguments name: folders are searched for visible image files.

    Args:
        paths: files, taken whatever their suffix, and folders.
        out: left out, because it holds pictures of an earlier call.

    Raises:
        UsageError: if a path is not there, or a folder has no image.
    """
    sources = []
    for path in paths:
        if path.is_dir():
            found = [
                Source(file, file.relative_to(path))
                for file in sorted(path.rglob("*"))
                if is_image_file(file)
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and out.resolve() not in file.resolve().parents
            ]
            if not found:
                raise UsageError(f"folder {path}: no image in it")
            sources += found
        elif path.is_file():
            sources.append(Source(path, Path(path.name)))
        else:
            raise UsageError(f"{path}: no such file or folder")
    return sources


def find_masks(folder: Path, sources: list[Source]) -> dict[Path, Path]:
    """The mask files of the images that have one: image's path -> mask's path.

    Raises:
        UsageError: if the folder is not there, or holds no image's mask.
    """
    if not folder.is_dir():
        raise UsageError(f"--masks {folder}: no such folder")
    files = {
        file.relative_to(folder).with_suffix(""): file
        for file in folder.rglob("*")
        if is_image_file(file)
    }
    masks = {}
    for source in sources:
        stem = source.name.with_suffix("")
        mask = files.get(stem) or files.get(stem.with_name(f"{stem.name}_mask"))
        if mask is not None:
            masks[source.path] = mask
    if not masks:
        stem = sources[0].name.with_suffix("")
        raise UsageError(
            f"--masks {folder}: no image has a mask there; {sources[0].path} would have "
            f"{folder / stem}.png or {folder / stem}_mask.png"
        )
    return masks


def picture_names(names: Iterable[Path]) -> list[Path]:
    """Where each image's picture goes below the output folder; no two the same."""
    taken: dict[Path, None] = {}
    for name in names:
        target, n = name.with_suffix(".png"), 1
        while target in taken:
            n += 1
            target = name.with_name(f"{name.stem}-{n}.png")
        taken[target] = None
    return list(taken)


def _inspect(
    predictor: Predictor, sources: list[Source], console: Console
) -> tuple[list[Result], list[str]]:
    size, step = predictor.config.image_size, predictor.config.batch_size
    results, problems = [], []
    starts = range(0, len(sources), step)
    for start in _tracked(starts, "inspecting", console):
        batch, images = [], []
        for source in sources[start : start + step]:
            try:
                images.append(read_image(source.path, size))
                batch.append(source)
            except DataError as e:
                problems.append(str(e))
        if batch:
            scores, maps = predictor(np.stack(images))
            results += [
                Result(source, float(score), anomaly_map.astype(np.float16))
                for source, score, anomaly_map in zip(batch, scores, maps, strict=True)
            ]
    return results, problems


def _draw(
    out: Path,
    results: list[Result],
    names: list[Path],
    masks: dict[Path, Path] | None,
    config: TrainConfig,
    console: Console,
) -> list[str]:
    """Writes the pictures; returns what is wrong with masks."""
    problems, size = [], config.image_size
    # Every result of a random encoder says so, a picture that is passed on too.
    caveat = " · random encoder" if config.encoder_weights == "random" else ""
    lowest = min((float(r.anomaly_map.min()) for r in results), default=0.0)
    highest = max((float(r.anomaly_map.max()) for r in results), default=1.0)
    pairs = list(zip(results, names, strict=True))
    for result, name in _tracked(pairs, "drawing", console):
        path, mask = result.source.path, None
        if masks is not None and path in masks:
            try:
                mask = resize_mask(read_mask(masks[path].read_bytes()), size)
            except (Unreadable, OSError) as e:
                problems.append(f"{masks[path]} {e}")
        inspected = Inspected(
            read_image(path, size),
            result.anomaly_map.astype(np.float32),
            heading=f"score {result.score:.3f}{caveat}",
            remark=str(result.source.name),
            mask=mask,
        )
        inspection_picture(inspected, out / name, limits=(lowest, highest))
    return problems


def _write_scores(path: Path, results: list[Result], names: list[Path], encoder: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["file", "score", "picture", "encoder"])
        for result, name in zip(results, names, strict=True):
            score = f"{result.score:.6f}"
            writer.writerow([result.source.path, score, name.as_posix(), encoder])


def _tracked(items: list | range, what: str, console: Console) -> Iterable:
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)
