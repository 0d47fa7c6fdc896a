"""study/run.py with fits that note every iteration in a file of their own; for kill_test.py.

Nothing of the project reads or writes these files, so they tell independently of checkpoints and
records what had been reached when a study was killed, and where the next sitting went on:

    $KILL_TEST_TRACE/<fit key>      '<iteration> <process>', a line each, in the order of doing

An iteration with an evaluation is noted after it, so a trace may lack the last one computed.
"""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from study.driver_log import RAY_ENVIRONMENT

os.environ.update(RAY_ENVIRONMENT)

from ffcad.training import Progress
from study import run, tuning
from study.fits import Fit


class Traced(Iterator):
    """A training that notes each iteration before its fit hears of it, and else is as it was."""

    def __init__(self, training: Any, path: Path) -> None:
        self.training, self.path = training, path

    def __next__(self) -> Progress:
        progress = next(self.training)
        with open(self.path, "a") as f:
            f.write(f"{progress.iteration} {os.getpid()}\n")
        return progress

    def close(self) -> None:
        """Passed on: it writes a checkpoint."""
        self.training.close()

    def throw(self, *error: Any) -> Progress:
        """Passed on: it does not."""
        return self.training.throw(*error)


class TracedFit(Fit):
    """A fit with such a training."""

    def _training(self, *arguments: Any) -> Traced:
        path = Path(os.environ["KILL_TEST_TRACE"]) / self.case.key
        return Traced(super()._training(*arguments), path)


if __name__ == "__main__":
    tuning.make_tuner = functools.partial(tuning.make_tuner, make_fit=TracedFit)
    sys.exit(run.main())
