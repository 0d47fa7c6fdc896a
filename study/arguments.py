"""The command line of a study: flags into a StudyConfig, everything wrong with them in one line."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ffcad.datasets import DATA_LAYOUTS, HOLDOUTS, PROTOCOLS, list_categories
from ffcad.pretrain_config import METHODS
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
from study.trials import StudyFolder, existing_study

TRACKING_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
DEFAULT_SPACE, DEFAULT_STORAGE = "smoke", "runs"
# Of a cell with nuisance knobs; as many as configurations of a search.
DEFAULT_DRAWS = 6
# The one whose defects are largest, so that the smallest study sees them.
SYNTHETIC_CATEGORY = "wood"
# Where neither flag nor space says it: made from ImageNet's ResNet-18, or, for the synthetic
# images, which need no download, none.
DEFAULT_ENCODER = "distilled"


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
    add(
        "--encoder",
        metavar="E",
        help=f"the frozen encoder: {', '.join(METHODS)} (made first, once), random, torchvision, "
        f"or a file of weights (default: {DEFAULT_ENCODER}; of the synthetic data random)",
    )
    add("--teacher", metavar="FILE", help="ResNet-18 that encoders are made from; or torchvision")
    add("--corpus", metavar="DIR,DIR", help="images for it (default: the normal training images)")
    add("--pretrain", metavar="KNOB=VALUE", action="append", help="of its recipe; may be repeated")
    add("--allow-duplicates", action="store_true", help="an image may be in train and test")
    add(
        "--space",
        metavar="NAME",
        help=f"{', '.join(available_spaces())}, or a .py file (default: {DEFAULT_SPACE})",
    )
    add("--set", metavar="KNOB=VALUE", action="append", help="pins a knob; may be repeated")
    add(
        "--num-trials",
        type=int,
        metavar="N",
        help="configurations of a search, or of each cell that is tuned (default: 6)",
    )
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
        given.setdefault("encoder", _default_encoder(space, {**fields, **given}))
    given.pop("space", None)
    space = _pinned(space, given)
    _check_makes(space, given)
    space = _tuned(space, given, "draws" in fields)
    fields |= space_fields(space)
    fields |= _fields(given)
    fields["categories"] = _categories(fields)
    if uri := fields.get("tracking_uri"):
        _check_tracking(uri)
    storage.check()
    config = StudyConfig(**fields)
    if space.nuisance:
        config, space = _with_all_draws(config, space, StudyFolder(storage, config.name))
    return config, space, extend


def _tuned(space: Space, given: dict[str, Any], resumed: bool) -> Space:
    """A grid with the draws of `--num-trials`, which is taken out, if it has nuisance knobs."""
    if not space.is_grid:
        return space
    if space.nuisance:
        draws = space.draws if resumed else DEFAULT_DRAWS
        draws = given.pop("num_trials", draws)
        if draws < 1:
            raise StudyError(f"--num-trials must be 1 or more but got {draws}")
        return dataclasses.replace(space, draws=draws)
    if "num_trials" in given:
        raise StudyError(
            f"--num-trials is for a search or for NUISANCE, but {space.name!r} is a grid of "
            f"{len(space.distinct_cells())} cells, which are all done"
        )
    return space


def _with_all_draws(
    config: StudyConfig, space: Space, folder: StudyFolder
) -> tuple[StudyConfig, Space]:
    """A grid with at least the draws that it has had: what was drawn stays drawn."""
    former = folder.read_document()["study"].get("draws", 1) if folder.exists() else 1
    draws = max(config.draws, former)
    return dataclasses.replace(config, draws=draws), dataclasses.replace(space, draws=draws)


def _pinned(space: Space, given: dict[str, Any]) -> Space:
    """The space with the knobs of `--set` and `--encoder` pinned."""
    values = {}
    if "set" in given:
        # Imported late: with its package come the commands, and with them torch.
        from ffcad.commands.arguments import configuration

        for setting in given.pop("set"):
            name = setting.partition("=")[0]
            if name == "encoder_weights":
                raise StudyError("--set encoder_weights: in a study that is --encoder")
            values[name] = getattr(configuration([setting]), name)
    if encoder := given.pop("encoder", None):
        values["encoder_weights"] = encoder
    # A space's own file of weights is seen from here, too, and workers may be elsewhere.
    weights = values.get("encoder_weights", space.fixed.get("encoder_weights"))
    if weights not in (None, "random", "torchvision", *METHODS):
        path = Path(weights).expanduser().resolve()
        if not path.is_file():
            raise StudyError(
                f"--encoder {weights!r} is no file; give {', '.join(METHODS)}, random, torchvision "
                "or a file of weights"
            )
        values["encoder_weights"] = str(path)
    return space.pinned(values)


def _default_encoder(space: Space, fields: dict[str, Any]) -> str | None:
    """What `--encoder` is where it was not given; None leaves it to the space."""
    parts = (space.search, space.fixed, space.nuisance)
    says = any("encoder_weights" in knobs for knobs in parts)
    says = says or any("encoder_weights" in knobs for knobs in space.cells.values())
    synthetic = fields.get("data", "synthetic") == "synthetic"
    return None if says or synthetic else DEFAULT_ENCODER


def _check_makes(space: Space, given: dict[str, Any]) -> None:
    """Refuses what is for encoders that are made where none is."""
    encoders = space.values_of("encoder_weights")
    for flag in ("teacher", "corpus", "pretrain"):
        if flag in given and not set(encoders) & set(METHODS):
            raise StudyError(
                f"--{flag} is for an encoder that is made, but it is {encoders[0]!r} here; give "
                f"--encoder {DEFAULT_ENCODER}"
            )


def _making(given: dict[str, Any]) -> dict[str, Any]:
    """The flags of encoders that are made, taken out, as StudyConfig's fields."""
    fields: dict[str, Any] = {}
    if "pretrain" in given:
        # Imported late: with its package come the commands, and with them torch.
        from ffcad.commands.arguments import configuration
        from ffcad.pretrain_config import PretrainConfig

        fields["recipe"] = {}
        for setting in given.pop("pretrain"):
            name, equals, _ = setting.partition("=")
            if not equals or name == "method":
                instead = "--encoder says the method" if equals else "for example iterations=500"
                raise StudyError(f"--pretrain takes knob=value, but got {setting!r}; {instead}")
            fields["recipe"][name] = getattr(configuration([setting], PretrainConfig), name)
    if "teacher" in given:
        fields["teacher"] = given.pop("teacher")
        path = Path(fields["teacher"]).expanduser().resolve()
        if fields["teacher"] != "torchvision":
            if not path.is_file():
                raise StudyError(
                    f"--teacher {fields['teacher']!r} is no file; give a ResNet-18's weights, or "
                    "torchvision"
                )
            fields["teacher"] = str(path)
    if "corpus" in given:
        folders = [name for name in given.pop("corpus").split(",") if name]
        paths = [Path(name).expanduser().resolve() for name in folders]
        if wrong := [name for name, path in zip(folders, paths, strict=True) if not path.is_dir()]:
            raise StudyError(f"--corpus {wrong[0]!r} is no folder")
        if not paths:
            raise StudyError("--corpus is empty; give folders of images, or leave the flag out")
        fields["corpus"] = [str(path) for path in paths]
    return fields


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The flags as StudyConfig's fields."""
    fields = _making(given) | given
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
