"""Ray Tune as a study uses it: started, told how much runs at once, and fed by `OptunaSearch`.

Ray's own snapshots, checkpoints, loggers and console are switched off: the ledger does their work.
"""

import dataclasses
import logging
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import ray
from ray import tune
from rich.console import Console

from study.config import StudyConfig, StudyError
from study.console import ProgressLine, Snapshot
from study.ledger import BEGUN, FAILED, STOPPED, Inputs, Ledger, LedgerError
from study.machine import code_environment
from study.plan import Plan, cases_of
from study.search import OptunaSearch, make_scheduler
from study.spaces import Space
from study.trainable import Job, run_trial
from study.trials import StudyFolder, TrialRecord

# A worker process that dies is tried again this often; its fit goes on from its checkpoint.
RETRIES = 2
# Nothing passes through Ray's shared memory but small dictionaries; bytes.
OBJECT_STORE = 200_000_000


def tune_study(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    folder: StudyFolder,
    plan: Plan,
    console: Console,
) -> bool:
    """Starts Ray, unless it runs already, and runs the trials that are left.

    Args:
        config: the study.
        space: its search space.
        inputs: digests of what goes into its fits.
        folder: its documents.
        plan: what is left.
        console: shows the progress.

    Returns:
        Whether the search space ran out of configurations.

    Raises:
        StudyError: if the machine cannot hold one trial.
    """
    own = not ray.is_initialized()
    if own:
        with console.status("starting Ray"):
            start_ray()
    try:
        slots, gpus = concurrency(config, ray.cluster_resources())
        job = Job(
            study=config,
            inputs=inputs,
            last_stage_change=max(space.values_of("autoencoder_iterations")),
            rungs=count_rungs(config, space),
            environment=code_environment(),
        )
        search = OptunaSearch(
            space,
            partial(cases_of, config, inputs),
            plan.trials,
            partial(keep_trial, folder, Ledger(Path(config.storage))),
            config.sampler_seed,
        )
        tuner = make_tuner(job, search, plan, folder, slots, gpus)
        console.print(_at_once(slots, config.cpus_per_trial, gpus), highlight=False)
        # Ray ends well on an interrupt; what else asks the process to end asks for the same.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        total = len(plan.trials) + plan.new
        with ProgressLine(console, total, len(config.cases), partial(_snapshot, search)):
            tuner.fit()
        return search.exhausted
    finally:
        if own:
            ray.shutdown()
        shutil.rmtree(folder.path / "tune", ignore_errors=True)


def make_tuner(
    job: Job, search: OptunaSearch, plan: Plan, folder: StudyFolder, slots: int, gpus: float
) -> tune.Tuner:
    """Tune's part of the study.

    Args:
        job: what its workers need to know.
        search: suggests configurations.
        plan: what is left to do.
        folder: below it Ray keeps its own files while it runs.
        slots: trials at once.
        gpus: of each.
    """
    rungs = job.rungs if job.study.early_stopping else 1
    resources = {"cpu": job.study.cpus_per_trial, "gpu": gpus}
    shutil.rmtree(folder.path / "tune", ignore_errors=True)
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=job), resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=make_scheduler(rungs, plan.trials),
            num_samples=plan.left,
            max_concurrent_trials=slots,
            # A function's GPU memory may outlive it in an actor that is used again.
            reuse_actors=gpus == 0,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )


def start_ray() -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray on this machine alone.

    Raises:
        StudyError: if the cluster does not answer, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if not address:
        # "local" keeps away from other people's Ray on this machine.
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        where = f"Ray at RAY_ADDRESS={address} does not answer" if address else "Ray does not start"
        # The reason may be a whole traceback, whose last line says it.
        reason = str(e.__cause__ or e).strip().splitlines()[-1]
        raise StudyError(f"{where}: {reason[:300]}") from e


def concurrency(config: StudyConfig, resources: dict[str, float]) -> tuple[int, float]:
    """How many trials run at once, and the GPUs of each.

    Args:
        config: what was asked for.
        resources: of the cluster, as Ray counts them.

    Raises:
        StudyError: if not even one trial fits.
    """
    cpus, all_gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    gpus = config.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if all_gpus else 0.0
    slots = int(cpus // config.cpus_per_trial)
    if slots == 0:
        raise StudyError(f"--cpus-per-trial {config.cpus_per_trial}: there are {cpus:g} cores")
    if gpus > 0:
        slots = min(slots, int(all_gpus / gpus + 1e-6))
        if slots == 0:
            raise StudyError(f"--gpus-per-trial {gpus:g}: there are {all_gpus:g} GPUs")
    return min(slots, config.max_concurrent or slots), gpus


def count_rungs(config: StudyConfig, space: Space) -> int:
    """Where a trial's objective is looked at, its end included.

    Whole cases; or, where there is one case, the evaluations after the latest change of stage that
    a configuration of the space can have.
    """
    if len(config.cases) > 1:
        return len(config.cases)
    every = min(space.values_of("evaluate_every"))
    return max(1, -(-max(space.values_of("head_iterations")) // every))


def keep_trial(folder: StudyFolder, ledger: Ledger, record: TrialRecord) -> None:
    """Writes a trial's record, and ends those of its fits that its worker could not end itself."""
    for case in record.cases if record.state in (STOPPED, FAILED) else ():
        try:
            fit = ledger.read(case.key)
        except LedgerError:
            continue  # The trial's own reason says so.
        if fit is None or fit.status != BEGUN or fit.study != folder.path.name:
            continue
        if record.machine_failed and fit.error:
            reason = f"{case.category}, seed {case.seed}: {fit.error}"
            record = dataclasses.replace(record, error=reason)
        outcome = {"status": record.state, "ended": record.ended}
        if record.state == FAILED:
            outcome["error"] = fit.error or record.error
        ledger.write(dataclasses.replace(fit, **outcome))
    folder.write_trial(record)


def _trial_name(trial: tune.experiment.Trial) -> str:
    return f"trial-{trial.config['trial_number']}"


def _snapshot(search: OptunaSearch) -> Snapshot:
    return Snapshot(list(search.records.values()), dict(search.fractions))


def _at_once(slots: int, cpus: int, gpus: float) -> str:
    cores = f"{cpus} core{'s' * (cpus != 1)}"
    gpu = f" and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else ""
    return f"{slots} trial{'s' * (slots != 1)} at once, {cores}{gpu} each"
