"""The one place where Ray meets ffcad: what a worker does for a trial.

`fit_case` knows nothing of Ray: it does one fit against the ledger, from wherever it stands.
`run_trial` walks a trial's cases with it and reports to Tune. A record is on the storage before
anything of it is reported, so a kill at any moment loses at most one evaluation interval.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ray import tune

from ffcad.config import TrainConfig
from ffcad.datasets import load_textures
from ffcad.training import METHOD_VERSION, Progress, train
from study.config import StudyConfig
from study.ledger import BEGUN, FAILED, FINISHED, FitRecord, Inputs, Ledger
from study.machine import peak_memory_mb, reset_peak_memory, worker_environment
from study.plan import cases_of, load_data
from study.search import ERROR, FINAL, FRACTION, OBJECTIVE, RUNG
from study.trials import Case

HEARTBEAT_SECONDS = 3.0


@dataclass(frozen=True)
class Job:
    """What every trial of a study has in common; small, and pickled once.

    Attributes:
        study: with absolute paths.
        inputs: digests that the worker's own data must agree with.
        last_stage_change: the latest iteration, of all configurations, at which stage two begins.
        rungs: of a whole trial.
        environment: of the driver: git revision and whether the tree was dirty.
    """

    study: StudyConfig
    inputs: Inputs
    last_stage_change: int
    rungs: int
    environment: dict[str, Any]

    def rung(self, config: TrainConfig, iteration: int) -> int:
        """Evaluations since the latest possible change of stage; 0 or less before it."""
        return (iteration - self.last_stage_change) // config.evaluate_every


def run_trial(config: dict[str, Any], job: Job) -> None:
    """Ray's function trainable: fits a configuration on its cases and reports to Tune.

    Reports the mean objective of the cases finished so far, at whole cases; where there is one
    case only, at its evaluations in stage two. A configuration that cannot work is reported, not
    raised: Tune tries again what raises, and that is for workers that die.

    Args:
        config: {'configuration': every knob, 'trial_number': its record's}.
        job: the study's.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)  # Would override the parents of nested runs.
    torch.set_num_threads(job.study.cpus_per_trial)
    configuration = TrainConfig.from_dict(config["configuration"])
    cases = cases_of(job.study, job.inputs, configuration)
    scores: list[float] = []
    last_word = time.monotonic()
    for case in cases:
        for record, progress in fit_case(job, configuration, case):
            fraction = (len(scores) + record.iteration / record.iterations) / len(cases)
            at_rung = progress is not None and progress.metrics is not None and not progress.final
            rung = job.rung(configuration, progress.iteration) if at_rung else 0
            if len(cases) == 1 and rung >= 1:
                value = record.metrics[job.study.objective]
                tune.report({OBJECTIVE: value, RUNG: rung, FINAL: False, FRACTION: fraction})
            elif progress is not None and time.monotonic() - last_word > HEARTBEAT_SECONDS:
                iteration = progress.iteration / progress.iterations
                tune.report({FRACTION: (len(scores) + iteration) / len(cases)})
            else:
                continue
            last_word = time.monotonic()
        if record.status == FAILED:
            tune.report({ERROR: f"{case.category}, seed {case.seed}: {record.error}", FINAL: True})
            return
        scores.append(record.metrics[job.study.objective])
        final = len(scores) == len(cases)
        tune.report(
            {
                OBJECTIVE: fmean(scores),
                RUNG: job.rungs if final else len(scores),
                FINAL: final,
                FRACTION: len(scores) / len(cases),
            }
        )


def fit_case(
    job: Job, configuration: TrainConfig, case: Case
) -> Iterator[tuple[FitRecord, Progress | None]]:
    """One fit: taken from the ledger if finished, gone on with if begun or stopped, or done anew.

    Args:
        job: the study's.
        configuration: what is trained.
        case: on what.

    Yields:
        The record as it stands, and the training's progress; (record, None) at the end, when the
        record is finished or failed. What the record says is on the storage by then.
    """
    ledger = Ledger(Path(job.study.storage))
    known = ledger.read(case.key)
    if known is not None and known.status == FINISHED:
        yield known, None
        return
    record = _begun(job, configuration, case, known)
    ledger.write(record)
    try:
        for progress in _training(job, configuration, case, ledger.checkpoint(case.key)):
            if progress.metrics is not None:
                record = _with_progress(record, progress)
                if progress.final:
                    record = dataclasses.replace(record, status=FINISHED, ended=time.time())
                ledger.write(record)
            yield record, progress
    except Exception as e:
        # Whatever it is, trying again would end the same way; the reason belongs to the record.
        error = " ".join(f"{type(e).__name__}: {e}".split())[:500]
        record = dataclasses.replace(record, status=FAILED, error=error, ended=time.time())
        ledger.write(record)
    yield record, None


def _training(
    job: Job, configuration: TrainConfig, case: Case, checkpoint: Path
) -> Iterator[Progress]:
    if job.inputs.method_version != METHOD_VERSION:
        raise RuntimeError(
            f"this worker has method version {METHOD_VERSION}, the driver "
            f"{job.inputs.method_version}; install the same code on every machine"
        )
    data = load_data(job.study, case.category, configuration.image_size)
    if data.digest != job.inputs.data[f"{case.category}@{configuration.image_size}"]:
        raise RuntimeError(
            f"this worker's files of {case.category} are not the driver's; --data-root must hold "
            "the same on every machine"
        )
    textures = None
    if job.study.textures is not None:
        textures = load_textures(Path(job.study.textures), configuration.image_size)
    reset_peak_memory()
    yield from train(configuration, data, case.seed, textures=textures, checkpoint=checkpoint)


def _begun(job: Job, configuration: TrainConfig, case: Case, known: FitRecord | None) -> FitRecord:
    """A record of a fit that starts, or that goes on from an earlier sitting's."""
    now = time.time()
    fresh = FitRecord(
        key=case.key,
        status=BEGUN,
        study=job.study.name,
        configuration=configuration.to_dict(),
        digest=configuration.digest(),
        category=case.category,
        seed=case.seed,
        select_on=job.study.select_on,
        inputs={
            "data": job.inputs.data[f"{case.category}@{configuration.image_size}"],
            "textures": job.inputs.textures.get(str(configuration.image_size)),
            "weights": job.inputs.weights[configuration.encoder_weights],
            "method_version": job.inputs.method_version,
        },
        iterations=configuration.iterations,
        environment={**job.environment, **worker_environment()},
        began=now,
    )
    if known is None:
        return fresh
    kept = ("metrics", "history", "iteration", "seconds", "peak_memory_mb", "began")
    return dataclasses.replace(fresh, **{name: getattr(known, name) for name in kept})


def _with_progress(record: FitRecord, progress: Progress) -> FitRecord:
    """The record with the evaluations so far; each keeps the time it was first seen at."""
    times = {entry["iteration"]: entry["time"] for entry in record.history}
    now = time.time()
    history = [{**entry, "time": times.get(entry["iteration"], now)} for entry in progress.history]
    return dataclasses.replace(
        record,
        metrics=progress.metrics,
        history=history,
        iteration=progress.iteration,
        seconds=progress.seconds,
        peak_memory_mb=max(record.peak_memory_mb, peak_memory_mb()),
    )
