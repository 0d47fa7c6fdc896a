"""Who holds a lease, as others see it.

A holder is seen to live by its lease's changing from heartbeat to heartbeat, on the looker's own
clock; clocks of two machines are never compared.
"""

import json
import time
from collections.abc import Hashable
from typing import Any

from study.processes import is_gone
from study.storage import Storage

BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0


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
    names = numbered(storage, folder)
    document = read_lease(storage, names[-1]) if names else None
    if not document or document.get("free") or is_gone(document):
        return None
    return document


def silent_seconds(storage: Storage, folder: str) -> float | None:
    """For how long the holder of a lease has given no sign of life, as far as one look can tell;
    None where nobody holds it, or the storage does not tell."""
    names = numbered(storage, folder)
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


def numbered(storage: Storage, folder: str) -> list[str]:
    """The names of a thing's leases, the latest one last."""
    names = storage.files(folder)
    return sorted(n for n in names if n.rpartition("/")[2].startswith("lease-"))
