"""Image files to scores, verdicts, pictures and a contact sheet: what inspecting commands do."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ffcad.commands.arguments import RANDOM_ENCODER, UsageError, output_folder
from ffcad.commands.image_sources import (
    PICTURES,
    SCORES,
    Source,
    find_masks,
    picture_names,
    refuse_overwriting,
)
from ffcad.contact_sheet import Card, thumbnail, write_contact_sheet
from ffcad.datasets import read_image
from ffcad.datasets.images import Unreadable, read_mask, read_rgb, resize_mask
from ffcad.detector import Detector, Inspection
from ffcad.drift import DriftResult, drift
from ffcad.pictures import Inspected, inspection_picture

SHOWN = 20
SHEET, DRIFT = "index.html", "drift.json"
VERDICTS = {None: "", True: "defect", False: "normal"}


@dataclass(frozen=True)
class Result:
    """What was found on an image file of `size` (width, height); its map has half precision, so
    that thousands fit in memory. `picture` is the path of its picture below the output folder."""

    source: Source
    picture: Path
    size: tuple[int, int]
    found: Inspection


def inspect_files(
    detector: Detector,
    title: str,
    sources: list[Source],
    out: Path,
    *,
    masks: Path | None = None,
    monitor: bool = False,
) -> int:
    """Inspects images and writes what was found: scores.csv, a picture of each, a contact sheet.

    Args:
        detector: with or without calibration.
        title: what the user calls it.
        sources: image files, from `find_sources`.
        out: output folder.
        masks: folder of true masks.
        monitor: whether the scores are compared with those of the normal calibration images; the
            result is printed and written to drift.json.

    Returns:
        1 if a file or a mask could not be read, else 0.

    Raises:
        UsageError: if a folder is not there or cannot be written, nothing to monitor by is, or an
            image or a mask would be overwritten.
    """
    if monitor and detector.calibration is None:
        raise UsageError(
            "--monitor needs the scores of normal images that a detector's folder keeps, but "
            f"{title} is a checkpoint; give a detector"
        )
    mask_files = {} if masks is None else find_masks(masks, sources)
    pictures = picture_names([source.name for source in sources])
    refuse_overwriting(
        (out / name for name in (SCORES, SHEET, DRIFT, *pictures)),
        (*(source.path for source in sources), *mask_files.values()),
    )
    output_folder(out)
    console = Console(markup=False, highlight=False)
    warnings, facts = [], []
    if detector.config.encoder_weights == "random":
        warnings.append(RANDOM_ENCODER)
    results, problems = _inspect(detector, list(zip(sources, pictures, strict=True)), console)
    results.sort(key=lambda result: -result.found.score)
    if monitor:
        checked = drift(detector.calibration.normal_scores, [r.found.score for r in results])
        _write_drift(out / DRIFT, checked)
        (warnings if checked.drifted else facts).append(checked.line())
    # Its full path would say more of a machine than of the encoder.
    encoder = Path(detector.config.encoder_weights).name
    _write_scores(out / SCORES, results, encoder)
    cards, wrong_masks = _draw(out, results, mask_files, detector, console)
    problems += wrong_masks
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    counts = _counts(results, len(sources), detector)
    more = [f"not inspected: {problem}" for problem in problems]
    write_contact_sheet(
        out / SHEET, cards, title=title, facts=[counts, *facts], warnings=[*warnings, *more]
    )
    _print_results(console, results, detector.calibration is not None)
    for line in (*facts, counts):
        console.print(line, soft_wrap=True)
    console.print(f"{SHEET}, {SCORES} and the folder {PICTURES} are in {out}", soft_wrap=True)
    return 1 if problems else 0


def _inspect(
    detector: Detector, pairs: list[tuple[Source, Path]], console: Console
) -> tuple[list[Result], list[str]]:
    """The images, each with its picture's place, to results, and what is wrong with the others."""
    step = detector.config.batch_size
    results, problems = [], []
    starts = range(0, len(pairs), step)
    for start in _tracked(starts, "inspecting", console):
        read: list[tuple[Source, Path, tuple[int, int]]] = []
        batch = detector.inspect(_images(pairs[start : start + step], read, problems))
        for (source, picture, size), found in zip(read, batch, strict=True):
            small = replace(found, anomaly_map=found.anomaly_map.astype(np.float16))
            results.append(Result(source, picture, size, small))
    return results, problems


