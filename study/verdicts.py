"""What so many pairs can show at best, and the verdict on what they do show.

The sign-flip and the signed-rank test alike learn nothing from a pair without a difference: it is
the same with either sign. So where some pairs differ, only those count. docs/method.md says what a
verdict means.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from study.paired_statistics import LEVEL, SIGN_PATTERNS, holm

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE, TOO_FEW = "no difference shown", "too few cases"

# With more pairs patterns are drawn, and the least p-value is that of the draws' number.
MOST_USEFUL = SIGN_PATTERNS.bit_length()


@dataclass(frozen=True)
class Reach:
    """What a row of a table can show at best.

    Attributes:
        smallest_p: the least p-value after Holm's correction, if all its pairs had one sign and the
            table's other rows stayed as they are.
        needed: pairs from which on a verdict is possible, if those that are added differ; 0 where
            it is, and None where no number would do, because the table has too many rows.
    """

    smallest_p: float
    needed: int | None


def reach(pairs: int, differing: int, others: Sequence[float]) -> Reach:
    """What a row can show at best.

    Args:
        pairs: that are compared.
        differing: those with a difference. If none has one, all of them count: two cells that agree
            in many cases are not short of cases.
        others: p-values of the table's other rows, before the correction.
    """
    counted = differing or pairs
    least = smallest_p(counted, others)
    if least <= LEVEL:
        return Reach(least, 0)
    needed = needed_pairs(others)
    return Reach(least, None if needed is None else needed + pairs - counted)


def smallest_p(pairs: int, others: Sequence[float]) -> float:
    """The least p-value after Holm's correction of so many pairs, all of which differ.

    Args:
        pairs: at least one.
        others: p-values of the table's other rows, before the correction.
    """
    least = max(2.0 ** (1 - pairs), 2 / (SIGN_PATTERNS + 1))
    return holm([least, *others])[0]


def needed_pairs(others: Sequence[float]) -> int | None:
    """The least number of pairs, all of which differ, at which a verdict is possible.

    Args:
        others: p-values of the table's other rows, before the correction.

    Returns:
        None where no number would do.
    """
    enough = (n for n in range(1, MOST_USEFUL + 1) if smallest_p(n, others) <= LEVEL)
    return next(enough, None)


def decide(
    difference: float, low: float | None, high: float | None, adjusted_p: float, needed: int | None
) -> str:
    """The verdict: better or worse only where p-value and interval agree on it."""
    if needed != 0 or low is None or high is None:
        return TOO_FEW
    if adjusted_p <= LEVEL and not low <= 0 <= high:
        return BETTER if difference > 0 else WORSE
    return NO_DIFFERENCE
