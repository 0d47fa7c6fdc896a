"""What a study knows of its configurations, from its trials."""

from dataclasses import dataclass
from statistics import fmean

from study.ledger import BEGUN, FAILED, FINISHED, STOPPED
from study.trials import RETIRED, Case, TrialRecord


@dataclass(frozen=True)
class Outcome:
    """What a study knows of a configuration: one trial of a search, several of a grid.

    Attributes:
        trials: of the configuration, by number.
        state: begun, finished, stopped or failed.
        value: mean objective, of a finished one.
    """

    trials: tuple[TrialRecord, ...]
    state: str
    value: float | None

    @property
    def first(self) -> TrialRecord:
        """Its first trial, whose configuration all of them have."""
        return self.trials[0]

    @property
    def cases(self) -> list[Case]:
        """All cases that it is fitted on, so far."""
        return [case for trial in self.trials for case in trial.cases]


def outcomes(trials: list[TrialRecord], cases: int) -> list[Outcome]:
    """The configurations of a study, in the order of their first trials; retired ones left out.

    Args:
        trials: of the study.
        cases: of the study; a grid's configuration is finished when it has all of them.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.state != RETIRED:
            groups.setdefault(trial.digest, []).append(trial)
    result = []
    for group in groups.values():
        states = {trial.state for trial in group}
        complete = sum(len(trial.cases) for trial in group) >= cases
        order = (FAILED, BEGUN, STOPPED, FINISHED) if complete else (FAILED, BEGUN)
        state = next((s for s in order if s in states), BEGUN)
        value = fmean(trial.value for trial in group) if state == FINISHED else None
        result.append(Outcome(tuple(group), state, value))
    return result
