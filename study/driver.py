"""Runs a study, from a checked StudyConfig to an exit code."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from study.config import StudyConfig, StudyError, differences
from study.console import failures, next_steps, summary
from study.ledger import FAILED, Inputs, Ledger
from study.plan import Plan
from study.spaces import Space
from study.trials import StudyFolder

OK, USAGE, FITS_FAILED, INTERRUPTED = 0, 2, 3, 130
# How long the end of a study waits for MLflow.
MLFLOW_SECONDS = 60.0
# Read by Ray when it is imported; values that the user has set stay.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # The new output prints a table even when told to be silent.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # Heartbeats have no objective.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def run_study(
    config: StudyConfig, space: Space, inputs: Inputs, notes: list[str], console: Console
) -> int:
    """Does what is left of a study, and shows what came out.

    Args:
        config: with absolute paths and its objective chosen.
        space: its search space.
        inputs: digests of what goes into its fits.
        notes: of the data sets, for the user.
        console: where to.

    Returns:
        The exit code: 0, 3 if fits failed, 130 if it was interrupted.

    Raises:
        StudyError: if it is another study than the one of that name, another driver runs it, or
            the machine cannot hold one trial.
    """
    folder = StudyFolder(Path(config.storage), config.name)
    with driver_lock(folder):
        check_same_study(folder, config, inputs)
        folder.write_document({"study": config.to_dict(), "inputs": dataclasses.asdict(inputs)})
        plan = Plan([record.tried_again() for record in folder.trials()], config.num_trials)
        console.print(f"[bold]{config.name}[/bold]: {config.question}", highlight=False)
        console.print(plan.describe(len(config.cases)), highlight=False)
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        for variable, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        # Imported late: these take seconds, and by now all that can be wrong was said.
        from study.background import BackgroundMirror

        if plan.left:
            from study.tuning import tune_study
        _log_to_file(folder.log)
        mirror = BackgroundMirror(config)
        mirror.start()
        exhausted, unwritten = False, None
        try:
            if plan.left:
                exhausted = tune_study(config, space, inputs, folder, plan, console)
        finally:
            unwritten = mirror.finish(MLFLOW_SECONDS)
        return _show(config, folder, exhausted, unwritten, console)


def check_same_study(folder: StudyFolder, config: StudyConfig, inputs: Inputs) -> None:
    """Refuses to go on with a study of the same name that is another one.

    Raises:
        StudyError: with what differs.
    """
    if not folder.exists():
        return
    document = folder.read_document()
    lines = differences(StudyConfig(**document["study"]).asked(), config.asked())
    lines += differences(
        {"inputs": Inputs(**document["inputs"]).contents()}, {"inputs": inputs.contents()}
    )
    if lines:
        more = f" (and {len(lines) - 4} more)" if len(lines) > 4 else ""
        raise StudyError(
            f"study {config.name!r} in {config.storage} is another one: {'; '.join(lines[:4])}"
            f"{more}; give another --study"
        )


@contextmanager
def driver_lock(folder: StudyFolder) -> Iterator[None]:
    """Holds the study, so that no second driver runs it; a killed driver's lock is free again.

    Raises:
        StudyError: if another driver has it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as e:
        raise StudyError(
            f"study {folder.path.name!r} is being run by another process ({folder.lock} is held); "
            "wait for it, or end it"
        ) from e
    with lock:
        yield


def _show(
    config: StudyConfig,
    folder: StudyFolder,
    exhausted: bool,
    unwritten: str | None,
    console: Console,
) -> int:
    trials = folder.trials()
    summary(console, config, trials, Ledger(Path(config.storage)))
    failures(console, trials)
    if exhausted:
        console.print("The search space holds no further configuration.")
    if unwritten:
        console.print(f"MLflow is not up to date: {unwritten}", style="yellow", markup=False)
        console.print(f"`python -m study sync {config.name}` writes it later.", markup=False)
    begun = any(not trial.decided for trial in trials)
    done = not begun and (exhausted or len(trials) >= config.num_trials)
    next_steps(console, config, len(trials) if done else None)
    if not done:
        console.print("Interrupted: the command to go on is above.", style="yellow")
        return INTERRUPTED
    return FITS_FAILED if any(trial.state == FAILED for trial in trials) else OK


def _log_to_file(path: Path) -> None:
    """What libraries say goes to a file: the user's console shows the study."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    # Ray and MLflow brought handlers of their own, for the console, when they were imported.
    for name in ("ray", "mlflow", "alembic", "optuna", "py.warnings"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(True)
