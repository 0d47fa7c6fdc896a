"""Iterations that a study spent, and what spared the others: each is counted once."""

import pytest

from study.budget import Budget, budget_of
from study.ledger import FitRecord
from study.trials import Case, TrialRecord


def trial(state, spent, *fits):
    """A trial on cases of 1,000 iterations, with the iterations that their fits have by now."""
    cases = tuple(Case("wood", seed, f"{state}-{seed}") for seed in range(len(fits)))
    return TrialRecord(
        number=0, state=state, drawn={}, configuration={}, digest="d", cases=cases,
        budget=1000 * len(fits), spent=spent,
    ), {
        case.key: FitRecord(
            key=case.key, status="begun", study="any", trial=0, configuration={}, digest="d",
            category="wood", seed=case.seed, select_on="holdout", inputs={}, iteration=done,
        )
        for case, done in zip(cases, fits, strict=True) if done is not None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "spent", "fits", "expected"),
    [
        ("finished", 2000, (1000, 1000), {}),
        ("finished", 1000, (1000, 1000), {"reused": 1000}),
        # Its record cannot be read; that it finished is known.
        ("finished", 1000, (1000, None), {"reused": 1000}),
        ("stopped", 400, (400, None, None), {"stopped": 2600}),
        # The first case was another study's, and so were 100 iterations of the second.
        ("stopped", 300, (1000, 400, None), {"reused": 1100, "stopped": 1600}),
        ("failed", 300, (1000, 300), {"reused": 1000, "failed": 700}),
        # What a worker did after its last report.
        ("stopped", 500, (400,), {"stopped": 500}),
        ("begun", 300, (1000, 300), None),
        ("retired", 300, (1000, 300), None),
    ],
)
def test_what_is_left_of_a_trial_has_one_reason_each(state, spent, fits, expected):
    record, fits_by_key = trial(state, spent, *fits)
    found = budget_of([record], fits_by_key)
    if expected is None:
        assert found == Budget()
        return
    assert found == Budget(whole=1000 * len(fits), spent=spent, **expected)
    assert found.whole == found.spent + found.reused + found.stopped + found.failed
