"""The one place where Ray meets ffcad: what a worker does for a trial.

`fit_case` knows nothing of Ray: it does one fit against the ledger, from wherever it stands.
`run_trial` walks a trial's cases with it and reports to Tune. A record is on the storage before
anything of it is reported, so a kill at any moment loses at most one evaluation interval.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ray import tune

from ffcad.checkpoint import CheckpointError
from ffcad.config import ConfigError, TrainConfig
from ffcad.datasets import CategoryData, DataError, Textures, load_textures
from ffcad.encoder_weights import WeightsError
from ffcad.metrics import MetricError
from ffcad.pictures import case_sheet
from ffcad.predictor import predict
from ffcad.training import HEAD, METHOD_VERSION, NonFiniteLoss, Progress, train
from study.config import StudyConfig
from study.ledger import BEGUN, FAILED, FINISHED, FitRecord, Inputs, Ledger, LedgerError
from study.machine import peak_memory_mb, reset_peak_memory, worker_environment
from study.plan import cases_of, load_data
from study.search import ERROR, FINAL, FRACTION, OBJECTIVE, RUNG
from study.trials import Case

HEARTBEAT_SECONDS = 3.0
PICTURE_ROWS = 2
# What a configuration, or a file that belongs to it, does on every machine: not tried again.
HOPELESS = (
    CheckpointError,
    ConfigError,
    DataError,
    MemoryError,
    MetricError,
    NonFiniteLoss,
    WeightsError,
    torch.OutOfMemoryError,
)

logger = logging.getLogger(__name__)


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
    for case in cases:
        try:
            record = _fit_and_report(job, configuration, case, len(scores), len(cases))
        except LedgerError as e:
            tune.report({ERROR: f"{case.category}, seed {case.seed}: {e}", FINAL: True})
            return
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


def _fit_and_report(
    job: Job, configuration: TrainConfig, case: Case, before: int, cases: int
) -> FitRecord:
    """One fit of a trial; reports its rungs if it is the only one, and signs of life.

    Args:
        job, configuration, case: what `fit_case` takes.
        before: cases that the trial has finished.
        cases: of the trial.
    """
    last_report, passed = time.monotonic(), 0
    for record, progress in fit_case(job, configuration, case):
        if progress is None:
            break
        alive = {FRACTION: (before + progress.iteration / progress.iterations) / cases}
        evaluated = progress.metrics is not None and not progress.final
        if cases == 1 and evaluated:
            # All rungs so far: Ray has forgotten those that an earlier sitting passed.
            for entry in record.history:
                rung = job.rung(configuration, entry["iteration"])
                if rung > passed:
                    passed = rung
                    value = entry[job.study.objective]
                    tune.report({**alive, OBJECTIVE: value, RUNG: rung, FINAL: False})
                    last_report = time.monotonic()
        if time.monotonic() - last_report > HEARTBEAT_SECONDS:
            tune.report(alive)
            last_report = time.monotonic()
    return record


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
        data = _data(job, configuration, case)
        textures = _textures(job, configuration)
        checkpoint = ledger.checkpoint(case.key)
        reset_peak_memory()
        for progress in train(
            configuration, data, case.seed, textures=textures, checkpoint=checkpoint
        ):
            if progress.metrics is not None:
                record = _with_progress(record, progress)
                if progress.final:
                    _draw(ledger, record, data, progress)
                    record = dataclasses.replace(record, status=FINISHED, ended=time.time())
                ledger.write(record)
            yield record, progress
    except Exception as e:
        error = " ".join(f"{type(e).__name__}: {e}".split())[:500]
        record = dataclasses.replace(record, error=error)
        if not isinstance(e, HOPELESS):
            # A machine's trouble: Tune tries again, and the record tells why if that fails too.
            ledger.write(record)
            raise
        record = dataclasses.replace(record, status=FAILED, ended=time.time())
        ledger.write(record)
    yield record, None


def _data(job: Job, configuration: TrainConfig, case: Case) -> CategoryData:
    """The case's images, which must be the driver's."""
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
    return data


def _textures(job: Job, configuration: TrainConfig) -> Textures | None:
    if job.study.textures is None:
        return None
    return load_textures(Path(job.study.textures), configuration.image_size)


def _draw(ledger: Ledger, record: FitRecord, data: CategoryData, progress: Progress) -> None:
    """The sheets of the report split; a fit is not lost because one cannot be drawn."""
    try:
        use_head = progress.stage == HEAD
        scores, maps = predict(progress.model, data.report.images, use_head=use_head)
        for name, path in ledger.pictures(record.key).items():
            case = f"{record.category}, seed {record.seed}, configuration {record.digest}"
            case += " (random encoder weights)" if record.random_encoder else ""
            case_sheet(
                data.report,
                scores,
                maps,
                path,
                title=f"{case}: the {name} cases of the report split",
                rows=PICTURE_ROWS,
                worst=name == "worst",
            )
    except Exception:
        logger.exception("no pictures of fit %s", record.key)


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
