"""One encoder against the store, from wherever it stands: no Ray, no MLflow.

    making = Making(context, need)
    for progress in making.run():
        print(making.record.status, making.record.iteration)

Used by the driver's first phase and, where a ratio is not known beforehand, by the fit that needs
the encoder. Like a fit, a making that is killed at any moment loses at most one interval between
evaluations, and ends with the weights that it would have had.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ffcad.encoder_weights import (
    WeightsError,
    load_encoder_weights,
    save_encoder,
    state_digest,
)
from ffcad.pretrain import PretrainError, PretrainProgress, pretrain
from ffcad.pretrain_config import EncoderArchitecture
from ffcad.resnet import FFCResNet
from study.context import StudyContext
from study.encoder_sources import load_sources
from study.encoders import (
    NOT_MADE,
    EncoderError,
    EncoderNeed,
    EncoderRecord,
    EncoderStore,
    new_record,
)
from study.failures import in_one_line, lacks_memory, raise_if_disk
from study.leases import Lease, LeaseLost, Waiter, describe
from study.ledger import BEGUN, CHECKPOINT, FAILED, FINISHED, LedgerError
from study.machine import peak_memory_mb, reset_peak_memory, worker_environment
from study.resuming import resumed
from study.storage import Storage, StorageError

# Seconds between two tries to get an encoder that another worker makes.
WAIT_SECONDS = 1.0
# What a making that goes on keeps of its card.
KEPT = ("history", "iteration", "seconds", "peak_memory_mb", "sittings", "notes", "began")

logger = logging.getLogger(__name__)


class Making:
    """An encoder, as a worker makes it.

    Args:
        context: the study's.
        need: what is made of what.
        again: whether one that failed in this study is tried again.

    Attributes:
        record: its card as it stands; what it says is on the storage.
    """

    def __init__(self, context: StudyContext, need: EncoderNeed, again: bool = False) -> None:
        self.context, self.need, self.again = context, need, again
        self.store = EncoderStore(Storage(context.study.storage))
        self.record = self._fresh()
        # When an outcome was reached that does not count.
        self._disregarded = 0.0

    def run(self) -> Iterator[PretrainProgress | None]:
        """Takes the encoder from the store if it is finished, else goes on with it or makes it.

        While another worker makes it, this one waits; one that is gone is succeeded. Closing the
        iterator leaves the making off: its state is written, to go on from.

        Yields:
            Progress; None while it waits. At the end the card says finished or failed.

        Raises:
            StorageError: if the storage fails.
            LeaseLost: if another worker took it over, thinking this one dead.
        """
        waiter = Waiter(
            self.store.storage,
            self.store.folder(self.need.key),
            {"study": self.context.study.name, "encoder": str(self.need)},
        )
        lease = None
        while not self._is_decided():
            lease = waiter.attempt()
            if lease is not None:
                break
            logger.info("encoder %s: waiting for %s", self.need.key, describe(waiter.holder))
            yield None
            time.sleep(WAIT_SECONDS)
        if lease is None:
            return
        try:
            # It may have been finished between our look and the lease.
            if not self._is_decided():
                self._take_up()
                yield from self._worked(lease)
        finally:
            if self.record.status == FINISHED:
                lease.forget()
            else:
                lease.release()

    def distrust(self, why: str) -> None:
        """Has the finished encoder made anew, from its checkpoint if that is sound."""
        self._disregarded = self.record.ended
        self._note(f"{why}; it was written anew")

    def _is_decided(self) -> bool:
        """Reads the card; one that is not decided is gone on with."""
        notes: list[str] = []
        try:
            known = self.store.read(self.need.key)
        except LedgerError as e:
            known = None
            notes = [f"{e}; it was written anew, from the checkpoint if there is one"]
        if known is not None and self._is_outcome(known):
            self.record = known
            return True
        fresh = self._fresh()
        kept = {name: getattr(known or fresh, name) for name in KEPT}
        kept["notes"] = list(dict.fromkeys([*kept["notes"], *self.record.notes, *notes]))
        self.record = dataclasses.replace(fresh, **kept)
        return False

    def _is_outcome(self, known: EncoderRecord) -> bool:
        if known.status == FAILED and known.study == self.context.study.name and self.again:
            self.again, self._disregarded = False, known.ended
        if known.ended == self._disregarded:
            return False
        # What failed for a reason of its own would fail again; another study may be elsewhere.
        same = known.study == self.context.study.name
        return known.status == FINISHED or (known.status == FAILED and same)

    def _take_up(self) -> None:
        sitting = {
            "began": time.time(),
            "iteration": self.record.iteration,
            "host": self.record.environment["host"],
            "study": self.context.study.name,
        }
        self._write(sittings=[*self.record.sittings, sitting])

    def _worked(self, lease: Lease) -> Iterator[PretrainProgress]:
        """The making itself, by the holder of its lease."""
        try:
            with self.store.working_folder(self.need.key) as folder:
                yield from self._made(lease, folder)
        except (StorageError, LeaseLost):
            raise
        except Exception as e:
            raise_if_disk(e, self.store.storage.where)
            lease.check()
            self._write(error=in_one_line(e))
            if not isinstance(e, PretrainError) and not lacks_memory(e):
                raise  # A machine's trouble: it is tried again.
            self._write(status=FAILED, ended=time.time())

    def _made(self, lease: Lease, folder: Path) -> Iterator[PretrainProgress]:
        """The making in a working folder."""
        checkpoint = folder / CHECKPOINT
        reset_peak_memory()
        making = self._making(checkpoint)
        progress = None
        try:
            for progress in making:
                lease.check()
                if progress.final:
                    self._finish(progress, checkpoint)
                elif progress.figures is not None:
                    self._keep_progress(progress, checkpoint)
                yield progress
        except LeaseLost as e:
            # To close it would write a checkpoint beside the new holder's.
            with contextlib.suppress(LeaseLost):
                making.throw(e)
            raise
        except GeneratorExit:
            making.close()  # Writes a checkpoint.
            if progress is not None and progress.iteration > self.record.iteration:
                lease.check()
                self.store.keep(self.need.key, checkpoint)
                self._write(iteration=progress.iteration, seconds=progress.seconds)
            raise

    def _making(self, checkpoint: Path) -> Iterator[PretrainProgress]:
        """The making from its last good checkpoint, or from the beginning."""
        need, inputs = self.need, self.context.inputs
        version = inputs.makings[need.recipe.method]["version"]
        corpus, teacher = load_sources(self.context.study, need, version, self.store)
        for note in corpus.notes:
            self._note(note)
        first, making, broken = resumed(
            lambda: pretrain(
                need.recipe, need.architecture, corpus, teacher, checkpoint=checkpoint
            ),
            checkpoint,
        )
        if broken:
            self._note(f"{broken}; the encoder was begun anew")
        if first.note:
            self._note(first.note)
            self.store.restore_previous(need.key)
        sittings = [*self.record.sittings]
        sittings[-1] = {**sittings[-1], "iteration": first.resumed_at}
        self._write(
            sittings=sittings, iteration=first.resumed_at, history=self._timed(first.history)
        )
        return making

    def _keep_progress(self, progress: PretrainProgress, checkpoint: Path) -> None:
        """Checkpoint and card of an evaluation onto the storage, in this order."""
        if checkpoint.is_file():  # There is none of the very beginning.
            self.store.keep(self.need.key, checkpoint)
        self._write(**self._figures(progress))

    def _finish(self, progress: PretrainProgress, checkpoint: Path) -> None:
        """The weights onto the storage, then the card that says that they are there."""
        key = self.need.key
        weights = checkpoint.with_name(Path(self.store.weights(key)).name)
        save_encoder(weights, progress.encoder, progress.card)
        self.store.keep(key, checkpoint)
        self.store.keep(key, weights)
        for note in progress.card["notes"]:
            self._note(note)
        self._write(
            **self._figures(progress),
            status=FINISHED,
            weights=state_digest(progress.encoder.state_dict()),
            figures=progress.figures,
            images=progress.card["images"],
            error=None,
            ended=time.time(),
        )

    def _figures(self, progress: PretrainProgress) -> dict[str, Any]:
        return {
            "history": self._timed(progress.history),
            "iteration": progress.iteration,
            "seconds": progress.seconds,
            "peak_memory_mb": max(self.record.peak_memory_mb, peak_memory_mb()),
        }

    def _timed(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Evaluations with the time that each was first seen at."""
        times = {entry["iteration"]: entry["time"] for entry in self.record.history}
        now = time.time()
        return [{**entry, "time": times.get(entry["iteration"], now)} for entry in history]

    def _write(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        self.store.write(self.record)

    def _note(self, line: str) -> None:
        if line not in self.record.notes:
            self.record = dataclasses.replace(self.record, notes=[*self.record.notes, line])

    def _fresh(self) -> EncoderRecord:
        """The card of an encoder that nobody began."""
        return new_record(
            self.need,
            status=BEGUN,
            study=self.context.study.name,
            environment={**self.context.environment, **worker_environment()},
            began=time.time(),
        )


def encoder_file(
    context: StudyContext, need: EncoderNeed, folder: Path
) -> Iterator[PretrainProgress | None]:
    """The local file of an encoder's weights, which is made first where that is needed.

    A file that is not what its card says is mended.

    Args:
        context: the study's.
        need: what is made of what.
        folder: where it is copied to from an object store.

    Yields:
        None, again and again, until it is there.

    Returns:
        The path.

    Raises:
        EncoderError: if it cannot be made.
        StorageError, LeaseLost: as `Making.run`.
    """
    making = Making(context, need)
    for last in (False, True):
        # Closed, because leaving off in the middle writes a checkpoint and gives the lease back.
        with contextlib.closing(making.run()) as run:
            for _ in run:
                yield None
        if making.record.status == FAILED:
            raise EncoderError(f"{NOT_MADE}: {making.record.error}")
        path, wrong = _local_file(making, folder)
        if wrong is None:
            return path
        if last:
            raise WeightsError(wrong)
        making.distrust(wrong)


def wrong_with(path: Path, record: EncoderRecord) -> str | None:
    """Why a file is not the encoder of a card, or None if it is.

    Args:
        path: of the weights.
        record: the card of a finished encoder.
    """
    if not path.is_file():
        return f"{path} is missing"
    architecture = EncoderArchitecture(**record.architecture)
    encoder = FFCResNet(architecture.ratio, architecture.layers, lfu=architecture.lfu)
    try:
        if load_encoder_weights(encoder, str(path)) == record.weights:
            return None
    except WeightsError as e:
        return str(e)
    return f"{path} has another content than its card says"


def _local_file(making: Making, folder: Path) -> tuple[Path, str | None]:
    """A finished encoder's weights on this machine, and what is wrong with them."""
    storage, name = making.store.storage, making.store.weights(making.need.key)
    path = storage.local / name if storage.local else folder / Path(name).name
    if not storage.local:
        try:
            storage.download(name, path)
        except FileNotFoundError:
            return path, f"{storage.uri(name)} is missing"
    return path, wrong_with(path, making.record)
