"""The command line of a study: flags into a StudyConfig, everything wrong with them in one line."""

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ffcad.datasets import DATA_LAYOUTS, HOLDOUTS, PROTOCOLS, list_categories
from study.config import (
    LOG_CHECKPOINTS,
    OBJECTIVES,
    StudyConfig,
    StudyError,
    space_fields,
)
from study.space_files import available_spaces, load_space
from study.spaces import Space
from study.storage import Storage
from study.trials import existing_study

TRACKING_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
DEFAULT_SPACE, DEFAULT_STORAGE = "smoke", "runs"
# The one whose defects are largest, so that the smallest study sees them.
SYNTHETIC_CATEGORY = "wood"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:
        raise StudyError(f"{message}; --help lists the flags")


def make_parser() -> argparse.ArgumentParser:
    """The flags of `study/run.py`; those that were not given stay out of the namespace."""
    parser = Parser(
        prog="study/run.py",
        description="A study of FFC-AD: searches a space of configurations on a data set's "
        "categories, several at once, and logs every fit to MLflow. The same command again goes "
        "on where it stopped.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", choices=DATA_LAYOUTS, help="layout of the images on disk (default: synthetic)")
    add("--data-root", metavar="DIR", help="folder of the images")
    add(
        "--categories",
        metavar="A,B",
        help=f"default: all; of the synthetic data {SYNTHETIC_CATEGORY}",
    )
    add("--textures", metavar="DIR", help="source images of simulated anomalies (default: none)")
    add("--encoder-weights", metavar="W", help="random, torchvision, or a file")
    add("--allow-duplicates", action="store_true", help="an image may be in train and test")
    add(
        "--space",
        metavar="NAME",
        help=f"{', '.join(available_spaces())}, or a .py file (default: {DEFAULT_SPACE})",
    )
    add("--set", metavar="KNOB=VALUE", action="append", help="pins a knob; may be repeated")
    add("--num-trials", type=int, metavar="N", help="of a search: configurations (default: 6)")
    add("--seeds", metavar="0,1", help="each category is fitted once with each (default: 0)")
    add("--select-on", choices=PROTOCOLS, help="what configurations are chosen on")
    add("--holdout", choices=HOLDOUTS, help="what the holdout protocol halves")
    add("--objective", choices=OBJECTIVES, metavar="M", help=", ".join(OBJECTIVES))
    add("--no-early-stopping", action="store_true", help="no trial is stopped early")
    add("--study", metavar="NAME", help="default: named after space, data and a digest")
    add("--resume", metavar="NAME", help="goes on with a study; other flags only as they were")
    add("--extend", action="store_true", help="a study of this name asks the changed question")
    add(
        "--storage",
        metavar="DIR",
        help="of ledger and studies: a folder, s3://bucket/folder or gs://bucket/folder (default: "
        f"{DEFAULT_STORAGE})",
    )
    add("--tracking-uri", metavar="URI", help="of MLflow (default: SQLite on the storage)")
    add("--log-checkpoints", choices=LOG_CHECKPOINTS, help="copied into MLflow (default: last)")
    add("--retries", type=int, metavar="N", help="of a trial whose worker dies (default: 2)")
    add("--cpus-per-trial", type=int, metavar="N", help="cores of a trial (default: 1)")
    add("--gpus-per-trial", type=float, metavar="N", help="may be a fraction (default: 1 if any)")
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: what fits)")
    return parser


