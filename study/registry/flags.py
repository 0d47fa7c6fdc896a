"""The flags of `python -m study promote`, and which belong together."""

import argparse
from pathlib import Path
from typing import Any

from study.config import StudyError
from study.default_places import STORAGE_DEFAULT, default_storage

# What the command does, by the flag that says so; without one it promotes a study.
MODES = ("list", "rollback", "compare", "discard", "copy")
TERMS = {
    "false_alarm_rate",
    "factor",
    "normal_images",
    "gate_data",
    "margin",
    "most_latency_ms",
    "most_size_mb",
    "force",
}
ALWAYS = {"command", "json", "tracking_uri", "storage"}
# The other flags that each may be given with.
ALLOWED = {
    "study": TERMS | {"configuration", "categories", "dry_run"},
    "copy": TERMS - {"false_alarm_rate", "factor", "normal_images"} | {"to", "dry_run"},
    "rollback": {"reason"},
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the command; flags that were not given stay out of the namespace."""
    promote = commands.add_parser(
        "promote",
        help="puts a study's best fits into a model registry, if they hold against the champion",
        description="Puts the best configuration of a study into MLflow's model registry, a model "
        "for each category. The first version becomes champion; a later one only if it is no worse "
        "than the champion by more than a margin. What was chosen under 'paper', on the images "
        "that are reported on, needs --force, the first version too. Exit code 3 if it was "
        "refused.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = promote.add_argument
    add("study", nargs="?", help="its name")
    add("--configuration", metavar="NAME", help="as in its report, or 'trial N' (default: best)")
    add("--categories", metavar="A,B", help="default: all of the study")
    add(
        "--false-alarm-rate",
        type=float,
        metavar="R",
        help="expected of new normal images; the thresholds are set on held-out ones (default: "
        "those of the best F1)",
    )
    add(
        "--iterations-factor",
        type=float,
        dest="factor",
        metavar="F",
        help="trains again, F times as long",
    )
    add(
        "--normal-images",
        type=Path,
        metavar="DIR",
        help="trains again with these too; a fifth of them is kept out for the thresholds",
    )
    add(
        "--gate-data",
        type=Path,
        metavar="DIR",
        help="images that decide, good/ and a folder for each defect type (default: the report "
        "split)",
    )
    add(
        "--margin",
        type=float,
        metavar="M",
        help="how much worse than the champion is allowed (default: 0.02)",
    )
    add("--most-latency-ms", type=float, metavar="MS", help="of one image, on this machine")
    add("--most-size-mb", type=float, metavar="MB", help="of the model's files")
    add("--force", metavar="REASON", help="makes it champion whatever the gate says")
    add("--dry-run", action="store_true", help="says what would come of it, registers nothing")
    mode = promote.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="shows all models and versions")
    mode.add_argument("--compare", metavar="MODEL", help="shows champion beside challenger")
    mode.add_argument("--rollback", metavar="MODEL", help="to the champion before")
    mode.add_argument(
        "--discard", metavar="MODEL/VERSION", help="a pending version that nobody works at"
    )
    mode.add_argument(
        "--copy",
        metavar="MODEL_URI",
        help="of models:/NAME@champion or models:/NAME/VERSION into another registry",
    )
    add("--reason", metavar="TEXT", help="for --rollback, kept with the version")
    add("--to", metavar="URI", help="for --copy: the other registry")
    add("--json", action="store_true", help="for programs")
    add("--tracking-uri", metavar="URI", help="of MLflow (default: the study's own)")
    add("--storage", default=default_storage(), help=f"folder or URI ({STORAGE_DEFAULT})")


def mode_of(flags: dict[str, Any]) -> str:
    """What is asked for: 'study' or one of `MODES`.

    Args:
        flags: those that were given.

    Raises:
        StudyError: if it is nothing or several things, or a flag is for something else.
    """
    found = [mode for mode in ("study", *MODES) if mode in flags]
    if len(found) != 1:
        raise StudyError(
            "promote takes a study, or one of --list, --compare, --rollback, --discard, --copy"
        )
    (mode,) = found
    for flag in flags:
        if flag not in ALWAYS | ALLOWED.get(mode, set()) | {mode}:
            name = "iterations_factor" if flag == "factor" else flag
            of = "promoting a study" if mode == "study" else f"--{mode}"
            raise StudyError(f"--{name.replace('_', '-')} is not for {of}; leave it out")
    if mode == "copy" and "to" not in flags:
        raise StudyError("--copy needs --to URI, the registry that the model goes to")
    return mode
