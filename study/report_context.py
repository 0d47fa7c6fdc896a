"""What a report says around its results: what ended early, what it cost, how to do it again."""

import dataclasses
import json
import shlex
import time
from statistics import fmean

from study.config import StudyConfig
from study.ledger import BEGUN, FAILED, FINISHED, STOPPED, FitRecord
from study.report_tables import (
    BAD,
    MUTED,
    NOTHING,
    PLAIN,
    Block,
    Column,
    Entry,
    Listing,
    Table,
    Text,
    duration,
)
from study.results import NEW, StudyResults
from study.space_files import available_spaces, load_space
from study.spaces import SpaceError
from study.trials import RETIRED, TrialRecord
from study.wording import cell_names, settings

MOST_ROWS = 40


def ended_early(results: StudyResults) -> list[Block]:
    """The trials that did not finish, and what workers noted."""
    trials = [t for t in results.current if t.state in (STOPPED, FAILED)]
    begun = [t for t in results.current if t.state == BEGUN]
    missing = sum(case.state == NEW for case in results.cases.values())
    blocks: list[Block] = []
    if not trials:
        blocks.append(Text("No trial was stopped early, and none failed."))
    else:
        blocks.append(_ended_table(results, trials))
    if begun or missing:
        rows = [case for case in results.cases.values() if case.state == BEGUN]
        blocks.append(
            Text(
                f"{len(rows)} fits are begun and {missing} not begun; they are in no mean and in "
                "no difference."
            )
        )
    if retired := [t for t in results.trials if t.state == RETIRED]:
        blocks.append(
            Text(f"{len(retired)} trials belong to an earlier question and are left out.")
        )
    notes = [f"{f.category}, seed {f.seed}: {note}" for f in results.fits for note in f.notes]
    if lines := [*results.notes, *notes]:
        shown = lines[:MOST_ROWS]
        if len(lines) > MOST_ROWS:
            shown.append(f"and {len(lines) - MOST_ROWS} more: python -m study status --json")
        blocks += [Text("Noted meanwhile:"), Listing(tuple(shown))]
    return blocks