def _images(
    pairs: list[tuple[Source, Path]],
    read: list[tuple[Source, Path, tuple[int, int]]],
    problems: list[str],
) -> Iterator[np.ndarray]:
    """The images of a batch, one in memory at a time; `read` gets those that there were."""
    for source, picture in pairs:
        try:
            image = read_rgb(source.path.read_bytes())
        except Unreadable as e:
            problems.append(f"{source.path}: {e}")
        except OSError as e:
            problems.append(f"{source.path}: {e.strerror or e}")
        else:
            read.append((source, picture, image.size))
            yield np.asarray(image)


def _draw(
    out: Path,
    results: list[Result],
    masks: dict[Path, Path],
    detector: Detector,
    console: Console,
) -> tuple[list[Card], list[str]]:
    """Writes the pictures; returns the contact sheet's cards, and what is wrong with masks."""
    cards, problems, size = [], [], detector.config.image_size
    # Every result of a random encoder says so, a picture that is passed on too.
    caveat = " · random encoder" if detector.config.encoder_weights == "random" else ""
    calibration = detector.calibration
    threshold = None if calibration is None else calibration.pixel_threshold
    maps = [result.found.anomaly_map for result in results]
    lowest = min((float(m.min()) for m in maps), default=0.0)
    limits = (lowest, max((float(m.max()) for m in maps), default=1.0))
    for result in _tracked(results, "drawing", console):
        path, mask, found = result.source.path, None, result.found
        if path in masks:
            try:
                mask = resize_mask(read_mask(masks[path].read_bytes()), size)
            except (Unreadable, OSError) as e:
                problems.append(f"{masks[path]} {e}")
        image, anomaly_map = read_image(path, size), found.anomaly_map.astype(np.float32)
        verdict = f" · {VERDICTS[found.defect]}" if found.defect is not None else ""
        inspected = Inspected(
            image,
            anomaly_map,
            heading=f"score {found.score:.3f}{verdict}{caveat}",
            remark=str(result.source.name),
            mask=mask,
        )
        inspection_picture(inspected, out / result.picture, limits=limits, threshold=threshold)
        small = thumbnail(image, anomaly_map, found.regions, result.size, limits)
        cards.append(
            Card(
                str(result.source.name),
                found.score,
                found.defect,
                len(found.regions),
                small,
                result.picture.as_posix(),
            )
        )
    return cards, problems


def _counts(results: list[Result], given: int, detector: Detector) -> str:
    line = f"{len(results)} of {given} images inspected"
    if detector.calibration is not None:
        defects = sum(bool(result.found.defect) for result in results)
        line += f", {defects} defective (score at least {detector.calibration.image_threshold:.4g})"
    return line


def _print_results(console: Console, results: list[Result], judged: bool) -> None:
    if results:
        console.print(f"score   {'verdict  ' if judged else ''}file")
    for result in results[:SHOWN]:
        verdict = f"{VERDICTS[result.found.defect]:7}  " if judged else ""
        console.print(f"{result.found.score:.4f}  {verdict}{result.source.path}", soft_wrap=True)
    if len(results) > SHOWN:
        console.print(f"({len(results) - SHOWN} more)")


def _write_scores(path: Path, results: list[Result], encoder: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["file", "score", "verdict", "regions", "picture", "encoder"])
        for result in results:
            found = result.found
            # Of a checkpoint, which has no thresholds, both stay empty.
            judged = "" if found.defect is None else len(found.regions)
            writer.writerow(
                [
                    result.source.path,
                    f"{found.score:.6f}",
                    VERDICTS[found.defect],
                    judged,
                    result.picture.as_posix(),
                    encoder,
                ]
            )


def _write_drift(path: Path, result: DriftResult) -> None:
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def _tracked(items: list | range, what: str, console: Console) -> Iterable:
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)
