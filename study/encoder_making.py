"""One encoder against the store, from wherever it stands: no Ray, no MLflow.

    making = Making(context, need)
    for progress in making.run():
        print(making.record.status, making.record.iteration)

Used by the driver's first phase and, where a ratio is not known beforehand, by the fit that needs
the encoder. Like a fit, a making that is killed at any moment loses at most one interval between
evaluations, and ends with the weights that it would have had.
"""

import contextlib
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
from study.leased_work import LeasedWork
from study.leases import Lease
from study.ledger import BEGUN, CHECKPOINT, FAILED, FINISHED
from study.machine import peak_memory_mb, reset_peak_memory, worker_environment
from study.storage import Storage

# What a making that goes on keeps of its card.
KEPT = ("history", "iteration", "seconds", "peak_memory_mb", "sittings", "notes", "began")


class Making(LeasedWork[PretrainProgress]):
    """An encoder, as a worker makes it.

    Args:
        context: the study's.
        need: what is made of what.
        again: whether one that failed in this study is tried again.
    """

    noun, kept, hopeless = "encoder", KEPT, (PretrainError,)

    def __init__(self, context: StudyContext, need: EncoderNeed, again: bool = False) -> None:
        self.need, self.again = need, again
        self.store = EncoderStore(Storage(context.study.storage))
        # When an outcome was reached that does not count.
        self._disregarded = 0.0
        super().__init__(context, self.store, need.key, {"encoder": str(need)})

    def distrust(self, why: str) -> None:
        """Has the finished encoder made anew, from its checkpoint if that is sound."""
        self._disregarded = self.record.ended
        self._note(f"{why}; it was written anew")

    def _is_outcome(self, known: EncoderRecord) -> bool:
        if known.status == FAILED and known.study == self.context.study.name and self.again:
            self.again, self._disregarded = False, known.ended
        if known.ended == self._disregarded:
            return False
        # What failed for a reason of its own would fail again; another study may be elsewhere.
        same = known.study == self.context.study.name
        return known.status == FINISHED or (known.status == FAILED and same)

    def _done_in(self, folder: Path, lease: Lease) -> Iterator[PretrainProgress]:
        reset_peak_memory()
        yield from self._followed(self._making(folder / CHECKPOINT, lease), folder, lease)

    def _making(self, checkpoint: Path, lease: Lease) -> Iterator[PretrainProgress]:
        """The making from its last good checkpoint, or from the beginning."""
        need, inputs = self.need, self.context.inputs
        version = inputs.makings[need.recipe.method]["version"]
        corpus, teacher = load_sources(self.context.study, need, version, self.store)
        for note in corpus.notes:
            self._note(note)
        first, making, changes = self._resumed(
            lambda: pretrain(
                need.recipe,
                need.architecture,
                corpus,
                teacher,
                checkpoint=checkpoint,
                before_save=lease.check,
            ),
            checkpoint,
        )
        self._write(**changes, history=self._timed(first.history))
        return making

    def _keep(self, progress: PretrainProgress, folder: Path) -> None:
        """Checkpoint and card of an evaluation onto the storage, in this order."""
        checkpoint = folder / CHECKPOINT
        if progress.final:
            self._finish(progress, checkpoint)
        elif progress.figures is not None:
            if checkpoint.is_file():  # There is none of the very beginning.
                self.store.keep(self.key, checkpoint)
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
