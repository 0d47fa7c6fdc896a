"""One fit against the ledger, from wherever it stands: no Ray, no MLflow.

    fit = Fit(context, trial_number, configuration, case)
    for progress in fit.run():
        print(fit.record.status, fit.record.iteration)

Checkpoint and record are on the storage before anything of them is told, so a kill at any moment
loses at most one evaluation interval.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ffcad.checkpoint import CheckpointError, OtherEncoder, UnreadableCheckpoint
from ffcad.config import ConfigError, TrainConfig
from ffcad.curves import curves_picture, curves_table, split_curves
from ffcad.datasets import CategoryData, Textures, load_textures
from ffcad.metrics import MetricError
from ffcad.pictures import case_sheet
from ffcad.predictor import predict
from ffcad.training import HEAD, METHOD_VERSION, NonFiniteLoss, Progress, train
from ffcad.type_metrics import metrics_by_type
from study.context import StudyContext
from study.data import load_data
from study.encoder_making import encoder_file
from study.encoders import EncoderError
from study.failures import WrongNode
from study.leased_work import LeasedWork
from study.leases import Lease
from study.ledger import (
    BEGUN,
    CHECKPOINT,
    FINISHED,
    PICTURES,
    FitRecord,
    Ledger,
    LedgerError,
)
from study.machine import SystemSampler, peak_memory_mb, reset_peak_memory, worker_environment
from study.storage import Storage
from study.trials import Case

PICTURE_ROWS = 2
# What a configuration does on every machine: not tried again. Images and weights are not among
# it, because the driver has read them: it is this machine that cannot.
HOPELESS = (CheckpointError, ConfigError, EncoderError, MetricError, NonFiniteLoss)
# What a fit that goes on keeps of its record.
KEPT = (
    "metrics",
    "history",
    "iteration",
    "best_iteration",
    "seconds",
    "writing_seconds",
    "peak_memory_mb",
    "system",
    "sittings",
    "notes",
    "began",
)

logger = logging.getLogger(__name__)


class Fit(LeasedWork[Progress]):
    """A configuration on a case, as a worker does it.

    Its iterator also yields None while the encoder is made that it needs.

    Args:
        context: the study's.
        trial: the number of the fit's trial.
        configuration: what is trained.
        case: on what.
    """

    noun, kept, hopeless = "fit", KEPT, HOPELESS

    def __init__(
        self, context: StudyContext, trial: int, configuration: TrainConfig, case: Case
    ) -> None:
        self.trial, self.configuration, self.case = trial, configuration, case
        self.ledger = Ledger(Storage(context.study.storage))
        super().__init__(context, self.ledger, case.key, {"trial": trial})

    def _take_up(self) -> None:
        # What another study did of it is that one's to tell, and from now on not in the record.
        with contextlib.suppress(LedgerError):
            before = self.ledger.read(self.key)
            if before is not None and before.study != self.context.study.name:
                self.ledger.leave(before)
        super()._take_up(trial=self.trial)

    def _worked(self, lease: Lease) -> Iterator[Progress | None]:
        """Samples the machine's load meanwhile."""
        self._sampler = SystemSampler(self.record.system)
        try:
            yield from super()._worked(lease)
        finally:
            self._sampler.stop()

    def _sampled(self) -> dict[str, Any]:
        return {"system": self._sampler.samples()}

    def _done_in(self, folder: Path, lease: Lease) -> Iterator[Progress | None]:
        self._category = self._data()
        configuration = self.configuration
        if need := self.context.inputs.encoder_need(configuration):
            # The record keeps the word for it: where the weights lie is this machine's affair.
            weights = yield from encoder_file(self.context, need, folder)
            configuration = dataclasses.replace(configuration, encoder_weights=str(weights))
        reset_peak_memory()
        training = self._training(configuration, self._category, folder / CHECKPOINT, lease)
        yield from self._followed(training, folder, lease)

    def _keep(self, progress: Progress, folder: Path) -> None:
        """What an evaluation leaves; at the end pictures too, and that it is finished."""
        if progress.metrics is None:
            return
        self._keep_progress(progress, folder / CHECKPOINT)
        if progress.final:
            types = self._look_at_report(self._category, progress, folder)
            for name in PICTURES:
                if (folder / name).is_file():
                    self.ledger.keep(self.key, folder / name)
            self._write(status=FINISHED, ended=time.time(), error=None, report_types=types)

    def _training(
        self, configuration: TrainConfig, data: CategoryData, checkpoint: Path, lease: Lease
    ) -> Iterator[Progress]:
        """The training from its last good checkpoint, or from the beginning.

        On a local storage the checkpoint is the ledger's own: who was succeeded must not write it.
        """
        textures = _textures(self.context, configuration)
        made = self.context.inputs.encoder_need(self.configuration) is not None
        first, training, changes = self._resumed(
            lambda: train(
                configuration,
                data,
                self.case.seed,
                textures=textures,
                checkpoint=checkpoint,
                before_save=lease.check,
            ),
            checkpoint,
            # An encoder that was removed and made again may differ in the last bits.
            (UnreadableCheckpoint, OtherEncoder) if made else (UnreadableCheckpoint,),
        )
        found = {"images": _counts(data), "encoder": first.encoder_digest}
        # The last sitting may have been killed before it had kept its best, or had said so.
        known = [e for e in first.history if e["iteration"] <= first.resumed_at]
        best = self._keep_best(first.resumed_at, [] if first.note else known)
        self._write(**changes, inputs={**self.record.inputs, **found}, best_iteration=best)
        return training

    def _keep_progress(self, progress: Progress, checkpoint: Path) -> None:
        """Checkpoint and record of an evaluation onto the storage, in this order."""
        started = time.perf_counter()
        self.ledger.keep(self.case.key, checkpoint)
        best = self._keep_best(progress.iteration, progress.history)
        writing = self.record.writing_seconds + time.perf_counter() - started
        started = time.perf_counter()
        self._write(
            metrics=progress.metrics,
            history=self._timed(progress.history),
            iteration=progress.iteration,
            best_iteration=best,
            seconds=progress.seconds,
            writing_seconds=writing,
            peak_memory_mb=max(self.record.peak_memory_mb, peak_memory_mb()),
            **self._sampled(),
        )
        # Shows in the next record.
        self.record = dataclasses.replace(
            self.record, writing_seconds=writing + time.perf_counter() - started
        )

    def _keep_best(self, iteration: int, history: list[dict[str, Any]]) -> int | None:
        """Keeps the checkpoint, where that is asked for and its evaluation is the best of stage
        two.

        Args:
            iteration: of the checkpoint that the storage has.
            history: the evaluations up to it.

        Returns:
            The iteration of the best one that is kept; None where none is.
        """
        objective = self.context.study.objective
        values = {e["iteration"]: e[objective] for e in history if e["stage"] == HEAD}
        if self.context.study.log_checkpoints != "best" or iteration not in values:
            return self.record.best_iteration
        # Among all of them, those too of a sitting that kept none; of equal ones the first.
        if max(values, key=lambda one: (values[one], -one)) == iteration:
            self.ledger.keep_best(self.case.key)
            return iteration
        return self.record.best_iteration

    def _look_at_report(
        self, data: CategoryData, progress: Progress, folder: Path
    ) -> dict[str, dict[str, float]]:
        """Draws sheets and curves of the report split, and gives the metrics of its defect types; a
        fit is not lost because one of them cannot be had."""
        record, split = self.record, data.report
        types: dict[str, dict[str, float]] = {}
        title = f"{record.category}, seed {record.seed}, configuration {record.digest}"
        title += " (random encoder weights)" if record.random_encoder else ""
        try:
            use_head = progress.stage == HEAD
            scores, maps = predict(progress.model, split.images, use_head=use_head)
            types = metrics_by_type(scores, split.labels, split.defect_types, maps, split.masks)
            for name in ("worst", "best"):
                case_sheet(
                    split,
                    scores,
                    maps,
                    folder / f"{name}.png",
                    title=f"{title}: the {name} cases of the report split",
                    rows=PICTURE_ROWS,
                    worst=name == "worst",
                )
            curves = split_curves(scores, split.labels, maps, split.masks)
            curves_picture(curves, folder / "curves.png", f"{title}: report split")
            curves_table(curves, folder / "curves.csv")
        except Exception:
            logger.exception("no pictures of fit %s", record.key)
        return types

    def _data(self) -> CategoryData:
        """The case's images, which must be the driver's."""
        context, size = self.context, self.configuration.image_size
        if context.inputs.method_version != METHOD_VERSION:
            raise WrongNode(
                f"this worker has method version {METHOD_VERSION}, the driver "
                f"{context.inputs.method_version}; install the same code on every machine"
            )
        data = load_data(context.study, self.case.category, size)
        if data.digest != context.inputs.data[f"{self.case.category}@{size}"]:
            raise WrongNode(
                f"this worker's files of {self.case.category} are not the driver's; --data-root "
                "must hold the same on every machine"
            )
        return data

    def _fresh(self) -> FitRecord:
        """The record of a fit that nobody began."""
        context, configuration, case = self.context, self.configuration, self.case
        return FitRecord(
            key=case.key,
            status=BEGUN,
            study=context.study.name,
            trial=self.trial,
            configuration=configuration.to_dict(),
            digest=configuration.digest(),
            category=case.category,
            seed=case.seed,
            select_on=context.study.select_on,
            inputs={
                "data": context.inputs.data[f"{case.category}@{configuration.image_size}"],
                "textures": context.inputs.textures.get(str(configuration.image_size)),
                "weights": context.inputs.weights_of(configuration),
                "method_version": context.inputs.method_version,
            },
            iterations=configuration.iterations,
            environment={**context.environment, **worker_environment()},
            began=time.time(),
        )


def _counts(data: CategoryData) -> dict[str, int]:
    return {name: len(getattr(data, name).images) for name in ("train", "select", "report")}


def _textures(context: StudyContext, configuration: TrainConfig) -> Textures | None:
    if context.study.textures is None:
        return None
    return load_textures(Path(context.study.textures), configuration.image_size)
