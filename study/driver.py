"""Runs a study, from a checked StudyConfig to an exit code."""

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from study.config import StudyConfig, StudyError
from study.console import failures, next_steps, notes_of, summary
from study.driver_log import RAY_ENVIRONMENT, log_of, silence_console
from study.encoder_needs import encoders_to_make, needed_encoders, of_space, of_trials
from study.encoders import EncoderStore
from study.inputs import Inputs
from study.lease_holders import STALE_SECONDS, describe
from study.leases import Lease, Waiter
from study.ledger import FAILED, FINISHED, Ledger
from study.machine_files import journal_path
from study.outages import Outages, waiting_out
from study.plan import Plan, make_plan
from study.question import moved_tracking, open_study
from study.signals import INTERRUPTED, Interrupts
from study.sitting import Sitting
from study.spaces import Space
from study.storage import Storage, StorageError
from study.trials import StudyFolder

if TYPE_CHECKING:
    from study.background import Background

OK, FITS_FAILED = 0, 3
# How long the end of a study waits for MLflow.
MLFLOW_SECONDS = 60.0


def run_study(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    notes: list[str],
    console: Console,
    extend: bool = False,
    encoders_only: bool = False,
) -> int:
    """Does what is left of a study, and shows what came out.

    Args:
        config: with absolute paths and its objective chosen.
        space: its search space.
        inputs: digests of what goes into its fits.
        notes: of the data sets, for the user.
        console: where to.
        extend: whether a study of that name with another question is extended to this one.
        encoders_only: whether only the encoders that it lacks are made, those that failed among
            them, and no fit is run.

    Returns:
        The exit code: 0, 3 if fits failed (or encoders, where only they are made), 130 if it was
        interrupted.

    Raises:
        StudyError: if it is another study than the one of that name, another driver runs it, or
            the machine cannot hold one trial.
        StorageError: if the storage fails.
    """
    folder = StudyFolder(Storage(config.storage), config.name)
    code = OK
    with (
        Interrupts(console) as interrupts,
        driver_lease(folder, console) as lease,
        log_of(folder),
    ):
        interrupts.hold()
        interrupts.tell(partial(lease.say, stopping=True))  # The workers look at it.
        try:
            moved = moved_tracking(folder, config)
            open_study(folder, config, space, inputs, extend)
            plan = make_plan(config, space, inputs, folder, Ledger(folder.storage))
            needs = needed_encoders(space, inputs, plan)
            if encoders_only:
                needs = of_trials(plan.trials, inputs) | (of_space(space, inputs) or {})
            encoders, line = encoders_to_make(needs, EncoderStore(folder.storage))
            # The question is the user's, whose brackets are no markup.
            title = f"[bold]{config.name}[/bold]: {escape(config.question)}"
            console.print(title, highlight=False)
            if encoders_only:
                none = "The fits make the encoders that they need, as they are drawn."
                line = line or (none if inputs.makings else "This study makes no encoder.")
            else:
                console.print(plan.describe(config), highlight=False)
                if not line and inputs.makings and plan.left:
                    line = "Encoders are made by the fits that need them."
            if line:
                console.print(line, highlight=False)
            for note in (*notes, *moved, *plan.notes):
                console.print(f"note: {note}", highlight=False, markup=False)
            sitting = Sitting(
                config, space, inputs, folder, lease, plan, journal_path(config), encoders
            )
            work = _make_encoders if encoders_only else _do_trials
            with waiting_out(Outages(partial(_say, console))):
                code = work(sitting, console, interrupts)
        except KeyboardInterrupt:
            console.print("Ended at once.", style="yellow")
    if interrupts.received and code != INTERRUPTED:
        code = INTERRUPTED
        next_steps(console, config, None)
    return code


def _say(console: Console, line: str) -> None:
    console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _do_trials(sitting: Sitting, console: Console, interrupts: Interrupts) -> int:
    """Does what is left of a study that this process holds; returns the exit code."""
    config, folder, plan = sitting.config, sitting.folder, sitting.plan
    exhausted = False
    try:
        with _mirrored(sitting, interrupts) as background:
            if plan.left and not interrupts.stopping.is_set():
                from study.tuning import tune_study

                exhausted = tune_study(sitting, console, interrupts)
                if exhausted:
                    document = {**folder.read_document(), "exhausted": True}
                    folder.write_document(document)
                    background.mirror.builder.document = document
    finally:
        _keep_journal(sitting, console)
    stopped = interrupts.stopping.is_set()
    return _show(config, folder, plan, exhausted, background.unwritten, console, stopped)


