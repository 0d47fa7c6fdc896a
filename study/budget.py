"""What became of the iterations that a study's trials were allowed: spent, or spared by what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from study.ledger import FAILED, FINISHED, STOPPED, FitRecord
from study.trials import RETIRED, TrialRecord


@dataclass(frozen=True)
class Budget:
    """Iterations of a study's decided trials.

    Attributes:
        whole: of their whole trainings; the others add up to it.
        spent: that this study did.
        reused: that other studies did, in whatever trial.
        stopped: that nobody did, because the trial was stopped early.
        failed: that nobody did, because the trial failed.
    """

    whole: int = 0
    spent: int = 0
    reused: int = 0
    stopped: int = 0
    failed: int = 0


def budget_of(trials: Iterable[TrialRecord], fits: Mapping[str, FitRecord]) -> Budget:
    """Adds up what the trials' records and their fits' say.

    Args:
        trials: of a study; those that are not decided, and retired ones, do not count.
        fits: the records that there are of their fits, by key.
    """
    decided = [trial for trial in trials if trial.decided and trial.state != RETIRED]
    left = dict.fromkeys((FINISHED, STOPPED, FAILED), 0)
    reused = 0
    for trial in decided:
        unspent = trial.budget - trial.spent
        others = unspent
        if trial.state != FINISHED:  # Of one that finished, others did all that it did not.
            done = sum(fits[case.key].iteration for case in trial.cases if case.key in fits)
            others = min(unspent, max(0, done - trial.spent))
        reused += others
        left[trial.state] += unspent - others
    return Budget(
        whole=sum(trial.budget for trial in decided),
        spent=sum(trial.spent for trial in decided),
        reused=reused,
        stopped=left[STOPPED],
        failed=left[FAILED],
    )
