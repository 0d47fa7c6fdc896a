"""Ray Tune as a study uses it: started, told how much runs at once, and fed by `OptunaSearch`.

Ray's own snapshots, checkpoints, loggers and console are switched off: the ledger does their work.
"""

import dataclasses
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray import tune
from rich.console import Console

from study.cluster import Room, leaving_out, placement, settle
from study.config import StudyConfig
from study.context import StudyContext
from study.early_stopping import make_scheduler
from study.fits import Fit
from study.inputs import cases_of
from study.kept_plan import keep_plan
from study.lease_holders import current_holder
from study.leases import Lease
from study.ledger import BEGUN, Ledger, LedgerError
from study.left_out import LeftOut
from study.machine import code_environment
from study.order import waiting_trials
from study.own_fits import ended_with
from study.plan import Plan
from study.preparation import Ending, make_encoders
from study.progress_line import ProgressLine, Snapshot
from study.ray_session import running_ray
from study.search import OptunaSearch
from study.signals import Interrupts
from study.sitting import Sitting
from study.spaces import Space
from study.storage import Storage, StorageError
from study.trainable import run_trial
from study.trials import RETIRED, StudyFolder, TrialRecord


def tune_study(sitting: Sitting, console: Console, interrupts: Interrupts) -> bool:
    """Starts Ray, unless it runs already, and runs the trials that are left.

    Args:
        sitting: what is to be done.
        console: shows the progress.
        interrupts: end it early.

    Returns:
        Whether the search space ran out of configurations.

    Raises:
        StudyError: if the machine cannot hold one trial.
        StorageError: if the storage failed on the way.
    """
    files = tempfile.mkdtemp(prefix="ffcad-tune-")
    try:
        with ExitStack() as stack:
            with console.status("starting Ray"):
                runs = stack.enter_context(running_ray(interrupts))
            return runs and _tune(sitting, console, interrupts, files)
    finally:
        shutil.rmtree(files, ignore_errors=True)


def make_only(sitting: Sitting, console: Console, interrupts: Interrupts) -> None:
    """Starts Ray, unless it runs already, and makes the encoders; no trial is run.

    Those that failed are tried again.

    Raises:
        StudyError: if the machine cannot hold one trial.
        StorageError: if the storage failed on the way.
    """
    ending = SimpleNamespace(stopping=interrupts.stopping, fatal=None)
    with ExitStack() as stack:
        with console.status("starting Ray"):
            runs = stack.enter_context(running_ray(interrupts))
        if not runs:
            return
        room = settle(sitting, console, interrupts.stopping.is_set)
        if room is None:
            return
        interrupts.tell(ending.stopping.set, fits=True)
        with _stopping_without(sitting.lease, ending):
            context, slots = make_context(sitting, room), (room.slots, room.gpus)
            left_out = leaving_out(sitting.config, room, console)
            make_encoders(sitting.encoders, context, slots, ending, left_out, console, again=True)
        if ending.fatal:
            raise StorageError(ending.fatal)


def _tune(sitting: Sitting, console: Console, interrupts: Interrupts, files: str) -> bool:
    """Runs the trials that are left on the Ray that runs; `files` is a folder for Ray's own."""
    plan = sitting.plan
    room = settle(sitting, console, interrupts.stopping.is_set)
    if room is None:
        return False
    slots, gpus = room.slots, room.gpus
    keep_plan(sitting, (slots, gpus), cluster=room.demands is not None)
    context = make_context(sitting, room)
    left_out = leaving_out(sitting.config, room, console)
    search = make_search(sitting, room, left_out)
    tuner = make_tuner(context, search, plan, _tune_path(sitting, files), slots, gpus)
    console.print(_at_once(slots, sitting.config.cpus_per_trial, gpus), highlight=False)
    cases = 1 if sitting.space.is_grid else len(sitting.config.cases)
    interrupts.tell(search.stopping.set, fits=True)
    with _stopping_without(sitting.lease, search):
        make_encoders(sitting.encoders, context, (slots, gpus), search, left_out, console)
        if not search.stopping.is_set():
            with ProgressLine(console, plan.total, cases, partial(_snapshot, search)):
                tuner.fit()
    if search.fatal:
        raise StorageError(search.fatal)
    return search.exhausted


def make_context(sitting: Sitting, room: Room) -> StudyContext:
    """What the workers of a study need to know."""
    return StudyContext(
        study=dataclasses.replace(sitting.config, gpus_per_trial=room.gpus),
        inputs=sitting.inputs,
        last_stage_change=max(sitting.space.values_of("autoencoder_iterations")),
        rungs=count_rungs(sitting.config, sitting.space),
        environment=code_environment(),
        driver=sitting.lease.name,
        demands=room.demands,
        asked=room.asked,
    )


def make_search(sitting: Sitting, room: Room, left_out: LeftOut | None = None) -> OptunaSearch:
    """What suggests the trials that are left, for so much room."""
    config, ledger = sitting.config, Ledger(Storage(sitting.config.storage))
    return OptunaSearch(
        sitting.space,
        partial(cases_of, config, sitting.inputs),
        sitting.plan.trials,
        partial(keep_trial, sitting.folder, ledger, config.objective),
        sitting.journal,
        config.sampler_seed,
        partial(is_taken, ledger, config.name),
        sitting.plan.counted,
        new=sitting.plan.new,
        left_out=left_out,
        retries=config.retries,
        waiting=waiting_trials(sitting.plan, ledger, room.slots),
        gpus=room.gpus or 0.0,
    )


