"""What the user sees of a study's results: a table, notes, failures, the commands that go on."""

import shlex
import sys
from pathlib import Path
from statistics import fmean
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.budget import Budget, budget_of
from study.config import StudyConfig
from study.default_places import default_storage
from study.ledger import FAILED, FINISHED, FitRecord, Ledger
from study.outcomes import Outcome, outcomes
from study.storage import Storage
from study.trials import TrialRecord
from study.wording import (
    caveats,
    cell_names,
    is_warning,
    settings,
    tuned_knobs,
    varying_knobs,
)

MOST_ROWS = 20
# What the table shows beside the objective, where there is room for no more.
COLUMNS = ("report_image_auroc", "report_pixel_auroc", "report_pixel_aupro", "report_pixel_ap")


def summary(
    console: Console, config: StudyConfig, trials: list[TrialRecord], ledger: Ledger
) -> None:
    """Prints the table of configurations, the best one, and what early stopping saved.

    Args:
        console: where to.
        config: the study, with its objective.
        trials: of the study.
        ledger: holds their fits.
    """
    known = outcomes(trials, len(config.cases))
    finished = sorted((o for o in known if o.state == FINISHED), key=lambda o: -o.value)
    # Trials that ended early have values of another training length: they are never ranked.
    others = [o for o in known if o.state != FINISHED]
    fits = {o.first.number: _finished_fits(ledger, o) for o in finished}
    columns = [
        key
        for key in COLUMNS
        if any(fits.values()) and all(key in r.metrics for rs in fits.values() for r in rs)
    ]
    varying, names = varying_knobs([o.first for o in known]), cell_names(config)

    def said(trial: TrialRecord) -> list[str]:
        if trial.digest not in names:
            return settings(trial, varying)
        return [names[trial.digest], *settings(trial, tuned_knobs(config, trial))]

    table = _headed_table(config, columns)
    # Between columns are a border and two spaces, at the table's ends a border.
    taken = len("trial") + len("stopped") + len(columns) * len("AUROC")
    width = min(console.width, 120) - taken - 3 * (len(columns) + 2) - 2
    for o in finished[:MOST_ROWS]:
        metrics = [_mean([r.metrics[key] for r in fits[o.first.number]]) for key in columns]
        # A user's names may have brackets, which are no markup.
        row = Text(_folded(said(o.first), width))
        table.add_row(str(o.first.number), f"{o.value:.4f}", *metrics, row)
    table.add_section()
    for o in others[:MOST_ROWS]:
        empty = [""] * len(columns)
        row = Text(_folded(said(o.first), width))
        table.add_row(str(o.first.number), o.state, *empty, row)
    console.print(table)
    for line in caveats(config, trials):
        console.print(line, style="yellow" if is_warning(line) else None, highlight=False)
    if hidden := max(0, len(finished) - MOST_ROWS) + max(0, len(others) - MOST_ROWS):
        console.print(f"and {hidden} more: python -m study status {config.name} --json")
    best = ", ".join(said(finished[0].first)) if finished else ""
    console.print(
        f"Best: trial {finished[0].first.number}, {best}"
        if finished
        else "No configuration finished.",
        highlight=False,
        markup=False,
    )
    records, _ = ledger.read_all(list({case.key for trial in trials for case in trial.cases}))
    if line := budget_line(budget_of(trials, {record.key: record for record in records})):
        console.print(line, highlight=False)


def budget_line(budget: Budget) -> str:
    """How much of the full budget of the decided trials was spent, and what saved the rest."""
    if not budget.whole:
        return ""
    saved = {
        "early stopping": budget.stopped,
        "fits of other studies": budget.reused,
        "failures": budget.failed,
    }
    whole, spent = budget.whole, budget.spent
    parts = [f"{what} saved {n:,} ({n / whole:.0%})" for what, n in saved.items() if n]
    line = f"Budget: {spent:,} of {whole:,} iterations spent ({spent / whole:.0%})"
    return "; ".join([line, *parts])


def notes_of(console: Console, trials: list[TrialRecord], ledger: Ledger) -> None:
    """Prints what workers noted about their fits, and what of the ledger cannot be read."""
    keys = dict.fromkeys(case.key for trial in trials for case in trial.cases)
    fits, wrong = ledger.read_all(list(keys))
    noted = [f"{r.category}, seed {r.seed}: {note}" for r in fits for note in r.notes]
    for line in (*noted, *wrong):
        console.print(f"note: {line}", style="yellow", highlight=False, markup=False)


def _headed_table(config: StudyConfig, columns: list[str]) -> Table:
    table = Table(title=config.name, pad_edge=False)
    figures = {"justify": "right", "no_wrap": True}
    table.add_column("trial", min_width=len("trial"), **figures)
    table.add_column(_title(config.objective), min_width=len("stopped"), **figures)
    for key in columns:
        title = _title(key).removeprefix("report\n")
        table.add_column(title, min_width=len("AUROC"), **figures)
    table.add_column("cell" if config.cells else "settings that vary", overflow="fold")
    return table


def failures(console: Console, trials: list[TrialRecord]) -> None:
    """Lists the trials that failed, with the reason of each."""
    for t in trials:
        if t.state == FAILED:
            console.print(f"trial {t.number} failed: {t.error}", style="red", markup=False)


def next_steps(console: Console, config: StudyConfig, done: int | None) -> None:
    """Prints the commands that open MLflow, resume the study, and use the user's own images.

    Args:
        console: where to.
        config: the study.
        done: how many configurations it has, if nothing of what was asked for is left; else None.
    """
    python = short_path(Path(sys.executable), resolve=False)
    if urlsplit(config.mlflow_uri).scheme in ("http", "https"):
        look = f"open {config.mlflow_uri}"
    else:
        uri = config.tracking_uri or f"sqlite:///{short_path(config.local_folder / 'mlflow.db')}"
        look = f"{python} -m mlflow ui --workers 1 --backend-store-uri {shlex.quote(uri)}"
    run = f"{python} {run_command()}"
    local = Storage(config.storage).local
    storage = short_path(local) if local else config.storage
    usual = config.storage == Storage(default_storage()).where
    again = f"{run} --resume {config.name}{'' if usual else f' --storage {storage}'}"
    commands = {"Look at the runs": look}
    if done is None:
        commands["Go on with this study"] = again
    elif not config.cells or config.nuisance:
        more = 2 * (config.draws if config.cells else done)
        commands["Try more configurations"] = f"{again} --num-trials {more}"
    commands["Use your own images"] = f"{run} --data folder --data-root FOLDER"
    for title, command in commands.items():
        console.print(f"{title}:", style="bold")
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


def run_command() -> str:
    """How this program was started, for the commands that it prints."""
    script = Path(sys.argv[0])
    return short_path(script) if script.name == "run.py" else "-m study run"


def _folded(parts: list[str], width: int) -> str:
    """Settings in lines of a width, broken between two settings only."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _finished_fits(ledger: Ledger, outcome: Outcome) -> list[FitRecord]:
    records, _ = ledger.read_all([case.key for case in outcome.cases])
    return [record for record in records if record.status == FINISHED]


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.3f}" if values else "-"


def _title(metric: str) -> str:
    """select_pixel_ap as three short lines."""
    return "\n".join(w.upper() if w.startswith("au") or w == "ap" else w for w in metric.split("_"))


def short_path(path: Path, resolve: bool = True) -> str:
    """A path as one types it here: relative to the current folder if it is below it.

    A virtual environment's python is a link: resolving it would lead out of the environment.
    """
    whole = path.resolve() if resolve else path.absolute()
    try:
        return shlex.quote(str(whole.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(whole))
