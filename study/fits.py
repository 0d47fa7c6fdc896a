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
from study.context import StudyContext
from study.data import load_data
from study.encoder_making import encoder_file
from study.encoders import EncoderError
from study.failures import in_one_line, lacks_memory, raise_if_disk
from study.leases import Lease, LeaseLost, Waiter, describe
from study.ledger import (
    BEGUN,
    CHECKPOINT,
    FAILED,
    FINISHED,
    PICTURES,
    FitRecord,
    Ledger,
    LedgerError,
)
from study.machine import SystemSampler, peak_memory_mb, reset_peak_memory, worker_environment
from study.resuming import resumed
from study.storage import Storage, StorageError
from study.trials import Case

# Seconds between two tries to get a fit that another worker is at.
WAIT_SECONDS = 1.0
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


class Fit:
    """A configuration on a case, as a worker does it.

    Args:
        context: the study's.
        trial: the number of the fit's trial.
        configuration: what is trained.
        case: on what.

    Attributes:
        record: as it stands; what it says is on the storage.
    """

    def __init__(
        self, context: StudyContext, trial: int, configuration: TrainConfig, case: Case
    ) -> None:
        self.context, self.trial, self.configuration, self.case = (
            context,
            trial,
            configuration,
            case,
        )
        self.ledger = Ledger(Storage(context.study.storage))
        self.record = self._fresh()

    def run(self) -> Iterator[Progress | None]:
        """Takes the fit from the ledger if it is finished, else goes on with it or does it anew.

        While another worker is at it, this one waits for the outcome; one that is gone is
        succeeded. Closing the iterator leaves the fit off: its state is written, to go on from.

        Yields:
            The training's progress; None while it waits for another worker, and while the encoder
            is made that it needs. At the end the record is finished or failed.

        Raises:
            StorageError: if the storage fails.
            LeaseLost: if another worker took the fit over, thinking this one dead.
        """
        who = {"study": self.context.study.name, "trial": self.trial}
        waiter = Waiter(self.ledger.storage, self.ledger.folder(self.case.key), who)
        lease = None
        while not self._is_finished():
            lease = waiter.attempt()
            if lease is not None:
                break
            logger.info("fit %s: waiting for %s", self.case.key, describe(waiter.holder))
            yield None
            time.sleep(WAIT_SECONDS)
        if lease is None:
            return
        try:
            # It may have been finished between our look and the lease.
            if not self._is_finished():
                self._take_up()
                yield from self._worked(lease)
        finally:
            if self.record.status == FINISHED:
                lease.forget()
            else:
                lease.release()

    def _is_finished(self) -> bool:
        """Reads the record; one that is not finished is gone on with."""
        notes: list[str] = []
        try:
            known = self.ledger.read(self.case.key)
        except LedgerError as e:
            known = None
            notes = [f"{e}; it was written anew, from the fit's checkpoint if there is one"]
        if known is not None and known.status == FINISHED:
            self.record = known
            return True
        fresh = self._fresh()
        kept = {name: getattr(known or fresh, name) for name in KEPT}
        kept["notes"] = list(dict.fromkeys([*kept["notes"], *self.record.notes, *notes]))
        self.record = dataclasses.replace(fresh, **kept)
        return False

    def _take_up(self) -> None:
        sitting = {
            "began": time.time(),
            "iteration": self.record.iteration,
            "host": self.record.environment["host"],
            "study": self.context.study.name,
            "trial": self.trial,
        }
        self.record = dataclasses.replace(self.record, sittings=[*self.record.sittings, sitting])
        self.ledger.write(self.record)

    def _worked(self, lease: Lease) -> Iterator[Progress]:
        """The fit itself, by the holder of its lease."""
        sampler = SystemSampler(self.record.system)
        try:
            with self.ledger.working_folder(self.case.key) as folder:
                yield from self._trained(lease, sampler, folder)
        except (StorageError, LeaseLost):
            raise
        except Exception as e:
            raise_if_disk(e, self.ledger.storage.where)
            lease.check()
            self._write(error=in_one_line(e), system=sampler.samples())
            if not isinstance(e, HOPELESS) and not lacks_memory(e):
                # A machine's trouble: Tune tries again; the record tells why if that fails too.
                raise
            self._write(status=FAILED, ended=time.time())
        finally:
            sampler.stop()

    def _trained(self, lease: Lease, sampler: SystemSampler, folder: Path) -> Iterator[Progress]:
        """The training in a working folder."""
        data, checkpoint = self._data(), folder / CHECKPOINT
        configuration = self.configuration
        if need := self.context.inputs.encoder_need(configuration):
            # The record keeps the word for it: where the weights lie is this machine's affair.
            weights = yield from encoder_file(self.context, need, folder)
            configuration = dataclasses.replace(configuration, encoder_weights=str(weights))
        reset_peak_memory()
        training = self._training(configuration, data, checkpoint)
        progress = None
        try:
            for progress in training:
                lease.check()
                if progress.metrics is not None:
                    self._keep_progress(progress, sampler, checkpoint)
                    if progress.final:
                        self._draw(data, progress, folder)
                        for name in PICTURES:
                            if (folder / name).is_file():
                                self.ledger.keep(self.case.key, folder / name)
                        self._write(status=FINISHED, ended=time.time(), error=None)
                yield progress
        except LeaseLost as e:
            # To close it would write a checkpoint beside the new holder's.
            with contextlib.suppress(LeaseLost):
                training.throw(e)
            raise
        except GeneratorExit:
            training.close()  # Writes a checkpoint.
            if progress is not None and progress.iteration > self.record.iteration:
                lease.check()
                self.ledger.keep(self.case.key, checkpoint)
                self._write(
                    iteration=progress.iteration,
                    seconds=progress.seconds,
                    system=sampler.samples(),
                )
            raise

    def _training(
        self, configuration: TrainConfig, data: CategoryData, checkpoint: Path
    ) -> Iterator[Progress]:
        """The training from its last good checkpoint, or from the beginning."""
        textures = _textures(self.context, configuration)
        made = self.context.inputs.encoder_need(self.configuration) is not None
        first, training, broken = resumed(
            lambda: train(
                configuration, data, self.case.seed, textures=textures, checkpoint=checkpoint
            ),
            checkpoint,
            # An encoder that was removed and made again may differ in the last bits.
            (UnreadableCheckpoint, OtherEncoder) if made else (UnreadableCheckpoint,),
        )
        if broken:
            self._note(f"{broken}; the fit was begun anew")
        if first.note:
            self._note(first.note)
            self.ledger.restore_previous(self.case.key)
        sittings = [*self.record.sittings]
        sittings[-1] = {**sittings[-1], "iteration": first.resumed_at}
        self._write(
            sittings=sittings,
            iteration=first.resumed_at,
            inputs={
                **self.record.inputs,
                "images": _counts(data),
                "encoder": first.encoder_digest,
            },
        )
        return training

    def _keep_progress(self, progress: Progress, sampler: SystemSampler, checkpoint: Path) -> None:
        """Checkpoint and record of an evaluation onto the storage, in this order."""
        # Evaluations keep the time that they were first seen at.
        times = {entry["iteration"]: entry["time"] for entry in self.record.history}
        now, started = time.time(), time.perf_counter()
        self.ledger.keep(self.case.key, checkpoint)
        best = self._keep_best(progress)
        writing = self.record.writing_seconds + time.perf_counter() - started
        started = time.perf_counter()
        self._write(
            metrics=progress.metrics,
            history=[{**e, "time": times.get(e["iteration"], now)} for e in progress.history],
            iteration=progress.iteration,
            best_iteration=best,
            seconds=progress.seconds,
            writing_seconds=writing,
            peak_memory_mb=max(self.record.peak_memory_mb, peak_memory_mb()),
            system=sampler.samples(),
        )
        # Shows in the next record.
        self.record = dataclasses.replace(
            self.record, writing_seconds=writing + time.perf_counter() - started
        )

    def _keep_best(self, progress: Progress) -> int | None:
        """Keeps the checkpoint of the best evaluation of stage two, where that is asked for."""
        best = self.record.best_iteration
        if self.context.study.log_checkpoints != "best" or progress.stage != HEAD:
            return best
        values = {e["iteration"]: e[self.context.study.objective] for e in progress.history}
        if best is not None and values[progress.iteration] <= values.get(best, -1.0):
            return best
        self.ledger.keep_best(self.case.key)
        return progress.iteration

    def _draw(self, data: CategoryData, progress: Progress, folder: Path) -> None:
        """Sheets and curves of the report split; a fit is not lost because one cannot be drawn."""
        record = self.record
        title = f"{record.category}, seed {record.seed}, configuration {record.digest}"
        title += " (random encoder weights)" if record.random_encoder else ""
        try:
            use_head = progress.stage == HEAD
            scores, maps = predict(progress.model, data.report.images, use_head=use_head)
            for name in ("worst", "best"):
                case_sheet(
                    data.report,
                    scores,
                    maps,
                    folder / f"{name}.png",
                    title=f"{title}: the {name} cases of the report split",
                    rows=PICTURE_ROWS,
                    worst=name == "worst",
                )
            curves = split_curves(scores, data.report.labels, maps, data.report.masks)
            curves_picture(curves, folder / "curves.png", f"{title}: report split")
            curves_table(curves, folder / "curves.csv")
        except Exception:
            logger.exception("no pictures of fit %s", record.key)

    def _write(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        self.ledger.write(self.record)

    def _note(self, line: str) -> None:
        if line not in self.record.notes:
            self.record = dataclasses.replace(self.record, notes=[*self.record.notes, line])

    def _data(self) -> CategoryData:
        """The case's images, which must be the driver's."""
        context, size = self.context, self.configuration.image_size
        if context.inputs.method_version != METHOD_VERSION:
            raise RuntimeError(
                f"this worker has method version {METHOD_VERSION}, the driver "
                f"{context.inputs.method_version}; install the same code on every machine"
            )
        data = load_data(context.study, self.case.category, size)
        if data.digest != context.inputs.data[f"{self.case.category}@{size}"]:
            raise RuntimeError(
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
