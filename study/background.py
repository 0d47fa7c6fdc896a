"""MLflow's one writer while a study runs: a thread of the driver."""

import logging
import threading

from study.config import StudyConfig
from study.tracking import Mirror

logger = logging.getLogger("study.tracking")


class BackgroundMirror:
    """Runs a `Mirror` in a thread, beside the driver's loop and never in its way.

    Args:
        config: the study.
        seconds: between two rounds.
    """

    def __init__(self, config: StudyConfig, seconds: float = 2.0) -> None:
        self.mirror = Mirror(config)
        self.seconds = seconds
        self.error: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def finish(self, timeout: float) -> str | None:
        """Writes the rest and ends.

        Returns:
            Why something is left unwritten, in one line, or None.
        """
        self._stop.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return self.error or f"it did not answer within {timeout:.0f} s"
        return self.error

    def _run(self) -> None:
        while not self._stop.is_set():
            self._round(live=True)
            # Longer after a failure: a server that comes back is not met by a crowd of requests.
            self._stop.wait(self.seconds if self.error is None else 5 * self.seconds)
        self._round(live=False)

    def _round(self, live: bool) -> None:
        try:
            self.mirror.sync(live)
            self.error = None
        except Exception as e:
            # Tracking must never end a study: it is said at the end and written later.
            logger.exception("MLflow could not be written")
            self.error = " ".join(str(e).split())[:300] or type(e).__name__
