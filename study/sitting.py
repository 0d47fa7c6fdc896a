"""What a driver holds while it runs a study."""

import dataclasses
from pathlib import Path

from study.config import StudyConfig
from study.encoders import EncoderNeed
from study.inputs import Inputs
from study.leases import Lease
from study.plan import Plan
from study.spaces import Space
from study.trials import StudyFolder


@dataclasses.dataclass(frozen=True)
class Sitting:
    """A study and what a driver needs to run it.

    Attributes:
        config, space, inputs: the study.
        folder: its documents.
        lease: that the driver holds on it.
        plan: what is left.
        journal: file of Optuna's study on this machine.
        encoders: that are made before the trials, by their keys.
    """

    config: StudyConfig
    space: Space
    inputs: Inputs
    folder: StudyFolder
    lease: Lease
    plan: Plan
    journal: Path
    encoders: dict[str, EncoderNeed] = dataclasses.field(default_factory=dict)
