"""`python -m study promote`: a study's best fits become models in a registry, one the champion."""

import argparse
import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from study.config import StudyConfig, StudyError
from study.default_places import default_tracking_uri, local_folder, mlflow_file
from study.mlflow_places import without_login
from study.registry.flags import TERMS, mode_of
from study.storage import Storage

REFUSED_CODE = 3
# Between two lines about a training.
TELL_SECONDS = 10.0


def run(given: argparse.Namespace, storage: Storage, console: Console) -> int:
    """Does what was asked for; returns the exit code.

    Raises:
        StudyError: if that cannot be done, in one line.
        LedgerError: if there is no such study, or its document cannot be read.
        StorageError: if the storage fails.
    """
    flags = {"json": False, "tracking_uri": None, **vars(given)}
    mode = mode_of(flags)
    # After what costs nothing: these imports take seconds.
    from ffcad.calibration import CalibrationError
    from ffcad.checkpoint import CheckpointError
    from ffcad.datasets import DataError
    from ffcad.detector import DetectorError
    from ffcad.encoder_weights import WeightsError
    from ffcad.metrics import MetricError
    from ffcad.training import NonFiniteLoss
    from study.driver_log import silence_console

    # Not from where it is written: MLflow comes with it, and brings the handlers that are silenced.
    from study.registry.mlflow_registry import RegistryError

    silence_console()
    logging.getLogger().addHandler(logging.NullHandler())
    of_one_model = (
        CalibrationError,
        CheckpointError,
        DataError,
        DetectorError,
        MetricError,
        NonFiniteLoss,
        WeightsError,
    )
    try:
        if mode == "study":
            return _promote(flags, storage, console, of_one_model)
        if mode == "copy":
            return _copy(flags, storage, console)
        return _look_after(mode, flags, storage, console)
    except (*of_one_model, RegistryError) as e:
        raise StudyError(" ".join(str(e).split())) from e


def _promote(
    flags: dict[str, Any],
    storage: Storage,
    console: Console,
    of_one_model: tuple[type[Exception], ...],
) -> int:
    """Promotes a model for each category; one that cannot be had does not keep the others back."""
    from study.driver_log import log_of
    from study.registry.candidates import candidates
    from study.registry.from_fit import FromFit
    from study.registry.mlflow_registry import RegistryError
    from study.registry.promotion import Promotion
    from study.results import read_results
    from study.trials import existing_study

    terms = _terms(flags)
    folder = existing_study(storage, flags["study"])
    results = read_results(storage, flags["study"])
    study: StudyConfig = results.config
    wanted = tuple(dict.fromkeys(c for c in flags.get("categories", "").split(",") if c))
    chosen = candidates(results, storage, flags.get("configuration"), wanted)
    for candidate in chosen:  # Before the first one is promoted.
        own_folders(terms, candidate.fit.category, len(chosen))
    teller = _Teller(console, quiet=flags["json"])
    with log_of(folder), ExitStack() as stack:
        uri = flags["tracking_uri"] or study.mlflow_uri
        registry = stack.enter_context(_target(uri, "dry_run" in flags))
        promoted, done, wrong = [], [], []
        for number, candidate in enumerate(chosen, start=1):
            category = candidate.fit.category
            of_category = own_folders(terms, category, len(chosen))
            try:
                source = FromFit(candidate, study, storage, of_category, teller.training)
                teller.begin(candidate, source)
                promotion = Promotion(source, registry, of_category, teller.waiting)
                promoted.append(promotion.run(dry_run="dry_run" in flags))
                teller.done(promoted[-1])
                done.append(category)
            except (*of_one_model, StudyError) as e:
                wrong.append(f"{category}: {' '.join(str(e).split())}")
            except RegistryError as e:  # Which the next one would need too.
                wrong.append(f"{category}: {e}")
                wrong += [f"{later.fit.category}: not begun" for later in chosen[number:]]
                break
    code = _ended(promoted, registry, flags, console)
    if wrong:
        wrong += [f"{category}: done" for category in done if "dry_run" not in flags]
        raise StudyError("; ".join(wrong))
    return code


def _copy(flags: dict[str, Any], storage: Storage, console: Console) -> int:
    from study.registry.from_registry import FromRegistry
    from study.registry.mlflow_registry import SQLITE, Registry
    from study.registry.promotion import Promotion

    here = Registry(_uri(flags, storage))
    to, dry_run = flags["to"], "dry_run" in flags
    if _place(here.uri) == _place(to):
        raise StudyError(f"--to {without_login(to)} is the registry that the model is in")
    folder = local_folder(storage)
    if to.startswith(SQLITE):  # Its files beside it, and not beside the first one's.
        folder = Path(to.removeprefix(SQLITE).partition("?")[0]).parent
    terms, teller = _terms(flags), _Teller(console, quiet=flags["json"])
    source = FromRegistry(here.version_of(flags["copy"]), here, folder, terms)
    with _target(to, dry_run) as there:
        promoted = Promotion(source, there, terms, teller.waiting).run(dry_run=dry_run)
        teller.done(promoted)
        return _ended([promoted], there, flags, console)


