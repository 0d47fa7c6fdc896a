"""How long fits take together, against schedules that were written down by hand."""

import itertools
import random

import pytest

from study.makespan import lower_bound, makespan, whole_fits_bound


@pytest.mark.parametrize(
    ("durations", "machines", "expected"),
    [
        ([], 2, 0),
        ([5.0], 2, 5),
        ([1.0, 1.0, 4.0], 1, 6),
        # The longest comes last, and one machine waits for it: 1 + 4 beside 2 + 1.
        ([1.0, 2.0, 4.0, 1.0], 2, 5),
        # The longest first: 4 beside 2 + 1 + 1.
        ([4.0, 2.0, 1.0, 1.0], 2, 4),
        # Graham's example of how far the longest first may be off: 5 + 4 + 3 beside 5 + 4, though
        # 5 + 5 beside 4 + 4 + 3 takes 11.
        ([5.0, 5.0, 4.0, 4.0, 3.0], 2, 12),
    ],
)
def test_the_next_fit_goes_where_it_is_free_first(durations, machines, expected):
    assert makespan(durations, machines) == expected


@pytest.mark.parametrize(
    ("durations", "machines", "bound", "whole"),
    [
        ([1.0, 2.0, 3.0], 1, 6, 6),  # the load
        ([9.0, 1.0, 1.0], 2, 9, 9),  # the longest
        ([3.0, 3.0, 3.0], 2, 6, 6),  # two of three share a machine
        ([1.0] * 10, 3, 10 / 3, 4),  # four of ten share one
        ([5.0, 5.0, 4.0, 4.0, 3.0], 2, 10.5, 11),  # of all five some machine gets three
        ([2.0], 512, 2, 2),
    ],
)
def test_bounds_by_hand(durations, machines, bound, whole):
    assert lower_bound(durations, machines) == pytest.approx(bound)
    assert whole_fits_bound(durations, machines) == pytest.approx(whole)


def test_no_assignment_falls_short_of_a_bound():
    numbers = random.Random(0)
    for _ in range(60):
        durations = [numbers.choice((1.0, 2.0, 3.5, 5.0)) for _ in range(numbers.randint(1, 7))]
        machines = numbers.randint(1, 4)
        best = min(
            max(sum(d for d, at in zip(durations, where, strict=True) if at == m) for m in where)
            for where in itertools.product(range(machines), repeat=len(durations))
        )
        assert lower_bound(durations, machines) <= whole_fits_bound(durations, machines)
        assert whole_fits_bound(durations, machines) <= best + 1e-9
        # Graham: the longest first takes at most 4/3 - 1/(3 m) of the best.
        longest_first = makespan(sorted(durations, reverse=True), machines)
        assert best - 1e-9 <= longest_first <= best * (4 / 3 - 1 / (3 * machines)) + 1e-9


def test_more_machines_never_raise_a_bound():
    durations = [random.Random(1).uniform(1, 5) for _ in range(40)]
    for bound in (lower_bound, whole_fits_bound):
        bounds = [bound(durations, machines) for machines in range(1, 60)]
        assert bounds == sorted(bounds, reverse=True)
        assert bounds[0] == pytest.approx(sum(durations))
        assert bounds[-1] == max(durations)
