"""What it takes to do a study again: its command, question, code, machines and data."""

import dataclasses
import json
import shlex

from study.config import StudyConfig, space_fields
from study.ledger import FitRecord
from study.report_tables import (
    NOTHING,
    Block,
    Column,
    Entry,
    Listing,
    Table,
    Text,
    facts,
    quoted,
)
from study.results import StudyResults
from study.space_files import available_spaces, load_space
from study.spaces import SpaceError
from study.wording import confirmed_study

VERSIONS = (
    ("This project", "ffcad_study"),
    ("Python", "python"),
    ("PyTorch", "torch"),
    ("torchvision", "torchvision"),
    ("Ray", "ray"),
    ("Optuna", "optuna"),
    ("MLflow", "mlflow"),
    ("NumPy", "numpy"),
    ("SciPy", "scipy"),
)
FLAGS = (
    "select_on",
    "holdout",
    "objective",
    "data_root",
    "textures",
    "teacher",
    "sampler_seed",
    "cpus_per_trial",
    "gpus_per_trial",
    "max_concurrent",
)
# Of a search space: what a study has from it and no flag gives.
ASKED = ("search", "nuisance", "cells", "fixed", "reference")


def repeat_blocks(results: StudyResults) -> list[Block]:
    """The command, the question as it was asked, the code, the machines, the data."""
    config, fits = results.config, results.fits
    blocks = _command_blocks(config)
    blocks.append(_question_table(results))
    rows = [
        ("Git revision", _both(fits, "git_sha", "git_dirty")),
        *((title, _values(fits, key)) for title, key in VERSIONS),
        ("Machines", _values(fits, "host")),
        ("System", _values(fits, "platform")),
        ("GPU", _values(fits, "gpu")),
        ("Threads of a fit", _values(fits, "threads")),
        ("Method version", str(results.inputs.method_version)),
    ]
    blocks.append(facts("Code and machines", rows))
    if len({f.environment["git_sha"] for f in fits}) > 1:
        blocks.append(Text("Fits were done with different revisions of the code.", warning=True))
    blocks.append(_data_table(results))
    if weights := [(k, v) for k, v in results.inputs.weights.items()]:
        rows = [(f"Encoder weights {k!r}", v) for k, v in weights]
        rows += [(f"Textures at {k} pixels", v) for k, v in results.inputs.textures.items()]
        blocks.append(facts("Digests of weights and textures", rows))
    return blocks


def _command_blocks(config: StudyConfig) -> list[Block]:
    if confirmed := confirmed_study(config):
        return [
            Text(
                f"This study confirms the best configuration of {quoted(confirmed)}. It is asked "
                f"for with that one: by the command in its report, with --confirm "
                f"{len(config.seeds)}."
            )
        ]
    exact = "the same numbers, on a CPU with the same number of threads bit for bit"
    said = f"The same command on the same data gives {exact}:"
    if not config.cells:
        said = (
            "The same command on the same data asks the same question. Which configurations are "
            "drawn, and which are stopped early, also depends on the order in which trials end and "
            f"on where the study was broken off; each fit gives {exact}:"
        )
    blocks: list[Block] = [Text(said), Listing((command(config),))]
    if note := _space_note(config):
        blocks.append(Text(note))
    return blocks


