"""What Tune knows of a trial: whether it has a place, and why its worker died."""

import contextlib
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

# What Ray's message has when its memory monitor has killed a worker.
MEMORY = "out of memory issue"
# When a machine was lost: Ray has missed it, or a connection broke and a second later nobody had
# told Ray that the worker is dead, as a machine that is alive does at once. Ray's own mark,
# `preempted`, is there only where a cloud had announced the loss.
LOST_NODE = ("its node has died", "may or may not have been executed on the actor")
# Machines that may be lost under one trial that gets no further in between, or under one making; a
# further one counts as a crash.
MOST_LOSSES = 5
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

    def has_place(self, trial_id: str) -> bool:
        """Whether a trial runs, and no longer waits for cores and its share of a GPU."""
        return any(t.trial_id == trial_id and t.status == Trial.RUNNING for t in self._trials)

    def any_has_place(self) -> bool:
        """Whether any trial runs."""
        return any(t.status == Trial.RUNNING for t in self._trials)

    def lost_its_node(self, trial_id: str) -> bool:
        """Whether a trial that failed did so because its machine is no more, or is cut off.

        Where a machine ends its processes before Ray misses it, they have died by themselves as
        far as Ray knows; and one that is too busy to tell of a worker's death looks lost.
        """
        error = self._error(trial_id)
        return any(said in error for said in LOST_NODE)

    def lacked_memory(self, trial_id: str) -> bool:
        """Whether Ray has killed a trial's worker because the machine's memory was nearly full."""
        return MEMORY in self._error(trial_id)

    def reason(self, memory: bool) -> str:
        """Why a trial's workers died, in one line.

        Args:
            memory: whether Ray has killed one of them for lack of memory.
        """
        said = "its worker process died, and so did the ones that tried again"
        if memory:
            return f"{said}: Ray killed it because the machine's memory was nearly full"
        if _kills() > self._kills:
            # Of this machine alone, and of whatever process.
            return f"{said}; the system has killed processes for lack of memory meanwhile"
        return said

    def _error(self, trial_id: str) -> str:
        with contextlib.suppress(OSError):
            for trial in self._trials:
                if trial.trial_id == trial_id and trial.error_file:
                    return Path(trial.error_file).read_text()
        return ""


def _kills() -> int:
    with contextlib.suppress(OSError):
        for line in _COUNTERS.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
