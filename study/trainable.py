"""The one place where Ray meets ffcad: what a worker does for a trial, and what it reports."""

import contextlib
import dataclasses
import logging
import os
import time
from statistics import fmean
from typing import Any

import torch
from ray import tune

from ffcad.config import TrainConfig
from study.context import StudyContext
from study.failures import WrongNode, lacks_memory
from study.fits import Fit
from study.lease_holders import STALE_SECONDS, Follower
from study.ledger import BEGUN, FAILED, FINISHED
from study.nodes import check_this_node, this_node, wrong_node
from study.outages import LIMIT_SECONDS, Outages, waiting_out
from study.packing import gpus_of_trial, keep_to_share, larger_share
from study.reports import (
    ERROR,
    FATAL,
    FINAL,
    FRACTION,
    INTERRUPTED,
    MORE_GPU,
    NODE,
    OBJECTIVE,
    RUNG,
)
from study.storage import Storage, StorageError
from study.trials import Case

# Seconds between signs of life to Tune, and between looks at the driver's lease.
HEARTBEAT_SECONDS, LOOK_SECONDS = 3.0, 1.0

logger = logging.getLogger(__name__)


def run_trial(config: dict[str, Any], context: StudyContext, make_fit: type[Fit] = Fit) -> None:
    """Ray's function trainable: fits a configuration on its cases and reports to Tune.

    Reports the mean objective of the cases finished so far, at whole cases; where there is one
    case only, at its evaluations in stage two. A configuration that cannot work is reported, not
    raised: what raises is tried again, and that is for workers that die.

    Args:
        config: {'configuration': every knob, 'cases': each as a dict, 'trial_number': its
            record's, 'gpus': its larger share of a GPU, or None}.
        context: the study's.
        make_fit: what does a fit; one that trains nothing shows what all the rest costs.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)  # Would override the parents of nested runs.
    context = _with_own_share(context, config["gpus"])
    torch.set_num_threads(context.study.cpus_per_trial)
    keep_to_share(context.study.gpus_per_trial)
    try:
        with waiting_out(Outages(logger.warning)):
            check_this_node(context)
            _walk_cases(config, context, make_fit)
    except StorageError as e:
        tune.report({FATAL: str(e), FINAL: True})
    except WrongNode as e:
        tune.report({**wrong_node(e), FINAL: True})
    except Exception as e:
        if not (context.more_memory and lacks_memory(e)):
            raise
        tune.report({MORE_GPU: larger_share(context.study.gpus_per_trial), FINAL: True})


def _with_own_share(context: StudyContext, gpus: float | None) -> StudyContext:
    """The context with the GPUs of this trial, and whether it may come back with more of them.

    Args:
        context: the study's.
        gpus: that the trial came back for, or None.
    """
    own = gpus_of_trial(context.study.gpus_per_trial or 0.0, gpus)
    study = dataclasses.replace(context.study, gpus_per_trial=own)
    more = gpus is None and larger_share(own) is not None
    return dataclasses.replace(context, study=study, more_memory=more)


def _walk_cases(config: dict[str, Any], context: StudyContext, make_fit: type[Fit]) -> None:
    """Fits a configuration on one case after the other, until one does not finish."""
    configuration = TrainConfig.from_dict(config["configuration"])
    cases = [Case(**case) for case in config["cases"]]
    watch = DriverWatch(context)
    context = context.of_worker(f"trial {config['trial_number']}")
    scores: list[float] = []
    for case in cases:
        fit = make_fit(context, config["trial_number"], configuration, case)
        _fit_and_report(fit, watch, len(scores), len(cases))
        record = fit.record
        if record.status == FAILED:
            tune.report({ERROR: f"{case.category}, seed {case.seed}: {record.error}", FINAL: True})
            return
        if record.status == BEGUN:
            tune.report({INTERRUPTED: True, FINAL: True})
            return
        scores.append(record.metrics[context.study.objective])
        final = len(scores) == len(cases)
        tune.report(
            {
                OBJECTIVE: fmean(scores),
                RUNG: context.rungs if final else len(scores),
                FINAL: final,
                FRACTION: len(scores) / len(cases),
            }
        )


class DriverWatch:
    """Tells a worker when to leave off: its driver was asked to end, or is no more.

    Args:
        context: with the driver's lease.
    """

    def __init__(self, context: StudyContext) -> None:
        storage = Storage(context.study.storage).at_once
        # It may have no way to the storage where we have one, and it waits, too.
        stale = STALE_SECONDS + LIMIT_SECONDS
        self._follower = context.driver and Follower(storage, context.driver, stale)
        self._looked, self._over = time.monotonic(), False

    def is_over(self) -> bool:
        """Looks now and then; cheap in between."""
        if self._follower and not self._over and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(StorageError):  # The fit's own writing will tell.
                holder = self._follower.holder()
                self._over = holder is None or holder.get("stopping", False)
        return self._over


def _fit_and_report(fit: Fit, watch: DriverWatch, before: int, cases: int) -> None:
    """Runs one fit of a trial; reports its rungs if it is the only one, and signs of life.

    Args:
        fit: to be run; its record says what came of it, begun if it was left off.
        watch: tells when to leave off.
        before: cases that the trial has finished.
        cases: of the trial.
    """
    last_report, passed, node = time.monotonic(), 0, this_node()
    # Closed, because leaving off in the middle writes a checkpoint and gives the lease back.
    with contextlib.closing(fit.run()) as run:
        for progress in run:
            if progress and progress.final:
                continue
            done = progress.iteration / progress.iterations if progress else 0.0
            alive = {FRACTION: (before + done) / cases, NODE: node}
            if cases == 1 and progress and progress.metrics is not None:
                passed, last_report = _report_rungs(fit, passed, alive), time.monotonic()
            if time.monotonic() - last_report > HEARTBEAT_SECONDS:
                tune.report(alive)
                last_report = time.monotonic()
            if watch.is_over():
                return
    if cases == 1 and fit.record.status == FINISHED:
        # One that was finished before passes its rungs too, so that all trials have them.
        _report_rungs(fit, passed, {FRACTION: 1.0})


def _report_rungs(fit: Fit, passed: int, alive: dict[str, Any]) -> int:
    """Reports the rungs after the last one that was passed, but the end; returns the last one now.

    From the record: Ray has forgotten those of an earlier sitting.
    """
    for entry in fit.record.history:
        rung = fit.context.rung(fit.configuration, entry["iteration"])
        if passed < rung and entry["iteration"] < fit.record.iterations:
            passed = rung
            value = entry[fit.context.study.objective]
            tune.report({**alive, OBJECTIVE: value, RUNG: rung, FINAL: False})
    return passed