def command(config: StudyConfig) -> str:
    """The command line that asks the study's question, without what is at its default."""
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(StudyConfig)
        if f.default is not dataclasses.MISSING
    }
    # A document keeps the name of a user's file, not where it was.
    space = config.space if config.space in available_spaces() else f"{config.space}.py"
    parts = ["python -m study run", "--space", space, "--study", config.name]
    parts += ["--data", config.data]
    parts += ["--categories", ",".join(config.categories)]
    parts += ["--seeds", ",".join(map(str, config.seeds))]
    if not config.cells:
        parts += ["--num-trials", str(config.num_trials)]
    elif config.nuisance:
        parts += ["--num-trials", str(config.draws)]
    for name in FLAGS:
        value = getattr(config, name)
        if value != defaults[name]:
            parts += [f"--{name.replace('_', '-')}", str(value)]
    if config.corpus:
        parts += ["--corpus", ",".join(config.corpus)]
    if not config.early_stopping:
        parts.append("--no-early-stopping")
    if config.allow_duplicates:
        parts.append("--allow-duplicates")
    if config.confirm:
        parts += ["--confirm", str(config.confirm)]
    pinned = _pinned(config)
    if encoder := pinned.pop("encoder_weights", None):
        parts += ["--encoder", encoder]
    for knob, value in pinned.items():
        parts += ["--set", f"{knob}={_flag_value(value)}"]
    for knob, value in config.recipe.items():
        parts += ["--pretrain", f"{knob}={_flag_value(value)}"]
    return " ".join([parts[0], *map(shlex.quote, parts[1:])])


def _pinned(config: StudyConfig) -> dict[str, object]:
    """Fixed knobs that the space's own file does not fix, or to another value."""
    try:
        known = load_space(config.space).fixed if config.space in available_spaces() else {}
    except SpaceError:  # A file that was changed since, and is none now.
        known = {}
    return {k: v for k, v in config.fixed.items() if k not in known or known[k] != v}


def _flag_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _space_note(config: StudyConfig) -> str:
    if config.space not in available_spaces():
        return (
            f"{config.space}.py is a file of the user's own: give its path. What it said is in the "
            "table below."
        )
    try:
        now = space_fields(load_space(config.space).pinned(config.fixed))
        then = space_fields(config.search_space())
    except SpaceError:  # It was changed into none, or into one whose cells set what was fixed.
        now = then = None
    if now is None or any(now[part] != then[part] for part in ASKED):
        return f"search_spaces/{config.space}.py says something else by now; see the table below."
    return ""


def _question_table(results: StudyResults) -> Table:
    config = results.config
    rows = [(name, json.dumps(values)) for name, values in config.cells.items()]
    for name, text in (config.search | config.nuisance).items():
        distribution = json.loads(text)
        rows.append((name, f"{distribution['name']} {json.dumps(distribution['attributes'])}"))
    if config.cells:
        rows.append(("Compared with", str(config.search_space().reference)))
    fixed = ", ".join(f"{k} {_flag_value(v)}" for k, v in config.fixed.items())
    rows.append(("Fixed in all", fixed or "everything else at its default"))
    return facts("What was asked", rows)


def _data_table(results: StudyResults) -> Table:
    images = {f.category: f.inputs["images"] for f in results.fits if "images" in f.inputs}
    rows = []
    for name, digest in results.inputs.data.items():
        category, _, size = name.rpartition("@")
        counts = images.get(category)
        rows.append(
            (
                Entry(category),
                Entry(size),
                *(
                    Entry(str(counts[s]) if counts else NOTHING)
                    for s in ("train", "select", "report")
                ),
                Entry(digest[:16]),
            )
        )
    return Table(
        title="Data",
        columns=(
            Column("Category", numeric=False),
            Column("Side", "pixels"),
            Column("Training images"),
            Column("Select images"),
            Column("Report images"),
            Column("Digest", numeric=False),
        ),
        rows=tuple(rows),
        notes=(
            "The digest is of the images' contents, the split and the size; the first 16 of 64 "
            "digits.",
        ),
    )


def _values(fits: list[FitRecord], key: str) -> str:
    values = dict.fromkeys(str(f.environment[key]) for f in fits if f.environment.get(key))
    return ", ".join(values) or "none"


def _both(fits: list[FitRecord], key: str, dirty: str) -> str:
    values = dict.fromkeys(
        f"{f.environment[key]}{' with uncommitted changes' if f.environment[dirty] else ''}"
        for f in fits
        if f.environment.get(key)
    )
    return ", ".join(values) or "unknown"