def _ended_table(results: StudyResults, trials: list[TrialRecord]) -> Table:
    names = cell_names(results.config)
    rows = []
    for t in trials[:MOST_ROWS]:
        said = names.get(t.digest) or ", ".join(settings(t, list(t.drawn)))
        cases = ", ".join(f"{c.category}, seed {c.seed}" for c in t.cases[:3])
        more = len(t.cases) - 3
        done = f"{t.spent:,} of {t.budget:,}"
        why = t.error if t.state == FAILED else "stopped early: weaker than others at its rung"
        rows.append(
            (
                Entry(str(t.number)),
                Entry(said),
                Entry(cases + (f" and {more} more" if more > 0 else "")),
                Entry(t.state, BAD if t.state == FAILED else MUTED),
                Entry(done),
                Entry(why or NOTHING),
            )
        )
    notes = ["They are in no mean and in no ranking: less training is no fair comparison."]
    if len(trials) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(trials)}.")
    return Table(
        title="Stopped early or failed",
        columns=(
            Column("Trial"),
            Column("Cell" if results.cells else "Settings", numeric=False),
            Column("Cases", numeric=False),
            Column("State", numeric=False),
            Column("Done", "iterations"),
            Column("Why", numeric=False),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """What a study cost, in seconds of work; waiting for a free worker is not among it.

    Attributes:
        seconds: training, evaluating and writing of its own fits, whatever came of them.
        gpu_seconds: of those on a GPU, times the GPUs of a trial.
        iterations, budget: of its decided trials: spent, and of the whole trainings.
        stopped_iterations: that early stopping left out.
        stopped_seconds: the same as time, at the pace of the study's own fits; None without any.
        reused_fits, reused_seconds: finished fits of other studies, and what they took there.
        fits: state -> number of fits.
    """

    seconds: float
    gpu_seconds: float
    iterations: int
    budget: int
    stopped_iterations: int
    stopped_seconds: float | None
    reused_fits: int
    reused_seconds: float
    fits: dict[str, int]


def spent(results: StudyResults) -> Spent:
    """Adds up what the records say."""
    name = results.config.name
    own = [f for f in results.fits if f.study == name]
    others = [f for f in results.fits if f.study != name and f.status == FINISHED]
    decided = [t for t in results.current if t.decided]
    paces = [_seconds(f) / f.iteration for f in own if f.iteration]
    left = sum(t.budget - t.spent for t in decided if t.state == STOPPED)
    states = [case.state for case in results.cases.values()]
    gpus = results.config.gpus_per_trial
    return Spent(
        seconds=sum(map(_seconds, own)),
        gpu_seconds=sum(
            _seconds(f) * (1.0 if gpus is None else gpus) for f in own if f.environment["gpu"]
        ),
        iterations=sum(t.spent for t in decided),
        budget=sum(t.budget for t in decided),
        stopped_iterations=left,
        stopped_seconds=left * fmean(paces) if paces else None,
        reused_fits=len(others),
        reused_seconds=sum(map(_seconds, others)),
        fits={s: states.count(s) for s in (FINISHED, STOPPED, FAILED, BEGUN, NEW)},
    )


def _seconds(fit: FitRecord) -> float:
    return fit.seconds + fit.writing_seconds


def cost_blocks(results: StudyResults) -> list[Block]:
    """What was spent, and what was not."""
    cost = spent(results)
    counts = ", ".join(f"{n} {state}" for state, n in cost.fits.items() if n)
    share = f" ({cost.iterations / cost.budget:.0%})" if cost.budget else ""
    rows = [
        ("Fits", counts or "none"),
        ("Work of this study's fits", duration(cost.seconds)),
        ("Iterations of decided trials", f"{cost.iterations:,} of {cost.budget:,}{share}"),
    ]
    if cost.gpu_seconds:
        rows.append(("GPU-hours", f"{cost.gpu_seconds / 3600:.2f}"))
    if cost.stopped_iterations:
        saved = f"{cost.stopped_iterations:,} iterations"
        if cost.stopped_seconds is not None:
            saved += f", about {duration(cost.stopped_seconds)}"
        rows.append(("Saved by early stopping", saved))
    if cost.reused_fits:
        rows.append(
            (
                "Saved by fits of other studies",
                f"{cost.reused_fits} fits, {duration(cost.reused_seconds)} of work",
            )
        )
    peak = max((f.peak_memory_mb for f in results.fits), default=0.0)
    if peak:
        where = "of the GPU" if any(f.environment["gpu"] for f in results.fits) else "of a worker"
        rows.append((f"Greatest memory {where}", f"{peak:,.0f} MB"))
    note = "Work is training, evaluating and writing, on one worker each."
    return [_facts("Cost", rows, (note,)), *_plan_against_truth(results)]


def _plan_against_truth(results: StudyResults) -> list[Block]:
    """How wrong the estimate was that the driver made when the study began."""
    if "plan" not in results.document:
        return []
    plan = results.document["plan"]
    if plan["seconds"] is None:
        return [Text("When the study began, nothing was known to estimate its time from.")]
    # Encoders are in the plan's sum where their time was known; fits' records have no part of it.
    planned = plan["seconds"] - (plan["encoder_seconds"] or 0.0)
    took = sum(_seconds(fit) for fit in results.fits) - plan["spent_seconds"]
    done = sum(case.state == FINISHED for case in results.cases.values()) - plan["finished"]
    left = plan["fits"] - plan["finished"]
    rows = [
        ("Fits that were left", str(left)),
        ("Finished since", str(done)),
        ("Work, planned", f"{duration(planned)}, from {plan['source']}"),
        ("Work, taken" if done >= left else "Work, so far", duration(took)),
    ]
    if planned:
        rows.append(("Taken over planned", f"{took / planned:.0%}"))
    return [_facts("Plan against truth", rows)]


def repeat_blocks(results: StudyResults) -> list[Block]:
    """The command, the question as it was asked, the code, the machines, the data."""
    config, fits = results.config, results.fits
    blocks: list[Block] = [
        Text(
            "The same command on the same data gives the same numbers, on a CPU with the same "
            "number of threads bit for bit:"
        ),
        Listing((command(config),)),
    ]
    if note := _space_note(config):
        blocks.append(Text(note))
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
    blocks.append(_facts("Code and machines", rows))
    if len({f.environment["git_sha"] for f in fits}) > 1:
        blocks.append(Text("Fits were done with different revisions of the code.", warning=True))
    blocks.append(_data_table(results))
    if weights := [(k, v) for k, v in results.inputs.weights.items()]:
        rows = [(f"Encoder weights {k!r}", v) for k, v in weights]
        rows += [(f"Textures at {k} pixels", v) for k, v in results.inputs.textures.items()]
        blocks.append(_facts("Digests of weights and textures", rows))
    return blocks


VERSIONS = (
    ("This project", "ffcad_study"),
    ("Python", "python"),
    ("PyTorch", "torch"),
    ("torchvision", "torchvision"),
    ("Ray", "ray"),
    ("Optuna", "optuna"),
    ("MLflow", "mlflow"),
    ("NumPy", "numpy"),
)


def command(config: StudyConfig) -> str:
    """The command line that asks the study's question, without what is at its default."""
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(StudyConfig)
        if f.default is not dataclasses.MISSING
    }
    parts = ["python -m study run", "--space", config.space, "--study", config.name]
    parts += ["--data", config.data]
    parts += ["--categories", ",".join(config.categories)]
    parts += ["--seeds", ",".join(map(str, config.seeds))]
    if not config.cells:
        parts += ["--num-trials", str(config.num_trials)]
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
    for knob, value in _pinned(config).items():
        parts += ["--set", f"{knob}={_flag_value(value)}"]
    for knob, value in config.recipe.items():
        parts += ["--pretrain", f"{knob}={_flag_value(value)}"]
    return " ".join([parts[0], *map(shlex.quote, parts[1:])])


FLAGS = (
    "select_on",
    "holdout",
    "objective",
    "data_root",
    "textures",
    "teacher",
    "sampler_seed",
)


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
            f"{config.space!r} is a file of the user's own: give its path. What it said is in the "
            "table below."
        )
    try:
        space = load_space(config.space)
    except SpaceError:
        space = None
    if space is None or space.cells != config.cells:
        return f"search_spaces/{config.space}.py says something else by now; see the table below."
    return ""


def _question_table(results: StudyResults) -> Table:
    config = results.config
    rows = [(name, json.dumps(values)) for name, values in config.cells.items()]
    for name, text in config.search.items():
        distribution = json.loads(text)
        rows.append((name, f"{distribution['name']} {json.dumps(distribution['attributes'])}"))
    fixed = ", ".join(f"{k} {_flag_value(v)}" for k, v in config.fixed.items())
    rows.append(("Fixed in all", fixed or "everything else at its default"))
    return _facts("What was asked", rows)


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


def _facts(title: str, rows: list[tuple[str, str]], notes: tuple[str, ...] = ()) -> Table:
    """A table of two columns."""
    return Table(
        title=title,
        columns=(Column("What", numeric=False), Column("Value", numeric=False)),
        rows=tuple((Entry(name), Entry(value, PLAIN)) for name, value in rows),
        notes=notes,
    )


def made_at() -> str:
    """Now, for the report's head."""
    return time.strftime("%Y-%m-%d %H:%M %Z")
