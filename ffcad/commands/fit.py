"""`python -m ffcad fit`: one training on one category, without a cluster."""

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from ffcad.commands.arguments import (
    RANDOM_ENCODER,
    UsageError,
    add_settings,
    configuration,
    output_folder,
    whole_number,
)
from ffcad.commands.progress import shown
from ffcad.commands.results import results_document, results_table, write_json
from ffcad.commands.stopping import announced, run_to_end
from ffcad.config import TrainConfig
from ffcad.datasets import (
    DATA_LAYOUTS,
    HOLDOUTS,
    PROTOCOLS,
    CategoryData,
    Textures,
    list_categories,
    load_category,
    load_textures,
)
from ffcad.encoder_weights import RandomEncoderWarning
from ffcad.metrics import pixel_f1_max
from ffcad.pictures import case_sheet
from ffcad.predictor import pick_device, predict
from ffcad.training import HEAD, Progress, train

DESCRIPTION = """Trains the detector on one category and evaluates it. The same command
goes on from the checkpoint in the output folder, which also gets metrics.json,
config.json and pictures of the best and the worst cases of the report split.
Ctrl-C or SIGTERM lets the iteration end and writes the checkpoint; a second one
ends at once.

Without --data, the images are synthetic: nothing is downloaded. A small run:
  python -m ffcad fit --category wood --set image_size=64 \\
    --set head_channels=32 --set batch_size=4 --set sgd_learning_rate=0.01 \\
    --set autoencoder_iterations=200 --set head_iterations=200"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser("fit", help="train on one category", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", choices=DATA_LAYOUTS, default="synthetic", help="layout (default: synthetic)")
    add("--data-root", type=Path, metavar="DIR", help="folder of the images")
    add("--category", help="one of the data's categories; may be left out where there is but one")
    add("--seed", type=whole_number, default=0, help="of weights and batches (default: 0)")
    add("--textures", type=Path, metavar="DIR", help="images that simulated anomalies are made of")
    add(
        "--select-on",
        choices=PROTOCOLS,
        default="holdout",
        help="what choices are made on: half of the test images (holdout, the default), simulated "
        "anomalies (synthetic), or the test images that are reported on (paper)",
    )
    add(
        "--holdout",
        choices=HOLDOUTS,
        default="halves",
        help="half of each defect type (the default), or whole types",
    )
    add(
        "--allow-duplicates",
        action="store_true",
        help="accept images that are in train and in test",
    )
    add("--out", type=Path, metavar="DIR", help="output folder (default: a name under runs/fit)")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains, or goes on training; writes files and prints a table."""
    console = Console(markup=False, highlight=False)
    config = configuration(args.settings)
    _check_device(config)
    data, textures = _load(args, config)
    out = output_folder(args.out or default_folder(config, data, textures, args.seed))
    checkpoint = out / "checkpoint.pt"
    for note in data.notes:
        _say(f"note: {note}")
    if config.encoder_weights == "random":
        _say(f"warning: {RANDOM_ENCODER}; give some with --set encoder_weights=FILE")
    final = _train(config, data, textures, args.seed, checkpoint, console)
    document = results_document(config, data, textures, args.seed, args.holdout, final)
    write_json(out / "metrics.json", document)
    _draw(out, data, final)
    console.print(results_table(document))
    console.print(
        f"In {out}: metrics.json, config.json, checkpoint.pt, worst.png, best.png\n"
        f"Inspect images: python -m ffcad predict {checkpoint} IMAGES --out FOLDER",
        soft_wrap=True,
    )
    return 0


def _check_device(config: TrainConfig) -> None:
    try:
        pick_device(config.device)
    except ValueError as e:
        raise UsageError(str(e)) from e


def _load(args: argparse.Namespace, config: TrainConfig) -> tuple[CategoryData, Textures | None]:
    category = args.category
    if category is None:
        category, *others = list_categories(args.data, args.data_root)
        if others:
            raise UsageError(f"--category is needed: one of {', '.join([category, *others])}")
    data = load_category(
        args.data,
        args.data_root,
        category,
        config.image_size,
        select_on=args.select_on,
        holdout=args.holdout,
        allow_duplicates=args.allow_duplicates,
    )
    textures = None
    if args.textures is not None:
        textures = load_textures(args.textures, config.image_size)
    return data, textures


def default_folder(
    config: TrainConfig, data: CategoryData, textures: Textures | None, seed: int
) -> Path:
    """A name of its own for every training, so that the same command finds its checkpoint.

    A weights file that has changed shows when the checkpoint is read.
    """
    parts = [config.digest(), data.digest, textures and textures.digest]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    return Path("runs", "fit", f"{data.data}-{data.category}-s{seed}-{digest}")


def _train(
    config: TrainConfig,
    data: CategoryData,
    textures: Textures | None,
    seed: int,
    checkpoint: Path,
    console: Console,
) -> Progress:
    """Trains to the end and returns the final progress.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM; it says how to go on.
    """
    training = train(config, data, seed, textures=textures, checkpoint=checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomEncoderWarning)  # the command has said it
        told = announced(_kept(training, checkpoint.parent), checkpoint, console)
        return run_to_end(training, shown(told, config, console), checkpoint)


def _kept(training: Iterable[Progress], folder: Path) -> Iterator[Progress]:
    """Passes the progress on; at the first, when the folder is known to be this training's, writes
    its configuration there."""
    for number, progress in enumerate(training):
        if number == 0:
            write_json(folder / "config.json", progress.model.config.to_dict())
        yield progress


def _draw(out: Path, data: CategoryData, final: Progress) -> None:
    """Sheets of the report split; what would be marked at the threshold chosen on select."""
    use_head = final.stage == HEAD
    scores, maps = predict(final.model, data.report.images, use_head=use_head)
    threshold = None
    if data.select.masks is not None:
        select_maps = maps  # the same images under "paper"
        if data.select is not data.report:
            _, select_maps = predict(final.model, data.select.images, use_head=use_head)
        threshold = pixel_f1_max(select_maps, data.select.masks)[3]
    random = final.model.config.encoder_weights == "random"
    remark = " (random encoder weights)" if random else ""
    for name, worst in (("worst", True), ("best", False)):
        title = f"{data.data}/{data.category}: the {name} cases of the report split{remark}"
        path = out / f"{name}.png"
        case_sheet(data.report, scores, maps, path, title=title, threshold=threshold, worst=worst)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