@contextmanager
def _target(uri: str, dry_run: bool) -> Iterator[Any]:
    """The registry that is promoted into. A dry run makes none: where there is no SQLite file, it
    looks at an empty registry in its place."""
    from study.registry.mlflow_registry import SQLITE, Registry

    missing = uri.startswith(SQLITE) and not Path(_place(uri).partition("?")[0]).exists()
    if dry_run and missing:
        with TemporaryDirectory(prefix="ffcad-empty-") as folder:
            yield Registry(f"{SQLITE}{folder}/mlflow.db", make=True)
    else:
        yield Registry(uri, make=True)


def _place(uri: str) -> str:
    """What tells registries apart: a file of SQLite has many spellings."""
    return os.path.realpath(uri.partition(":///")[2]) if uri.startswith("sqlite:") else uri


def _look_after(mode: str, flags: dict[str, Any], storage: Storage, console: Console) -> int:
    """Shows versions, or changes what they are."""
    from study.registry import console as shown
    from study.registry.champions import roll_back
    from study.registry.mlflow_registry import Registry
    from study.registry.turns import discard
    from study.registry.versions import CHALLENGER, CHAMPION

    registry = Registry(_uri(flags, storage))
    document: Any
    if mode == "list":
        models = {name: registry.versions(name) for name in registry.names()}
        document = {name: [v.to_dict() for v in versions] for name, versions in models.items()}
        lines = shown.listing(models, registry.shown)
    elif mode == "compare":
        versions = registry.known_versions(flags["compare"])
        pair = [next((v for v in versions if a in v.aliases), None) for a in (CHAMPION, CHALLENGER)]
        document = {a: v and v.to_dict() for a, v in zip((CHAMPION, CHALLENGER), pair, strict=True)}
        lines = shown.comparison(flags["compare"], *pair)
    elif mode == "rollback":
        reason = flags.get("reason", "no reason given")
        former, now = roll_back(registry, flags["rollback"], reason)
        document = {"was": former.to_dict(), "champion": now.to_dict()}
        lines = [f"{now.name}: version {now.number} is champion again, after {former.number}"]
    else:
        name, _, number = flags["discard"].rpartition("/")
        if not name or not number.isdigit():
            raise StudyError(f"--discard takes MODEL/VERSION but got {flags['discard']!r}")
        version = discard(registry, name, int(number))
        document = version.to_dict()
        lines = [f"{name}: version {number} is {version.gate} now"]
    _say(console, document if flags["json"] else lines, flags["json"])
    return 0


def _ended(promoted: list[Any], registry: Any, flags: dict[str, Any], console: Console) -> int:
    from study.registry.versions import REFUSED

    refused = [one for one in promoted if one.verdict == REFUSED and not one.champion]
    if flags["json"]:
        document = {"registry": registry.shown, "promoted": [one.to_dict() for one in promoted]}
        _say(console, document, True)
    return REFUSED_CODE if refused else 0


def _say(console: Console, what: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(what, indent=1))
        return
    for part in what:
        console.print(part, highlight=False, markup=False)


def _terms(flags: dict[str, Any]) -> Any:
    from study.registry.terms import Terms

    return Terms(**{name: flags[name] for name in TERMS if name in flags})


def own_folders(terms: Any, category: str, categories: int) -> Any:
    """The terms of one category: with its own folders of images, where there are several.

    Raises:
        StudyError: if a folder is not there, or one was given for several categories.
    """
    folders = {}
    for flag, name in (("--gate-data", "gate_data"), ("--normal-images", "normal_images")):
        given = getattr(terms, name)
        if given is not None and not given.is_dir():
            raise StudyError(f"{flag} {given}: no such folder")
        if given is not None and not (given / "good").is_dir() and (given / category).is_dir():
            folders[name] = given / category
        elif given is not None and categories > 1:
            raise StudyError(
                f"{flag} {given} has no folder {category}: for several categories it must have "
                "one for each; or give --categories with one of them"
            )
    return dataclasses.replace(terms, **folders)


def _uri(flags: dict[str, Any], storage: Storage) -> str:
    return flags["tracking_uri"] or default_tracking_uri() or mlflow_file(local_folder(storage))


class _Teller:
    """Says on the console what a promotion does, unless a program reads it."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._told = time.monotonic()

    def begin(self, candidate: Any, source: Any) -> None:
        from study.registry.console import of_candidate

        self._print(of_candidate(candidate, source))

    def waiting(self, line: str) -> None:
        self._print([f"  {line}"])

    def training(self, progress: Any, iterations: int) -> None:
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._print([f"  trained again: {progress.iteration:,} of {iterations:,} iterations"])

    def done(self, promoted: Any) -> None:
        from study.registry.console import of_promoted

        self._print(of_promoted(promoted))

    def _print(self, lines: list[Any]) -> None:
        if not self.quiet:
            _say(self.console, lines, False)
