"""A study's own part in the fits that it needs, which all studies on a storage share.

No time is compared: a fit's are its worker's, a trial's the driver's, and clocks differ.
"""

import dataclasses
from collections.abc import Callable, Iterable

from study.ledger import BEGUN, FAILED, FINISHED, STOPPED, FitRecord, Ledger, LedgerError
from study.outcomes import Outcome
from study.trials import TrialRecord


class OwnFits:
    """Reads what concerns one study.

    Args:
        ledger: of all fits.
        study: its name.
        say: is given a line for each record that cannot be read.

    Attributes:
        passed_over: a configuration's digest -> keys of fits that another study finished and that
            this one's trial had nothing of.
    """

    def __init__(self, ledger: Ledger, study: str, say: Callable[[Iterable[str]], None]) -> None:
        self.ledger, self.study, self.say = ledger, study, say
        self.passed_over: dict[str, set[str]] = {}
        self._finished: dict[str, FitRecord] = {}

    def records(self, outcome: Outcome) -> list[FitRecord]:
        """The records of a configuration's fits, as far as they concern the study."""
        # A finished fit never changes, and on an object store each look is a request.
        keys = [case.key for case in outcome.cases if case.key not in self._finished]
        known, wrong = self.ledger.read_all(keys)
        self.say(wrong)
        self._finished |= {record.key: record for record in known if record.status == FINISHED}
        found = self._finished | {record.key: record for record in known}
        self.passed_over[outcome.first.digest] = passed_over = set()
        records = []
        for trial in outcome.trials:
            for index, case in enumerate(trial.cases):
                record = found.get(case.key)
                if record is None:
                    continue
                if record.study == self.study or self._is_taken(record, trial, index):
                    records.append(record)
                elif record.was_worked_at_by(self.study):
                    records += self._left(record, trial)
                elif record.status == FINISHED:
                    passed_over.add(case.key)
        return records

    def _left(self, record: FitRecord, trial: TrialRecord) -> list[FitRecord]:
        """What the study did of a fit before another one took it up, as it ended with its trial;
        empty where that was not kept."""
        try:
            left = self.ledger.left(record.key, self.study)
        except LedgerError as e:
            self.say([str(e)])
            return []
        # One that was taken up before the driver could say how it ended is not ended in its record.
        return [] if left is None else [ended_with(trial, left)]

    def _is_taken(self, record: FitRecord, trial: TrialRecord, index: int) -> bool:
        """Whether another study's fit is a result of this one's trial.

        Args:
            record: of the fit.
            trial: that needs it.
            index: of the fit's case in the trial.
        """
        if record.status != FINISHED:
            return False  # That study's own affair.
        if trial.state not in (STOPPED, FAILED):
            return True
        if len(trial.cases) > 1:
            # Its rungs are the cases that it had the results of, and it walks them in their order.
            return index < max(trial.intermediate, default=0)
        # Its rungs are evaluations. Either it saw those of a fit that was finished, or it worked
        # at the fit itself, which another study finished afterwards.
        return bool(trial.intermediate) and not record.was_worked_at_by(self.study)


def ended_with(trial: TrialRecord, fit: FitRecord) -> FitRecord:
    """A fit as it ended with its trial: one that was not done ends as the trial does."""
    if fit.status != BEGUN or trial.state not in (STOPPED, FAILED):
        return fit
    error = fit.error or (trial.error if trial.state == FAILED else None)
    return dataclasses.replace(fit, status=trial.state, ended=trial.ended, error=error)
