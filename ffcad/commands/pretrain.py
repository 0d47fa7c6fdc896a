"""`python -m ffcad pretrain`: weights for the frozen encoder of one architecture."""

import argparse
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from ffcad.checkpoint import previous_checkpoint
from ffcad.commands.arguments import (
    UsageError,
    add_settings,
    configuration,
    output_folder,
    positive_number,
)
from ffcad.commands.progress import duration, shown_making
from ffcad.commands.stopping import announced, run_to_end
from ffcad.config import ConfigError, TrainConfig
from ffcad.corpus import read_corpus
from ffcad.encoder_weights import load_teacher, read_card, save_encoder
from ffcad.predictor import pick_device
from ffcad.pretrain import PretrainProgress, pretrain
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig, encoder_key

DESCRIPTION = """Makes the weights of the frozen encoder of one architecture, as a file for
`--set encoder_weights=FILE`. The same command goes on where it was stopped.

method=distilled (the default) trains the encoder to give the features of an
ImageNet ResNet-18, on any images without labels: photographs, textures, your
own normal parts. method=warm_start only places that network's kernels.
method=supervised learns classes from <folder>/<class>/<image>.

Class labels are for a GPU and millions of images, for example with
  --set method=supervised --set image_size=224 --set batch_size=256
  --set iterations=450000 --set evaluate_every=5000 --set crop_min=0.08
  --set precision=bfloat16 --set loader_workers=16

  python -m ffcad pretrain --corpus photos --ratio 0.5 --out encoder.safetensors
  python -m ffcad fit --data folder --data-root parts \\
    --set encoder_weights=encoder.safetensors"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "pretrain", help="make weights for the frozen encoder", description=DESCRIPTION
    )
    add = parser.add_argument
    default = TrainConfig()
    add("--corpus", type=Path, nargs="+", required=True, metavar="DIR", help="folders of images")
    add(
        "--teacher",
        metavar="W",
        help="torchvision (the default: downloads ImageNet's ResNet-18 once), or a file of "
        "ResNet-18's weights",
    )
    add(
        "--ratio",
        type=float,
        default=default.global_ratio,
        help=f"share of the global branch (default: {default.global_ratio})",
    )
    add(
        "--layers",
        type=positive_number,
        default=default.ffc_layers,
        help=f"convolutions in a block, 1 to 3 (default: {default.ffc_layers})",
    )
    add("--local-fourier-unit", action="store_true", help="with the second Fourier unit")
    add("--out", type=Path, metavar="FILE", help="default: a name under runs/encoders")
    add_settings(parser, PretrainConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes the encoder; writes its file and prints a table."""
    console = Console(markup=False, highlight=False)
    recipe = configuration(args.settings, PretrainConfig)
    architecture = _architecture(args)
    try:
        pick_device(recipe.device)
    except ValueError as e:
        raise UsageError(str(e)) from e
    supervised = recipe.method == "supervised"
    if supervised and args.teacher is not None:
        raise UsageError("--teacher is not for method=supervised, which learns from class labels")
    with console.status("reading the images"):
        corpus = read_corpus(args.corpus, labelled=supervised)
    teacher = None if supervised else load_teacher(args.teacher or "torchvision")
    for note in corpus.notes:
        print(f"note: {note}", file=sys.stderr)
    key = encoder_key(recipe, architecture, teacher and teacher.digest, corpus.digest)
    out = args.out or Path("runs", "encoders", f"{key}.safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors but got {out}")
    if out.is_file():
        return _there_already(out, key)
    output_folder(out.parent)
    checkpoint = out.with_suffix(".checkpoint.pt")
    console.print(f"{architecture}, {recipe.method}, {len(corpus)} images", soft_wrap=True)
    try:
        with FileLock(out.with_suffix(".lock"), timeout=0):
            making = pretrain(recipe, architecture, corpus, teacher, checkpoint=checkpoint)
            told = announced(making, checkpoint, console)
            final = run_to_end(making, shown_making(told, console), checkpoint)
            save_encoder(out, final.encoder, final.card)
            # The file holds all that is left of it.
            for path in (checkpoint, previous_checkpoint(checkpoint)):
                path.unlink(missing_ok=True)
    except Timeout as e:
        raise UsageError(f"{out} is being made by another process; wait for it, or end it") from e
    for note in final.card["notes"][len(corpus.notes) :]:
        print(f"note: {note}", file=sys.stderr)
    console.print(_table(final))
    console.print(
        f"{out}, {final.iteration} iterations in {duration(final.seconds)}\n"
        f"Use it: --set encoder_weights={out} {_settings(architecture)}",
        soft_wrap=True,
    )
    return 0


def _there_already(out: Path, key: str) -> int:
    """Says that a file is what was asked for; the exit code.

    Raises:
        UsageError: if it is something else.
    """
    if read_card(out).get("key") != key:
        raise UsageError(f"--out {out} is there and is another encoder; give another file")
    print(f"{out} is there already; remove it to make it anew")
    return 0


def _architecture(args: argparse.Namespace) -> EncoderArchitecture:
    # The bounds are those of a training.
    try:
        config = TrainConfig(
            global_ratio=args.ratio,
            ffc_layers=args.layers,
            local_fourier_unit=args.local_fourier_unit,
        )
    except ConfigError as e:
        words = f"--ratio {args.ratio}, --layers {args.layers}"
        raise UsageError(f"{words}: no encoder can be so: {e}") from e
    return EncoderArchitecture.of(config)


def _settings(architecture: EncoderArchitecture) -> str:
    settings = f"--set global_ratio={architecture.ratio!r} --set ffc_layers={architecture.layers}"
    return settings + (" --set local_fourier_unit=true" if architecture.lfu else "")


def _table(final: PretrainProgress) -> Table:
    figures = final.figures
    if "top1" in figures:
        table = Table("held-out images", "top-1", "top-5", "loss")
        values = (f"{figures[name]:.3f}" for name in ("top1", "top5", "loss"))
        table.add_row(str(final.card["images"]["held_out"]), *values)
        return table
    table = Table("agreement with the teacher", "cosine", "CKA", "explained", "dead")
    for level in (1, 2, 3):
        for part, words in (("", ""), ("local_", ", local"), ("global_", ", global")):
            name = f"level{level}_{part}"
            if f"{name}cosine" in figures:
                values = [figures[name + f] for f in ("cosine", "cka", "explained")]
                dead = f"{figures[name + 'dead']:.0%}"
                table.add_row(f"level {level}{words}", *(f"{v:.3f}" for v in values), dead)
    return table
