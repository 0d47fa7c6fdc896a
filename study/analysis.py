"""What a study's cases say of its cells, on the categories that it has.

Every cell is compared with one reference cell, case by case: both were fitted on the same images
from the same random numbers, so what differs is the configuration. docs/method.md says what each
figure means and assumes. All metrics are such that more is better.

Whether the same would hold on other categories is another question, and has another module:
`study/category_analysis.py`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from study.paired_statistics import (
    LEVEL,
    SIGN_PATTERNS,
    Scores,
    by_category,
    holm,
    seed_interval,
    shared_seed_p,
    sign_flip_p,
    spread,
)

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE, TOO_FEW = "no difference shown", "too few cases"


class AnalysisError(ValueError):
    """Results that cannot be analysed as they are."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference that every case has a value of, averaged over the study's own categories.

    Attributes:
        metric: its name.
        pairs: cases that have all that is compared.
        unpaired: cases that lack some of it, which are left out.
        categories: of the pairs.
        difference: mean over the categories of the mean over their seeds.
        low, high: 95 % interval of the difference; None where no category has two seeds.
        p_value: of the sign-flip test.
        probability_better: that the difference is above 0 once the luck of the seeds is averaged
            out; None where there is no interval.
        worst_category, worst_difference: where the mean over the seeds is least.
        seed_spread, category_spread: of the differences; see `Spread`.
        shared_seed_p: where it is small, a seed is lucky in several categories at once, and the
            interval and the p-value are too sure; None where that cannot be seen.
        adjusted_p: after Holm's correction over the table, as the next three.
        smallest_p: the least adjusted p that this many pairs can reach.
        needed_pairs: pairs from which on a verdict is possible; 0 where it is. Where `lacks_seeds`,
            more categories are of no use.
        verdict: better, worse, no difference shown, or too few cases.
    """

    metric: str
    pairs: int
    unpaired: int
    categories: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    probability_better: float | None
    worst_category: str
    worst_difference: float
    seed_spread: float | None
    category_spread: float | None
    shared_seed_p: float | None
    adjusted_p: float = 1.0
    smallest_p: float = 1.0
    needed_pairs: int = 0
    verdict: str = TOO_FEW

    @property
    def lacks_seeds(self) -> bool:
        """Whether no category has two seeds: then there is no interval, and so no verdict, however
        many categories there are."""
        return self.low is None


@dataclass(frozen=True, kw_only=True)
class Comparison(Contrast):
    """A cell against the reference cell.

    Attributes:
        cell: its name.
        mean, reference_mean: of the two cells, over the categories' means of the paired cases;
            their difference is `difference`.
    """

    cell: str
    mean: float
    reference_mean: float


C = TypeVar("C", bound=Contrast)


def compare_cells(
    cells: Mapping[str, Scores], reference: str, metric: str, *, seed: int = 0
) -> list[Comparison]:
    """Every cell against the reference cell; the table that is corrected for is what comes back.

    Args:
        cells: name -> scores.
        reference: the name of one of them.
        metric: what the scores are, for messages and the result.
        seed: of the sign patterns, where they are too many to go through.

    Returns:
        One comparison per cell, in the order given; the reference and cells that share no case
        with it are left out.

    Raises:
        AnalysisError: if there is no such cell, or a score is not finite.
    """
    check_scores(cells, reference, metric)
    scores = cells[reference]
    compared = [
        _compare(name, metric, cell, scores, seed)
        for name, cell in cells.items()
        if name != reference and set(cell) & set(scores)
    ]
    return correct_together(compared)


def correct_together(comparisons: Sequence[C]) -> list[C]:
    """The same contrasts with Holm's correction over all of them, and verdicts that follow.

    For a table that shows several metrics: each of its differences is a chance to find one that is
    not there.
    """
    m = len(comparisons)
    adjusted = holm([c.p_value for c in comparisons])
    result = []
    for comparison, p in zip(comparisons, adjusted, strict=True):
        least = smallest_p(comparison.pairs, m)
        needed = 0 if least <= LEVEL else needed_pairs(m)
        if comparison.lacks_seeds:
            # One more case than there are categories gives one of them a second seed.
            needed = max(needed_pairs(m), comparison.categories + 1)
        verdict = decide(comparison.difference, comparison.low, comparison.high, p, needed)
        changes = {"adjusted_p": p, "smallest_p": least, "needed_pairs": needed}
        result.append(dataclasses.replace(comparison, **changes, verdict=verdict))
    return result


def smallest_p(pairs: int, comparisons: int) -> float:
    """The least p-value that a sign-flip test can reach after Holm's correction.

    Args:
        pairs: cases that both cells have.
        comparisons: in the table.
    """
    least = max(2.0 ** (1 - pairs), 2 / (SIGN_PATTERNS + 1))
    return min(1.0, comparisons * least)


def needed_pairs(comparisons: int) -> int:
    """The least number of pairs at which one of so many comparisons can have a verdict."""
    return math.ceil(math.log2(2 * comparisons / LEVEL))


def decide(
    difference: float, low: float | None, high: float | None, adjusted_p: float, needed: int
) -> str:
    """The verdict: better or worse only where p-value and interval agree on it."""
    if needed or low is None or high is None:
        return TOO_FEW
    if adjusted_p <= LEVEL and not low <= 0 <= high:
        return BETTER if difference > 0 else WORSE
    return NO_DIFFERENCE


def check_scores(cells: Mapping[str, Scores], reference: str, metric: str) -> None:
    """Refuses a reference that is no cell, and scores that are no number."""
    if reference not in cells:
        names = ", ".join(map(repr, cells))
        raise AnalysisError(f"the reference must be one of the cells {names} but got {reference!r}")
    for name, scores in cells.items():
        for (category, seed), value in scores.items():
            if not math.isfinite(value):
                raise AnalysisError(
                    f"cell {name!r} has {metric} {value} in category {category!r}, seed {seed}; "
                    "leave out fits without a finite result"
                )


def paired_differences(cell: Scores, reference: Scores) -> dict[tuple[str, int], float]:
    """The cell's score minus the reference's, of each case that both have."""
    return {case: cell[case] - reference[case] for case in sorted(set(cell) & set(reference))}


def measure(metric: str, scores: Scores, unpaired: int, seed: int) -> Contrast:
    """The contrast that has these values, by itself: nothing is corrected or decided.

    Args:
        metric: its name.
        scores: the difference of each case; at least one.
        unpaired: cases that were left out.
        seed: of the sign patterns, where they are too many to go through.
    """
    means = {category: float(group.mean()) for category, group in by_category(scores).items()}
    worst = min(means, key=means.__getitem__)
    low, high, probability = seed_interval(scores) or (None, None, None)
    spreads = spread(scores)
    return Contrast(
        metric=metric,
        pairs=len(scores),
        unpaired=unpaired,
        categories=len(means),
        difference=spreads.mean,
        low=low,
        high=high,
        p_value=sign_flip_p(scores, seed),
        probability_better=probability,
        worst_category=worst,
        worst_difference=means[worst],
        seed_spread=spreads.seeds,
        category_spread=spreads.categories,
        shared_seed_p=shared_seed_p(scores),
    )


def _compare(name: str, metric: str, cell: Scores, reference: Scores, seed: int) -> Comparison:
    paired = paired_differences(cell, reference)
    measured = measure(metric, paired, len(set(cell) ^ set(reference)), seed)
    return Comparison(
        cell=name,
        mean=spread({case: cell[case] for case in paired}).mean,
        reference_mean=spread({case: reference[case] for case in paired}).mean,
        **dataclasses.asdict(measured),
    )