def parse(argv: list[str]) -> tuple[StudyConfig, Space, bool]:
    """A study, its search space, and whether `--extend` was given, from the command line.

    Raises:
        StudyError, SpaceError, ConfigError, DataError, LedgerError, StorageError: with the user's
            one line.
    """
    given = vars(make_parser().parse_args(argv))
    storage = Storage(given.pop("storage", DEFAULT_STORAGE))
    extend = given.pop("extend", False)
    fields: dict[str, Any] = {"storage": storage.where}
    space = None
    if "resume" in given:
        name = given.pop("resume")
        if given.get("study", name) != name:
            raise StudyError("--resume and --study name two studies; give one of them")
        old = StudyConfig.from_dict(existing_study(storage, name).read_document()["study"])
        fields = {**old.to_dict(), **fields}
        space = old.search_space()
    if space is None or "space" in given:
        space = load_space(given.get("space", DEFAULT_SPACE))
    given.pop("space", None)
    space = _pinned(space, given)
    if space.is_grid and "num_trials" in given:
        raise StudyError(
            f"--num-trials is for a search, but {space.name!r} is a grid of "
            f"{len(space.distinct_cells())} cells, which are all done"
        )
    fields |= space_fields(space)
    fields |= _fields(given)
    fields["categories"] = _categories(fields)
    if uri := fields.get("tracking_uri"):
        _check_tracking(uri)
    storage.check()
    return StudyConfig(**fields), space, extend


def _pinned(space: Space, given: dict[str, Any]) -> Space:
    """The space with the knobs of `--set` and `--encoder-weights` pinned."""
    values = {}
    if "set" in given:
        # Imported late: with its package come the commands, and with them torch.
        from ffcad.commands.arguments import configuration

        for setting in given.pop("set"):
            name = setting.partition("=")[0]
            values[name] = getattr(configuration([setting]), name)
    if "encoder_weights" in given:
        values["encoder_weights"] = given.pop("encoder_weights")
    # A space's own file of weights is seen from here, too, and workers may be elsewhere.
    weights = values.get("encoder_weights", space.fixed.get("encoder_weights"))
    if weights not in (None, "random", "torchvision"):
        path = Path(weights).expanduser().resolve()
        if not path.is_file():
            raise StudyError(
                f"encoder weights {weights!r} are no file; give random, torchvision or a file"
            )
        values["encoder_weights"] = str(path)
    return space.pinned(values)


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The flags as StudyConfig's fields."""
    fields = dict(given)
    if "study" in fields:
        fields["name"] = fields.pop("study")
        if not fields["name"]:
            raise StudyError("--study is empty; give a name, or leave the flag out")
    if fields.pop("no_early_stopping", False):
        fields["early_stopping"] = False
    if "categories" in fields:
        fields["categories"] = [name for name in fields["categories"].split(",") if name]
    if "seeds" in fields:
        try:
            fields["seeds"] = [int(seed) for seed in fields["seeds"].split(",") if seed]
        except ValueError as e:
            raise StudyError(
                f"--seeds must be numbers like 0,1,2 but got {given['seeds']!r}"
            ) from e
    for name in ("data_root", "textures"):
        if name in fields:
            flag = f"--{name.replace('_', '-')}"
            path = Path(fields[name]).expanduser().resolve()
            if not path.is_dir():
                raise StudyError(f"{flag} {fields[name]!r} is no folder")
            fields[name] = str(path)
    return fields


def _categories(fields: dict[str, Any]) -> list[str]:
    """The categories given, which must exist, or the default ones."""
    data, root = fields.get("data", "synthetic"), fields.get("data_root")
    known = list_categories(data, None if root is None else Path(root))
    if "categories" not in fields:
        return [SYNTHETIC_CATEGORY] if data == "synthetic" else known
    for name in fields["categories"]:
        if name not in known:
            raise StudyError(f"--categories: no category {name!r}; there are {', '.join(known)}")
    return list(fields["categories"])


def _check_tracking(uri: str) -> None:
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in TRACKING_SCHEMES:
        raise StudyError(
            f"--tracking-uri must be a database or a server ({', '.join(TRACKING_SCHEMES)}) but "
            f"got {uri!r}; a SQLite file is sqlite:///folder/mlflow.db"
        )
    if scheme == "sqlite" and ":///" in uri:
        folder = Path(uri.partition(":///")[2]).absolute().parent
        if not folder.is_dir():
            raise StudyError(f"--tracking-uri {uri}: there is no folder {folder}")
