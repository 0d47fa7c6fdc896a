"""Which of the fits on a storage are a study's own, whatever the clocks of the machines say."""

from types import SimpleNamespace

import pytest
from test_tracking import fit, sitting, trial

from study.ledger import Ledger
from study.outcomes import outcomes
from study.own_fits import OwnFits
from study.storage import Storage
from study.tracking import Mirror

# Ends of fits on a machine whose clock is behind the driver's, and on one whose clock is ahead.
SKEWED = pytest.mark.parametrize("ended", [60.0, 180.0])


@pytest.fixture
def own(tmp_path):
    """Writes fits; gives those that concern a study with this trial, and those passed over."""
    ledger, said = Ledger(Storage(tmp_path)), []

    def look(record, *fits):
        for each in fits:
            ledger.write(each)
        (outcome,) = outcomes([record], cases=len(record.cases))
        fits = OwnFits(ledger, "mine", said.extend)
        found = [(each.key, each.status) for each in fits.records(outcome)]
        assert not said
        return found, fits.passed_over[record.digest]

    return look


@SKEWED
@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_studys_own_finished_fit_is_its_result_whatever_its_worker_s_clock_says(
    own, ended, state
):
    record = trial(0, state, "a0", "a1", intermediate={1: 0.4})
    fits = fit("a0", "finished", ended=ended), fit("a1", state, ended=ended)
    assert own(record, *fits) == ([("a0", "finished"), ("a1", state)], set())


@SKEWED
def test_what_others_finished_is_the_result_of_the_cases_that_a_trial_came_to(own, ended):
    record = trial(0, "stopped", "a0", "a1", "a2", intermediate={1: 0.4, 2: 0.4})
    others = [fit(case.key, "finished", study="other", ended=ended) for case in record.cases]
    assert own(record, *others) == ([("a0", "finished"), ("a1", "finished")], {"a2"})


@SKEWED
def test_what_others_finished_of_a_fit_that_was_left_is_not_a_result(own, ended):
    changes = {"study": "other", "ended": ended, "sittings": [sitting("mine"), sitting("other")]}
    several = trial(0, "stopped", "a0", "a1", intermediate={1: 0.4})
    fits = fit("a0", "finished"), fit("a1", "finished", **changes)
    # Nor is it one that was passed over: there is a run of what this study did of it.
    assert own(several, *fits) == ([("a0", "finished")], set())
    one = trial(1, "stopped", "b0", intermediate={1: 0.2, 2: 0.3})
    assert own(one, fit("b0", "finished", **changes)) == ([], set())


def test_a_trial_that_was_stopped_at_the_rungs_of_a_finished_fit_has_that(own):
    record = trial(0, "stopped", "a0", intermediate={1: 0.2})
    others = fit("a0", "finished", study="other")
    assert own(record, others) == ([("a0", "finished")], set())


def test_what_others_are_at_is_their_own_affair(own):
    record = trial(0, "begun", "a0", "a1", ended=None)
    begun = fit("a0", "begun", study="other"), fit("a1", "stopped", study="other")
    assert own(record, *begun) == ([], set())
    finished = fit("a0", "finished", study="other")
    assert own(record, finished) == ([("a0", "finished")], set())


def test_a_fit_of_two_configurations_is_below_the_first_one_that_came_to_it():
    groups = [
        SimpleNamespace(first=SimpleNamespace(digest=digest), cases=[SimpleNamespace(key="shared")])
        for digest in ("stopped before it", "finished", "finished too")
    ]
    passed_over = {"stopped before it": {"shared"}, "finished": set(), "finished too": set()}
    mirror = SimpleNamespace(fits=SimpleNamespace(passed_over=passed_over))
    assert Mirror._owners(mirror, groups) == {"shared": "finished"}
    passed_over["finished"] = passed_over["finished too"] = {"shared"}
    assert Mirror._owners(mirror, groups) == {"shared": "stopped before it"}
