"""What the commands' arguments have in common: `--set knob=value`, and the words for mistakes."""

import argparse
import os
import textwrap
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar

from ffcad.config import ConfigError, TrainConfig, check_knob, knobs
from ffcad.pretrain_config import PretrainConfig

Config = TypeVar("Config", TrainConfig, PretrainConfig)

RANDOM_ENCODER = "the frozen encoder has random weights: the results say little about the method"

_BOOLS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLS |= {"false": False, "no": False, "off": False, "0": False}


class UsageError(ValueError):
    """Arguments that cannot be used as they are."""


def add_settings(parser: argparse.ArgumentParser, kind: type = TrainConfig) -> None:
    """Adds `--set`, and the list of the class's knobs to the help."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KNOB=VALUE",
        help="gives a knob another value; may be repeated; the knobs are listed below",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "knobs and their defaults:\n" + "\n".join(
        line for knob in knobs(kind).values() for line in _help_lines(knob)
    )


def configuration(settings: list[str], kind: type[Config] = TrainConfig) -> Config:
    """The configuration that `--set knob=value ...` asks for; of a repeated knob, the last value.

    Raises:
        ConfigError: if a knob does not exist, or a value does not fit it.
    """
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(
                f"--set takes knob=value, for example batch_size=4, but got {setting!r}"
            )
        check_knob(name, kind)
        values[name] = _typed(knobs(kind)[name], text)
    return kind.from_dict(values)


def whole_number(text: str) -> int:
    """An argument's type: 0, 1, 2, ..."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, but got {text!r}")
    return int(text)


def positive_number(text: str) -> int:
    """An argument's type: 1, 2, ..."""
    number = whole_number(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1 but got 0")
    return number


def output_folder(path: Path) -> Path:
    """Makes the folder.

    Raises:
        UsageError: if nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--out {path} cannot be made ({e.strerror}); give another folder") from e
    if not os.access(path, os.W_OK):
        raise UsageError(f"--out {path} cannot be written to; give another folder")
    return path


def _typed(knob: Field, text: str) -> Any:
    kind = knob.metadata["kind"]
    if knob.metadata["optional"] and text.lower() == "none":
        return None
    if kind is bool and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if kind is not bool:
        try:
            return kind(text)
        except ValueError:
            pass
    allowed = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    none = " or none" if knob.metadata["optional"] else ""
    raise ConfigError(f"{knob.name} must be {allowed}{none} but got {text!r}")


def _help_lines(knob: Field) -> list[str]:
    meta = knob.metadata
    limits = []
    if meta["choices"]:
        limits.append("one of " + ", ".join(map(str, meta["choices"])))
    if meta["low"] is not None:
        limits.append(f"{'more than' if meta['open_low'] else 'at least'} {meta['low']:g}")
    if meta["high"] is not None:
        limits.append(f"{'less than' if meta['open_high'] else 'at most'} {meta['high']:g}")
    text = meta["help"] + (f" ({', '.join(limits)})" if limits else "")
    word = knob.default is None or isinstance(knob.default, bool)
    return [
        f"  {knob.name}={str(knob.default).lower() if word else knob.default}",
        *textwrap.wrap(text, 78, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]
