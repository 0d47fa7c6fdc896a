"""Why a trial's worker process died, as far as anybody tells."""

import contextlib
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

# What Ray's message has when its memory monitor has killed a worker.
MEMORY = "out of memory issue"
# Where Linux counts the processes that it killed for lack of memory.
_COUNTERS = Path("/proc/vmstat")


class WorkerDeaths(Callback):
    """Remembers Tune's trials, whose files say how their workers died."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []
        self._kills = _kills()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune again and again, before any worker of a new trial can have died."""
        self._trials = trials

    def reason(self, trial_id: str) -> tuple[str, bool]:
        """Why the workers of a trial that Tune gave up died.

        Returns:
            One line; and whether it was surely for lack of memory, which is the configuration's
            own: to try it again at the next sitting would end like this.
        """
        said = "its worker process died, and so did the ones that tried again"
        text = ""
        with contextlib.suppress(OSError):
            for trial in self._trials:
                if trial.trial_id == trial_id and trial.error_file:
                    text = Path(trial.error_file).read_text()
        if MEMORY in text:
            return f"{said}: Ray killed it because the machine's memory was nearly full", True
        if _kills() > self._kills:
            # Of this machine alone, and of whatever process.
            return f"{said}; the system has killed processes for lack of memory meanwhile", False
        return said, False


def _kills() -> int:
    with contextlib.suppress(OSError):
        for line in _COUNTERS.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
