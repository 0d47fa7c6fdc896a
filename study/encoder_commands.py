"""`python -m study encoders list|make|add|check|remove`: the frozen encoders on a storage."""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from study.config import StudyConfig, StudyError
from study.default_places import STORAGE_DEFAULT, default_storage
from study.encoders import LEVELS, EncoderError, EncoderNeed, EncoderRecord, EncoderStore
from study.flags import make_parser
from study.ledger import FAILED, FINISHED, Ledger
from study.storage import Storage
from study.trials import existing_study

OK, USAGE, BROKEN = 0, 2, 3
MISSING = "missing"
DESCRIPTION = """The frozen encoders that studies have made on a storage, shared by all of them.

list [STUDY]   those of a study, missing ones too, or all
make STUDY     makes a study's missing ones, and those that failed, without its fits; instead of a
               study's name, the flags of `run` begin one
add FILE       takes one that `python -m ffcad pretrain` made, on another machine perhaps
check [STUDY]  whether the files are what their cards say
remove KEY     removes one; a fit that needs it has it made again"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command; `make` has the flags of `run`."""
    parser = commands.add_parser(
        "encoders",
        help="lists, makes, adds, checks and removes the frozen encoders that studies share",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", nargs="?", default="list", choices=("list", "make", "add", "check", "remove"))
    add("of", nargs="?", metavar="STUDY|KEY|FILE", help="as above")
    add("--json", action="store_true", help="of `list`: all cards, for programs")
    add("--storage", default=default_storage(), help=f"folder or URI ({STORAGE_DEFAULT})")


def make(flags: list[str]) -> int:
    """Makes the encoders of a study, by its name or by the flags of `run`; the exit code."""
    from study.run import main

    parser = make_parser()
    parser.add_argument("of", nargs="?", default=None)
    try:
        name = parser.parse_args(flags).of
        if not flags:
            raise StudyError("encoders make needs a study's name, or the flags of `run`")
    except StudyError as e:
        print(f"error: {e}", file=sys.stderr)
        return USAGE
    if name is not None:
        flags.remove(name)
        flags = ["--resume", name, *flags]
    return main(flags, encoders_only=True)


def run(given: argparse.Namespace, storage: Storage, console: Console) -> int:
    """Runs one of the others.

    Args:
        given: the arguments.
        storage: of the studies.
        console: where to.

    Returns:
        The exit code: 0, or 3 if a file is broken.

    Raises:
        EncoderError: if an encoder cannot be removed or added.
        LedgerError: if there is no such study.
    """
    store = EncoderStore(storage)
    if given.action == "remove":
        return _remove(store, given.of, console)
    if given.action == "add":
        return _add(store, given.of, console)
    needs = None if given.of is None else _needs_of(storage, given.of)
    keys = store.keys() if needs is None else list(needs)
    records, wrong = store.read_all(keys)
    if given.action == "check":
        return _check(store, records, wrong, console)
    if given.json:
        document = {
            "encoders": [dataclasses.asdict(record) for record in records],
            MISSING: sorted(set(needs or ()) - {record.key for record in records}),
            "unreadable": wrong,
        }
        console.file.write(json.dumps(document, indent=1) + "\n")
        return OK
    if not keys:
        line = f"no encoder in {storage.where}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        return OK
    console.print(_table(records, needs or {}))
    for line in _remarks(records, wrong):
        console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    return OK


def _needs_of(storage: Storage, name: str) -> dict[str, EncoderNeed]:
    """What a study has needed so far, and what its space can ask for."""
    from study.encoder_needs import of_space, of_trials
    from study.inputs import Inputs

    folder = existing_study(storage, name)
    document = folder.read_document()
    inputs = Inputs.from_dict(document["inputs"])
    space = StudyConfig.from_dict(document["study"]).search_space()
    return {**(of_space(space, inputs) or {}), **of_trials(folder.trials(), inputs)}


def _table(records: list[EncoderRecord], needs: dict[str, EncoderNeed]) -> Table:
    """At most 80 columns wide; agreement in a line for each level."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("key", "encoder", "status"):
        table.add_column(name, no_wrap=name == "key", max_width=20)
    for name in ("cosine", "CKA", "images", "min"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in records:
        levels = {
            figure: "\n".join(f"{r.figures[f'level{k}_{figure}']:.3f}" for k in LEVELS)
            if f"level1_{figure}" in r.figures
            else ""
            for figure in ("cosine", "cka")
        }
        if "top1" in r.figures:
            levels["cosine"] = f"top-1\n{r.figures['top1']:.3f}"
        images = str(sum(r.images.values())) if r.images else ""
        minutes = f"{r.seconds / 60:.1f}"
        table.add_row(r.key, _words(r.need), r.status, *levels.values(), images, minutes)
    for key in needs.keys() - {record.key for record in records}:
        table.add_row(key, _words(needs[key]), MISSING, "", "", "", "")
    return table


def _words(need: EncoderNeed) -> str:
    return str(need).replace(", ", "\n")


def _remarks(records: list[EncoderRecord], wrong: list[str]) -> list[str]:
    failed = [f"{r.key} failed: {r.error}" for r in records if r.status == FAILED]
    return [*failed, *(f"{r.key}: {note}" for r in records for note in r.notes), *wrong]


def _check(
    store: EncoderStore, records: list[EncoderRecord], wrong: list[str], console: Console
) -> int:
    from study.encoder_making import wrong_with  # Brings torch.

    broken = len(wrong)
    for line in wrong:
        console.print(line, style="red", markup=False, soft_wrap=True)
    for record in records:
        if record.status != FINISHED:
            continue
        try:
            with store.storage.at_hand(store.weights(record.key)) as path:
                why = wrong_with(path, record)
        except FileNotFoundError as e:
            why = f"{e} is missing"
        broken += why is not None
        said = f"{record.key}: {why or f'as its card says ({record.need})'}"
        style = "red" if why else None
        console.print(said, style=style, highlight=False, markup=False, soft_wrap=True)
    if broken:
        console.print("The next fit that needs a broken one mends it; so do `remove` and `make`.")
    return BROKEN if broken else OK


def _add(store: EncoderStore, file: str | None, console: Console) -> int:
    from study.encoder_adding import add_encoder  # Brings torch.

    if file is None:
        raise EncoderError("encoders add needs the file of an encoder")
    record = add_encoder(store, Path(file))
    console.print(f"{record.key}: {record.need}, {record.agreement()}", highlight=False)
    return OK


def _remove(store: EncoderStore, key: str | None, console: Console) -> int:
    known = store.keys()
    if key not in known:
        raise EncoderError(
            f"encoders remove needs the key of one, but got {key!r}; there are "
            f"{', '.join(known) or 'none'}"
        )
    fits, _ = (ledger := Ledger(store.storage)).read_all(ledger.keys())
    used = Counter(fit.study for fit in fits if fit.inputs.get("weights") == key)
    store.remove(key)
    console.print(f"Removed {key}.", highlight=False)
    for study, count in used.items():
        fits_of = f"{count} fit{'s' * (count != 1)}"
        console.print(f"{fits_of} of study {study} used it and keep their results.")
    return OK
