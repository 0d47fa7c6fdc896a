"""What is written while a study runs, beside the driver's loop and never in its way.

One thread of the driver is MLflow's only writer, and copies Optuna's journal to the storage. There
is no queue between them and the study that might overflow or be lost: the thread looks at the
ledger, which holds everything, and writes in batches what is not written yet.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from study.config import StudyConfig
from study.storage import Storage, StorageError
from study.tracking import Mirror
from study.trials import StudyFolder

# Seconds of rest for each processor second of writing, until the end: it takes a twentieth of a
# core, and to wait for a server takes none. The longest rest is bounded, so that one large run does
# not keep the others waiting.
REST, LONGEST_REST = 19.0, 10.0
# Between two copies of Optuna's journal.
COPY_SECONDS = 10.0

logger = logging.getLogger("study.tracking")


class _Over(Exception):
    """The study is not this process's any more: what is left is left to whoever has it."""


class Background:
    """The thread.

    Args:
        config: the study.
        journal: file of Optuna's study.
        lost: set when another driver has taken the study over; nothing is written from then on.
        seconds: between two rounds.

    Attributes:
        unwritten: after the end, why something is left unwritten, in one line, or None.
    """

    def __init__(
        self,
        config: StudyConfig,
        journal: Path,
        lost: threading.Event | None = None,
        seconds: float = 2.0,
    ) -> None:
        self._stop = threading.Event()
        self._given_up = threading.Event()
        self.mirror = Mirror(config, rest=self._rest)
        self.folder = StudyFolder(Storage(config.storage), config.name)
        self.journal, self.seconds = journal, seconds
        self.lost = lost or threading.Event()
        self.error: str | None = None
        self.unwritten: str | None = None
        self._copied, self._copied_at = b"", 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def finish(
        self, timeout: float, patience: Callable[[float], float] = lambda seconds: seconds
    ) -> None:
        """Writes the rest and ends; `unwritten` says whether that succeeded.

        Args:
            timeout: how long to wait for that, in seconds; then no further run is begun.
            patience: is asked now and then how much of the timeout is still to be waited for.
        """
        self._stop.set()
        began = time.monotonic()
        while self._thread.is_alive():
            seconds = patience(timeout)
            if time.monotonic() - began > seconds:
                # Soon the study may be another driver's, or `sync`'s.
                self._given_up.set()
                self.unwritten = self.error or f"not finished within {seconds:.0f} s"
                return
            self._thread.join(0.1)
        self.unwritten = self.error

    def _run(self) -> None:
        while not self._stop.is_set():
            self._round(live=True)
            # Longer after a failure: a server that comes back is not met by a crowd of requests.
            self._stop.wait(self.seconds if self.error is None else 5 * self.seconds)
        self._round(live=False)

    def _is_over(self) -> bool:
        """Whether nothing more may be written."""
        return self.lost.is_set() or self._given_up.is_set()

    def _rest(self, seconds: float) -> None:
        """Is called after each run that was written."""
        # Python runs one thread at a time: what this one takes, Tune's loop does not have.
        self._stop.wait(min(REST * seconds, LONGEST_REST))
        if self._is_over():
            raise _Over
        # A round may be long.
        if time.monotonic() - self._copied_at > COPY_SECONDS and not self._stop.is_set():
            self._copy_journal()

    def _round(self, live: bool) -> None:
        if self._is_over():
            return
        if live:
            self._copy_journal()
        try:
            self.mirror.sync(live)
            self.error = None
        except _Over:
            return
        except Exception as e:
            # Tracking must never end a study: it is said at the end and written later.
            if self.error is None:
                logger.exception("MLflow could not be written")
            self.error = " ".join(str(e).split())[:300] or type(e).__name__

    def _copy_journal(self) -> None:
        """A copy that ends with a whole line, whatever is being appended."""
        self._copied_at = time.monotonic()
        with contextlib.suppress(OSError, StorageError):
            whole = self.journal.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            if whole and whole != self._copied:
                self.folder.storage.write(self.folder.journal, whole, durable=False)
                self._copied = whole
