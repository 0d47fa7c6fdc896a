"""What every trial of a study has in common, as the driver hands it to its workers."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ffcad.config import TrainConfig
from study.config import StudyConfig
from study.inputs import Inputs


@dataclass(frozen=True)
class StudyContext:
    """Small, and pickled once.

    Attributes:
        study: with absolute paths.
        inputs: digests that the worker's own data must agree with.
        last_stage_change: the latest iteration, of all configurations, at which stage two begins.
        rungs: of a whole trial.
        environment: of the driver: git revision and whether the tree was dirty.
        driver: the driver's lease, whose end is the workers' end too.
        worker: which of the driver's workers this is. Ray starts one again where its machine was
            lost, and never has two of them.
        demands: what a node must answer before its first fit; None on one machine.
        asked: ids of the nodes that the driver has asked already.
        more_memory: whether a fit that runs out of memory comes back with more of a GPU, and has
            not failed.
    """

    study: StudyConfig
    inputs: Inputs
    last_stage_change: int
    rungs: int
    environment: dict[str, Any]
    driver: str | None = None
    worker: str | None = None
    demands: dict[str, Any] | None = None
    asked: frozenset[str] = frozenset()
    more_memory: bool = False

    def of_worker(self, name: str) -> "StudyContext":
        """The context as one worker has it."""
        worker = None if self.driver is None else f"{name} of {self.driver}"
        return dataclasses.replace(self, worker=worker)

    def rung(self, config: TrainConfig, iteration: int) -> int:
        """Evaluations since the latest possible change of stage; 0 or less before it."""
        return (iteration - self.last_stage_change) // config.evaluate_every