def _keep_journal(sitting: Sitting, console: Console) -> None:
    """Writes Optuna's journal as the trials tell it, here and on the storage; a view of them, so it
    is no more than said where it cannot be written."""
    from study.optuna_study import write_journal

    if sitting.lease.lost.is_set():
        return  # Whoever took the study over, perhaps on this machine, writes it.
    try:
        write_journal(sitting.space, sitting.folder.trials(), sitting.journal)
    except OSError as e:
        line = f"note: Optuna's journal {sitting.journal} cannot be written: {e.strerror or e}"
        console.print(line, style="yellow", markup=False, highlight=False)
        return
    except StorageError:  # Was said already, or is by what comes next.
        return
    with suppress(StorageError):
        sitting.folder.storage.upload(sitting.journal, sitting.folder.journal)


def _make_encoders(sitting: Sitting, console: Console, interrupts: Interrupts) -> int:
    """Makes a study's encoders, and runs no fit; returns the exit code."""
    if not sitting.encoders or interrupts.stopping.is_set():
        return OK
    with _mirrored(sitting, interrupts):
        from study.tuning import make_only

        make_only(sitting, console, interrupts)
    records, _ = EncoderStore(sitting.folder.storage).read_all(list(sitting.encoders))
    if any(record.status == FAILED for record in records):
        return FITS_FAILED
    done = sum(record.status == FINISHED for record in records) == len(sitting.encoders)
    return OK if done else INTERRUPTED


@contextmanager
def _mirrored(sitting: Sitting, interrupts: Interrupts) -> Iterator["Background"]:
    """Has MLflow written meanwhile; at the end waits for it."""
    for variable, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # Imported late: these take seconds, and by now all that can be wrong was said.
    from study.background import Background

    if sitting.plan.left or sitting.encoders:
        import study.tuning  # noqa: F401 - Ray brings handlers that are silenced here
    silence_console()
    background = Background(sitting.config, sitting.journal, sitting.lease.lost)
    background.start()
    patience = MLFLOW_SECONDS
    try:
        yield background
    except StudyError:
        patience = 0.0  # Nothing was started, so nothing is to be written.
        raise
    finally:
        background.finish(patience, interrupts.patience)


@contextmanager
def driver_lease(
    folder: StudyFolder, console: Console, stale: float = STALE_SECONDS
) -> Iterator[Lease]:
    """Holds the study, so that no second driver runs it.

    A driver that was killed on this machine is succeeded at once; one of another machine when it
    has been silent for a minute (`stale`, in seconds).

    Raises:
        StudyError: if another driver has it.
    """
    waiter = Waiter(folder.storage, folder.driver, {"study": folder.name}, stale=stale)
    beats, said, lease = set(), False, None
    while (lease := waiter.attempt()) is None:
        if not waiter.holder:
            time.sleep(0.1)  # Two began at the same moment; the next look finds who won.
            continue
        beats.add(waiter.holder.get("beat"))
        holder = describe(waiter.holder)
        if len(beats) > 1 or waiter.is_alive():
            raise StudyError(
                f"study {folder.name!r} is being run by another driver ({holder}); wait for it, or "
                "end it"
            )
        if not said:
            console.print(
                f"Waiting up to {stale:.0f} s to see whether {holder}, which began this "
                "study, is still alive."
            )
            said = True
        time.sleep(1.0)
    try:
        yield lease
    finally:
        lease.release()


def _show(
    config: StudyConfig,
    folder: StudyFolder,
    plan: Plan,
    exhausted: bool,
    unwritten: str | None,
    console: Console,
    stopped: bool,
) -> int:
    """Shows what came out; returns the exit code.

    Args:
        config, folder, plan: the study, and what was left of it.
        exhausted: whether the space holds no further configuration.
        unwritten: why MLflow is not up to date, if it is not.
        console: where to.
        stopped: whether a signal asked for the end.
    """
    trials = folder.trials()
    ledger = Ledger(folder.storage)
    summary(console, config, trials, ledger)
    failures(console, trials)
    notes_of(console, trials, ledger)
    if exhausted and plan.wanted is not None:
        console.print("The search space holds no further configuration.")
    if unwritten:
        console.print(f"MLflow is not up to date: {unwritten}", style="yellow", markup=False)
        console.print(f"`python -m study sync {config.name}` writes it later.", markup=False)
    now = dataclasses.replace(plan, trials=trials)
    begun = any(not trial.decided for trial in trials)
    # A grid's trials that were not begun yet have no record.
    done = not stopped and not begun and (exhausted or len(now.current) >= plan.total)
    next_steps(console, config, len(now.current) if done else None)
    if not done:
        console.print("Interrupted: the command to go on is above.", style="yellow")
        return INTERRUPTED
    return FITS_FAILED if any(trial.state == FAILED for trial in trials) else OK
