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
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from study.outages import LIMIT_SECONDS, StorageAway
from study.processes import is_gone, own_place, this_process
from study.storage import Storage, StorageError

BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0

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
        if _numbered(storage, Path(self.name).parent.as_posix())[-1:] != [self.name]:
            return False
        document = read_lease(storage, self.name)
        # One that cannot be read is nobody's: it is written again.
        if document is None or document.get("token") not in (None, self._document["token"]):
            return False
        self._sure_at = _clocks()
        return True

    def _write(self, storage: Storage, document: dict[str, Any]) -> None:
        storage.write(self.name, json.dumps(document).encode(), durable=False)


class Silence:
    """For how long the holder of a lease has given no sign of life, as far as one process has seen.

    A look counts for one interval between heartbeats at most: where the looks lie farther apart the
    storage was away, or this machine suspended, and nobody could be heard.

    Args:
        beat: seconds between heartbeats.
    """

    def __init__(self, beat: float) -> None:
        self._beat, self._seconds = beat, 0.0
        self._sign: Hashable = None
        self._looked = time.monotonic()

    def seconds_after(self, sign: Hashable) -> float:
        """Seconds of silence.

        Args:
            sign: what a look has found; another one than the last is a sign of life.
        """
        now = time.monotonic()
        spent, self._looked = min(now - self._looked, self._beat), now
        self._seconds = 0.0 if sign != self._sign else self._seconds + spent
        self._sign = sign
        return self._seconds


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
        names = _numbered(self.storage, self.folder)
        if names and not self._is_free(names[-1]):
            return None
        number = int(names[-1][-11:-5]) + 1 if names else 1
        name = f"{self.folder}/lease-{number:06d}.json"
        if not self.storage.create(name, json.dumps(self._who).encode()):
            return None
        # Between our look and our creation others may have come, and gone on to higher numbers.
        now = _numbered(self.storage, self.folder)
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


class Follower:
    """Looks at one lease of another process, from time to time.

    Args:
        storage: where it is.
        name: the lease's.
        stale: seconds without a heartbeat until its holder counts as dead.
    """

    def __init__(self, storage: Storage, name: str, stale: float = STALE_SECONDS) -> None:
        self.storage, self.name, self.stale = storage, name, stale
        self._version: Hashable = None
        self._document: dict[str, Any] = {}
        self._silence = Silence(BEAT_SECONDS)

    def holder(self) -> dict[str, Any] | None:
        """What the lease says; None if its holder gave it back, lost it or is no more."""
        version = self.storage.version(self.name)
        if version is None:
            return None
        if version != self._version:
            self._document = read_lease(self.storage, self.name) or {}
            self._version = version
        quiet = self._silence.seconds_after(version)
        if self._document.get("free") or quiet > self.stale or is_gone(self._document):
            return None
        return self._document


def read_lease(storage: Storage, name: str) -> dict[str, Any] | None:
    """What a lease says; None if it is not there, empty if it cannot be read."""
    try:
        document = json.loads(storage.read(name))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def current_holder(storage: Storage, folder: str) -> dict[str, Any] | None:
    """Who holds a lease now, as far as one look can tell; None if nobody does."""
    names = _numbered(storage, folder)
    document = read_lease(storage, names[-1]) if names else None
    if not document or document.get("free") or is_gone(document):
        return None
    return document


def silent_seconds(storage: Storage, folder: str) -> float | None:
    """For how long the holder of a lease has given no sign of life, as far as one look can tell;
    None where nobody holds it, or the storage does not tell."""
    names = _numbered(storage, folder)
    return storage.age(names[-1]) if names else None


def describe_silence(seconds: float | None) -> str:
    """What a holder's silence means, for a message; empty where it beats as it should."""
    if seconds is None or seconds < 2 * BEAT_SECONDS:
        return ""
    minutes = seconds / 60
    long = f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
    if minutes >= 120:
        long = f"{minutes / 60:.0f} h"
    return f", silent for {long}{'; probably dead' * (seconds > STALE_SECONDS)}"


def describe(holder: dict[str, Any]) -> str:
    """A holder for a message."""
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"


def _numbered(storage: Storage, folder: str) -> list[str]:
    names = storage.files(folder)
    return sorted(n for n in names if n.rpartition("/")[2].startswith("lease-"))


def _clocks() -> tuple[float, float]:
    """Seconds of two clocks: one of them goes on while a machine is suspended."""
    return time.monotonic(), time.time()