def make_tuner(
    context: StudyContext,
    search: OptunaSearch,
    plan: Plan,
    storage_path: str,
    slots: int,
    gpus: float,
    make_fit: type[Fit] = Fit,
) -> tune.Tuner:
    """Tune's part of the study.

    Args:
        context: what its workers need to know.
        search: suggests configurations.
        plan: what is left to do.
        storage_path: where Ray keeps its own files while it runs.
        slots: trials at once.
        gpus: of each.
        make_fit: what does a fit.
    """
    stops = context.study.early_stopping and plan.wanted is not None
    resources = partial(placement, context.study.cpus_per_trial, gpus)
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, context=context, make_fit=make_fit), resources
        ),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=make_scheduler(context.rungs if stops else 1, plan.trials),
            num_samples=-1,  # The search says when there is no more; a trial may come back.
            max_concurrent_trials=slots,
            # Nothing of a fit outlives its process: in one that is used again, memory does.
            reuse_actors=False,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage_path,
            verbose=0,
            callbacks=[search.deaths],
            stop=EndOfWaiting(search),
            failure_config=tune.FailureConfig(max_failures=0),  # The search has them come back.
        ),
    )


class EndOfWaiting(tune.Stopper):
    """Ends Tune once the sitting is to end and the trials that ran have left off by themselves.
    It would go on until those had run, too, that wait for a place, for hours perhaps.

    Args:
        search: whose `stopping` says that the sitting is to end.
    """

    def __init__(self, search: OptunaSearch) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial ends for what it reports."""
        return False

    def stop_all(self) -> bool:
        """Whether nothing runs that must be waited for."""
        return self._search.stopping.is_set() and not self._search.deaths.any_has_place()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it might restore, which no study does."""
        return {}


def _tune_path(sitting: Sitting, files: str) -> str:
    """Where Ray keeps its own files: workers of a cluster must see it, so that it is content."""
    if not os.environ.get("RAY_ADDRESS"):
        return files
    return sitting.folder.storage.uri(f"{sitting.folder.path}/ray")


@contextmanager
def _stopping_without(lease: Lease, search: Ending) -> Iterator[None]:
    """Ends the sitting when another driver has taken the study over, thinking this one dead; and
    tells the workers to leave off when nothing can be kept any more."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if lease.lost.is_set():
                search.fatal = "another driver took this study over, or the storage was away"
                search.stopping.set()
                return
            if search.fatal:
                lease.say(stopping=True)
                return

    thread = threading.Thread(target=watch, name="driver-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def count_rungs(config: StudyConfig, space: Space) -> int:
    """Where a trial's objective is looked at, its end included.

    Whole cases; or, where a trial has one case, the evaluations after the latest change of stage
    that a configuration of the space can have.
    """
    if len(config.cases) > 1 and not space.is_grid:
        return len(config.cases)
    every = min(space.values_of("evaluate_every"))
    return max(1, -(-max(space.values_of("head_iterations")) // every))


def keep_trial(
    folder: StudyFolder, ledger: Ledger, objective: str | None, record: TrialRecord
) -> TrialRecord:
    """Writes a trial's record with what it spent, and into its fits what its worker could not: that
    they ended with it."""
    if record.decided:
        record = _ended_with_its_fits(folder.name, ledger, record)
    folder.write_trial(record, objective)
    folder.count_trial(record.number)
    return record


def _ended_with_its_fits(study: str, ledger: Ledger, record: TrialRecord) -> TrialRecord:
    # One that cannot be read is mended by the next sitting.
    fits, _ = ledger.read_all([case.key for case in record.cases])
    own = [fit for fit in fits if fit.study == study]
    for fit in own:
        if record.machine_failed and fit.status == BEGUN and fit.error:
            reason = f"{fit.category}, seed {fit.seed}: {fit.error}"
            record = dataclasses.replace(record, error=reason)
    for fit in own:
        if (ended := ended_with(record, fit)) is not fit:
            ledger.write(ended)
    # Also of a fit that another study has gone on with since.
    return dataclasses.replace(record, spent=sum(fit.spent_by(study) for fit in fits))


def is_taken(ledger: Ledger, study: str, record: TrialRecord) -> bool:
    """Whether a trial's first fit that is not finished is worked at by another study."""
    try:
        for case in record.cases:
            fit = ledger.read(case.key)
            if fit is None or fit.status == BEGUN:
                holder = fit and current_holder(ledger.storage, ledger.folder(case.key))
                return bool(holder) and holder.get("study") != study
    except (LedgerError, StorageError):
        pass  # It decides an order only; a storage that is away is met where the trial is written.
    return False


def _trial_name(trial: tune.experiment.Trial) -> str:
    # One that came back is another of Tune's, with a folder of its own.
    return f"trial-{trial.config['trial_number']}-{trial.trial_id}"


def _snapshot(search: OptunaSearch) -> Snapshot:
    records = [record for record in search.records.values() if record.state != RETIRED]
    return Snapshot(records, dict(search.fractions))


def _at_once(slots: int, cpus: int, gpus: float) -> str:
    cores = f"{cpus} core{'s' * (cpus != 1)}"
    gpu = f" and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else ""
    return f"{slots} trial{'s' * (slots != 1)} at once, {cores}{gpu} each"
