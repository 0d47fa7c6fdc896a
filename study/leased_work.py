"""What a fit and the making of an encoder have in common: work that one worker does at a time.

A record says how far it is, a checkpoint holds the state, and a lease who is at it. Checkpoint and
record are on the storage before anything of them is told, so a kill at any moment loses at most one
interval between evaluations.
"""

import contextlib
import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from ffcad.checkpoint import CheckpointError, UnreadableCheckpoint
from ffcad.iterated_work import Standing
from study.context import StudyContext
from study.failures import in_one_line, lacks_memory, raise_if_disk
from study.lease_holders import describe
from study.leases import Lease, LeaseLost, Waiter
from study.ledger import CHECKPOINT, FAILED, FINISHED, LedgerError, Records
from study.outages import asking_first, passes
from study.resuming import resumed
from study.storage import StorageError

# Seconds between two tries to get what another worker is at.
WAIT_SECONDS = 1.0

Kind = TypeVar("Kind", bound=Standing)

logger = logging.getLogger(__name__)


class LeasedWork(ABC, Generic[Kind]):
    """Work on a storage, as a worker does it.

    Args:
        context: the study's.
        records: where its record and its files are.
        key: its own.
        holder: what the lease says of its holder, besides the process.

    Attributes:
        noun: what messages call it.
        kept: what a record keeps when the work is gone on with.
        hopeless: errors that would come again on every machine.
        record: as it stands; what it says is on the storage.
    """

    noun: str
    kept: tuple[str, ...]
    hopeless: tuple[type[Exception], ...]

    def __init__(
        self, context: StudyContext, records: Records, key: str, holder: dict[str, Any]
    ) -> None:
        self.context, self.records, self.key, self.holder = context, records, key, holder
        self.record = self._fresh()
        self._lease: Lease | None = None

    def run(self) -> Iterator[Kind | None]:
        """Takes the outcome from the storage if it is there, else goes on with the work, or begins.

        While another worker is at it, this one waits for the outcome; one that is gone is
        succeeded. Closing the iterator leaves the work off: its state is written, to go on from.

        Yields:
            Progress; None while it waits. At the end the record says finished or failed.

        Raises:
            StorageError: if the storage fails.
            LeaseLost: if another worker took it over, thinking this one dead.
        """
        context = self.context
        who = {"study": context.study.name, **self.holder, "worker": context.worker}
        waiter = Waiter(self.records.storage, self.records.folder(self.key), who)
        lease = None
        while not self._is_decided():
            lease = waiter.attempt()
            if lease is not None:
                break
            logger.info("%s %s: waiting for %s", self.noun, self.key, describe(waiter.holder))
            yield None
            time.sleep(WAIT_SECONDS)
        if lease is None:
            return
        self._lease = lease
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

    @abstractmethod
    def _fresh(self) -> Any:
        """The record of work that nobody began."""

    @abstractmethod
    def _done_in(self, folder: Path, lease: Lease) -> Iterator[Kind | None]:
        """The work itself, in a local folder for its files."""

    @abstractmethod
    def _keep(self, progress: Kind, folder: Path) -> None:
        """Puts onto the storage what has been reached, before it is told."""

    def _is_outcome(self, known: Any) -> bool:
        """Whether nothing is left to do for what a record says."""
        return known.status == FINISHED

    def _sampled(self) -> dict[str, Any]:
        """Fields of the record that grow with time alone."""
        return {}

    def _is_decided(self) -> bool:
        """Reads the record; what is not decided is gone on with."""
        notes: list[str] = []
        try:
            known = self.records.read(self.key)
        except LedgerError as e:
            known = None
            notes = [f"{e}; it was written anew, from the checkpoint if there is one"]
        if known is not None and self._is_outcome(known):
            self.record = known
            return True
        fresh = self._fresh()
        kept = {name: getattr(known or fresh, name) for name in self.kept}
        kept["notes"] = list(dict.fromkeys([*kept["notes"], *self.record.notes, *notes]))
        self.record = dataclasses.replace(fresh, **kept)
        return False

    def _take_up(self, **more: Any) -> None:
        """Notes that a worker begins, and what else is to be known of this sitting."""
        environment = self.record.environment
        sitting = {
            "began": time.time(),
            "iteration": self.record.iteration,
            # The record's environment is the last sitting's; the code may have been other before.
            **{name: environment.get(name) for name in ("host", "gpu", "git_sha", "git_dirty")},
            "gpus": self.context.study.gpus_per_trial,
            "study": self.context.study.name,
            **more,
        }
        self._write(sittings=[*self.record.sittings, sitting])

    def _worked(self, lease: Lease) -> Iterator[Kind | None]:
        """The work by the holder of its lease; tells a machine's trouble from the work's own."""
        storage, tried_at = self.records.storage, None
        while True:
            try:
                with self.records.working_folder(self.key) as folder:
                    yield from self._done_in(folder, lease)
                return
            except (StorageError, LeaseLost):
                raise
            except Exception as e:
                raise_if_disk(e, storage.where)
                # Of a folder that is away while something is written into it; where nothing more
                # was reached since it was tried again, it is the machine's.
                if not (storage.local and passes(e) and self.record.iteration != tried_at):
                    self._failed(e)
                    return
                logger.warning("%s %s: %s", self.noun, self.key, in_one_line(e))
                tried_at = self.record.iteration
                storage.check()  # Waits.
                self._take_up()

    def _failed(self, error: Exception) -> None:
        """Keeps why the work failed; raises it again where it is a machine's trouble."""
        self._write(error=in_one_line(error), **self._sampled())
        hopeless = lacks_memory(error) and not self.context.more_memory
        if not isinstance(error, self.hopeless) and not hopeless:
            # It is tried again; the record tells why if that fails too.
            raise error
        self._write(status=FAILED, ended=time.time())

    def _followed(self, steps: Iterator[Kind], folder: Path, lease: Lease) -> Iterator[Kind]:
        """Passes progress on once it is kept; leaves off without a loss when it is closed."""
        progress = None
        try:
            for progress in steps:
                lease.check()
                with asking_first(lease.check):
                    self._keep(progress, folder)
                yield progress
        except LeaseLost as e:
            # To close it would write a checkpoint beside the new holder's.
            with contextlib.suppress(LeaseLost):
                steps.throw(e)
            raise
        except GeneratorExit:
            steps.close()  # Writes a checkpoint.
            if progress is not None and progress.iteration > self.record.iteration:
                lease.check()
                with asking_first(lease.check):
                    self.records.keep(self.key, folder / CHECKPOINT)
                self._write(
                    iteration=progress.iteration, seconds=progress.seconds, **self._sampled()
                )
            raise

    def _resumed(
        self,
        begin: Callable[[], Iterator[Kind]],
        checkpoint: Path,
        anew: tuple[type[CheckpointError], ...] = (UnreadableCheckpoint,),
    ) -> tuple[Kind, Iterator[Kind], dict[str, Any]]:
        """Goes on from the last good checkpoint, or from the beginning; see `resuming.resumed`.

        Returns:
            The first progress; all of it, the first included; and what the record says of that.
        """
        first, steps, broken = resumed(begin, checkpoint, anew)
        if broken:
            self._note(f"{broken}; the {self.noun} was begun anew")
        if first.note:
            self._note(first.note)
            self.records.restore_previous(self.key)
        *before, sitting = self.record.sittings
        now = {**sitting, "iteration": first.resumed_at}
        return first, steps, {"sittings": [*before, now], "iteration": first.resumed_at}

    def _timed(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Evaluations, each with the time that it was first seen at."""
        times = {entry["iteration"]: entry["time"] for entry in self.record.history}
        now = time.time()
        return [{**entry, "time": times.get(entry["iteration"], now)} for entry in history]

    def _write(self, **changes: Any) -> None:
        """Replaces the record, while the work is this process's."""
        self.record = dataclasses.replace(self.record, **changes)
        if self._lease is None:
            self.records.write(self.record)
            return
        self._lease.check()
        with asking_first(self._lease.check):
            self.records.write(self.record)

    def _note(self, line: str) -> None:
        if line not in self.record.notes:
            self.record = dataclasses.replace(self.record, notes=[*self.record.notes, line])
