"""What Tune knows of a trial, whether it has a place and why its worker died, and whether it comes
back then."""

import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Crash:
    """A worker that died, by itself as far as Ray knows.

    Attributes:
        node: the id of the one that it last gave a sign of life from, if it gave any.
        reached: the fraction of its trial that was done.
        memory: whether Ray killed it because the machine's memory was nearly full.
    """

    node: str | None
    reached: float
    memory: bool


class Comebacks:
    """Decides which trials come back whose workers died.

    Args:
        retries: how often one does whose worker crashed.
        is_gone: whether a node, by its id, was part of the cluster and is no more.
    """

    def __init__(self, retries: int, is_gone: Callable[[str], bool]) -> None:
        self._retries, self._is_gone = retries, is_gone
        self._crashes: defaultdict[int, list[Crash]] = defaultdict(list)
        self._losses: dict[int, tuple[float, int]] = {}

    def after_loss(self, trial: int, reached: float) -> bool:
        """Counts the nodes that were lost under a trial without its getting any further: one that
        brings its machines down must not do so for ever.

        Args:
            trial: its number.
            reached: the fraction of it that was done.
        """
        furthest, losses = self._losses.get(trial, (-1.0, 0))
        losses = 1 if reached > furthest else losses + 1
        self._losses[trial] = max(reached, furthest), losses
        return losses <= MOST_LOSSES

    def after_crash(self, trial: int, crash: Crash) -> bool:
        """Counts a trial's crashes, but for those that the loss of their machine explains: one that
        is shut down in good order ends its workers some seconds before Ray misses it, which is
        known when the next worker dies."""
        self._crashes[trial] = [
            one
            for one in (*self._crashes[trial], crash)
            if not (one.node and self._is_gone(one.node) and self.after_loss(trial, one.reached))
        ]
        return len(self._crashes[trial]) <= self._retries

    def lacked_memory(self, trial: int) -> bool:
        """Whether one of its workers was killed for lack of memory."""
        return any(crash.memory for crash in self._crashes[trial])


def _kills() -> int:
    with contextlib.suppress(OSError):
        for line in _COUNTERS.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
