"""The command line of a study: flags into a StudyConfig, everything wrong with them in one line."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ffcad.datasets import list_categories
from ffcad.pretrain_config import METHODS
from study.config import (
    StudyConfig,
    StudyError,
    space_fields,
)
from study.default_places import (
    TRACKING_VARIABLE,
    absolute_tracking_uri,
    default_storage,
    default_tracking_uri,
)
from study.flags import (
    DEFAULT_DRAWS,
    DEFAULT_ENCODER,
    DEFAULT_SPACE,
    SYNTHETIC_CATEGORY,
    make_parser,
)
from study.space_files import load_space
from study.spaces import Space
from study.storage import Storage
from study.trials import StudyFolder, existing_study

TRACKING_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


@dataclass(frozen=True)
class Sought:
    """What is to be done with a study now; no part of it.

    Attributes:
        extend: whether a study of that name with another question is extended to this one.
        dry_run: whether only its costs are said.
        price: of a GPU-hour, in whatever currency.
    """

    extend: bool = False
    dry_run: bool = False
    price: float | None = None


def parse(argv: list[str]) -> tuple[StudyConfig, Space, Sought]:
    """A study, its search space, and what is to be done with it, from the command line.

    Raises:
        StudyError, SpaceError, ConfigError, DataError, LedgerError, StorageError: with the user's
            one line.
    """
    given = vars(make_parser().parse_args(argv))
    storage = Storage(given.pop("storage", default_storage()))
    sought = _sought(given)
    fields: dict[str, Any] = {"tracking_uri": default_tracking_uri(), "storage": storage.where}
    space = None
    if "resume" in given:
        name = given.pop("resume")
        if given.get("study", name) != name:
            raise StudyError("--resume and --study name two studies; give one of them")
        old = StudyConfig.from_dict(existing_study(storage, name).read_document()["study"])
        fields = {**old.to_dict(), "storage": storage.where}
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
    storage.check()
    config = StudyConfig(**fields)
    folder = StudyFolder(storage, config.name)
    if folder.exists():
        before = folder.read_document()["study"]
        if "tracking_uri" not in given:
            # Whatever the environment says by now: else its runs would be in two places.
            config = dataclasses.replace(config, tracking_uri=before.get("tracking_uri"))
        if space.nuisance:
            config, space = _with_all_draws(config, space, before.get("draws", 1))
    if uri := config.tracking_uri:
        config = dataclasses.replace(config, tracking_uri=_checked_tracking(uri))
    return config, space, sought


def _sought(given: dict[str, Any]) -> Sought:
    """The flags that are no part of a study, taken out."""
    price = given.pop("price_per_gpu_hour", None)
    sought = Sought(given.pop("extend", False), given.pop("dry_run", False), price)
    if price is not None and not sought.dry_run:
        raise StudyError("--price-per-gpu-hour is for --dry-run; give both")
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise StudyError(f"--price-per-gpu-hour must be 0 or more but got {price}")
    return sought


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


def _with_all_draws(config: StudyConfig, space: Space, former: int) -> tuple[StudyConfig, Space]:
    """A grid with at least the draws that it has had: what was drawn stays drawn."""
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


def _checked_tracking(uri: str) -> str:
    """MLflow's address, which must be one, as it is from every folder."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in TRACKING_SCHEMES:
        raise StudyError(
            f"--tracking-uri must be a database or a server ({', '.join(TRACKING_SCHEMES)}) but "
            f"got {uri!r}; a SQLite file is sqlite:///folder/mlflow.db. Without the flag it is "
            f"{TRACKING_VARIABLE} of the environment"
        )
    if scheme == "sqlite" and ":///" in uri:
        folder = Path(uri.partition(":///")[2]).absolute().parent
        if not folder.is_dir():
            raise StudyError(f"--tracking-uri {uri}: there is no folder {folder}")
    return absolute_tracking_uri(uri)
