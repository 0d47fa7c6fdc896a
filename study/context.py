"""What every trial of a study has in common, as the driver hands it to its workers."""

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
    demands: dict[str, Any] | None = None
    asked: frozenset[str] = frozenset()
    more_memory: bool = False

    def rung(self, config: TrainConfig, iteration: int) -> int:
        """Evaluations since the latest possible change of stage; 0 or less before it."""
        return (iteration - self.last_stage_change) // config.evaluate_every
