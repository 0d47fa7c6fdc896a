"""Leases: of several processes, on one machine or on many, one works at a thing at a time.

    <folder>/lease-000003.json   who holds it; written again at every heartbeat

A lease is taken by creating the next number, which only one can do, on any storage. It is free for
the next one when it was given back, when its process is seen to be gone, when Ray has started the
holder's worker again, or when its heartbeat has not changed for a while on the waiter's own clock.
So a holder that was thought dead meets a higher number at its next heartbeat, and learns that it
holds nothing any more. While the storage is away nobody's heartbeat changes, and nothing is free.
"""

import json
import logging
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from study.lease_holders import BEAT_SECONDS, STALE_SECONDS, Silence, numbered, read_lease
from study.outages import LIMIT_SECONDS, StorageAway
from study.processes import is_gone, own_place, this_process
from study.storage import Storage, StorageError

logger = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Another process took over what this one was working at."""


class Lease:
    """A thing that this process works at; `Waiter.attempt` makes one.

    Attributes:
        lost: set when another process has taken it over, or may have.
    """

    def __init__(
        self, storage: Storage, name: str, document: dict[str, Any], beat: float, stale: float
    ) -> None:
        self.storage, self.name = storage, name
        self.lost = threading.Event()
        self._document, self._beat, self._stale = document, beat, stale
        self._wake, self._over = threading.Event(), False
        self._sure_at = _clocks()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def say(self, **news: Any) -> None:
        """Adds to what others read in the lease, soon. Only sets flags: signal handlers may call
        it."""
        self._document = {**self._document, **news}
        self._wake.set()

    def release(self) -> None:
        """Gives it back."""
        self._over = True
        self._wake.set()
        self._thread.join()
        if self.lost.is_set():
            return
        try:
            if self._is_ours(self.storage):
                self._write(self.storage, {**self._document, "free": True})
            else:
                self.lost.set()
        except StorageError:  # It becomes stale instead.
            logger.warning("lease %s could not be given back", self.name)

    def forget(self) -> None:
        """Gives it back for good, where nobody will need it again."""
        self.release()
        if self.lost.is_set():  # Another one's may have the same name by now.
            return
        try:
            self.storage.delete(self.name)
        except StorageError:
            logger.warning("lease %s could not be removed", self.name)

    def check(self) -> None:
        """Makes sure that it is still ours.

        Looks at the storage where the heartbeat has not done so for long: after a suspension it may
        not have come to it yet.

        Raises:
            LeaseLost: if another process has taken it over.
            StorageError: if that cannot be told.
        """
        silent = max(now - then for now, then in zip(_clocks(), self._sure_at, strict=True))
        if silent > self._stale / 2 and not self.lost.is_set() and not self._is_ours(self.storage):
            self.lost.set()
        if self.lost.is_set():
            raise LeaseLost(f"{self.storage.uri(self.name)} was taken over by another process")

    def _run(self) -> None:
        written, storage = time.monotonic(), self.storage.at_once
        while not self._over:
            self._wake.wait(self._beat)
            self._wake.clear()
            if self._over:
                return
            try:
                if not self._is_ours(storage):
                    self.lost.set()
                    return
                self._write(storage, {**self._document, "beat": uuid.uuid4().hex})
                written = time.monotonic()
            except StorageError as e:
                # By then others may think that nobody works here. While the storage is away for
                # all, nobody can; and where it is not, `check` finds them before anything is kept,
                # and again before it is tried again to keep it.
                patience = LIMIT_SECONDS if isinstance(e, StorageAway) else 0.0
                if time.monotonic() - written > self._stale + patience:
                    self.lost.set()
                    return

    def _is_ours(self, storage: Storage) -> bool:
        """Whether nobody has taken it over.

        Where somebody did and was done with the thing for good, the folder is empty; or numbers
        began anew, and the file of this name is another one's.
        """
        if numbered(storage, Path(self.name).parent.as_posix())[-1:] != [self.name]:
            return False
        document = read_lease(storage, self.name)
        # One that cannot be read is nobody's: it is written again.
        if document is None or document.get("token") not in (None, self._document["token"]):
            return False
        self._sure_at = _clocks()
        return True

    def _write(self, storage: Storage, document: dict[str, Any]) -> None:
        storage.write(self.name, json.dumps(document).encode(), durable=False)


class Waiter:
    """Tries to take a lease, again and again.

    Args:
        storage: where it is.
        folder: of the thing.
        who: what others are told of the holder, e.g. its study; where 'worker' is among it, it
            succeeds the former one of that name at once.
        beat, stale: seconds between heartbeats, and without one until it counts as dead.

    Attributes:
        holder: who held it at the last attempt.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        who: dict[str, Any],
        beat: float = BEAT_SECONDS,
        stale: float = STALE_SECONDS,
    ) -> None:
        self.storage, self.folder, self.beat, self.stale = storage, folder, beat, stale
        self.holder: dict[str, Any] = {}
        # Told from everybody else's, so that a lease is known again as one's own.
        self._who = {**who, **this_process(), "token": uuid.uuid4().hex}
        self._silence = Silence(beat)

    def attempt(self) -> Lease | None:
        """The lease, or None while another holds it."""
        names = numbered(self.storage, self.folder)
        if names and not self._is_free(names[-1]):
            return None
        number = int(names[-1][-11:-5]) + 1 if names else 1
        name = f"{self.folder}/lease-{number:06d}.json"
        if not self.storage.create(name, json.dumps(self._who).encode()):
            return None
        # Between our look and our creation others may have come, and gone on to higher numbers.
        now = numbered(self.storage, self.folder)
        if now[-1:] != [name]:
            self.storage.delete(name)
            return None
        for former in now[:-1]:
            self.storage.delete(former)
        return Lease(self.storage, name, self._who, self.beat, self.stale)

    def is_alive(self) -> bool:
        """Whether the holder is a process of this machine that runs."""
        return self.holder.get("place") == own_place() and not is_gone(self.holder)

    def _is_free(self, name: str) -> bool:
        document = read_lease(self.storage, name)
        if document is None:
            return False  # Gone since we looked: the next attempt finds what came after it.
        self.holder = document
        if document.get("free") or is_gone(document) or self._is_former_self(document):
            return True
        return self._silence.seconds_after((name, document.get("beat"))) > self.stale

    def _is_former_self(self, document: dict[str, Any]) -> bool:
        """Whether the holder is the worker that this one was started in the place of: its machine
        is lost, or cut off from all but the storage, and then it learns it at its next heartbeat.
        """
        worker = self._who.get("worker")
        return worker is not None and document.get("worker") == worker


def _clocks() -> tuple[float, float]:
    """Seconds of two clocks: one of them goes on while a machine is suspended."""
    return time.monotonic(), time.time()
