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
    DECIMALS,
    Scores,
    by_category,
    holm,
    seed_interval,
    shared_seed_p,
    sign_flip_p,
    spread,
)
from study.verdicts import TOO_FEW, decide, reach


class AnalysisError(ValueError):
    """Results that cannot be analysed as they are."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference that every case has a value of, averaged over the study's own categories.

    Attributes:
        metric: its name.
        pairs: cases that have all that is compared.
        differing: those of them whose difference is not 0.
        unpaired: cases that lack some of it, which are left out.
        categories: of the pairs.
        difference: mean over the categories of the mean over their seeds.
        low, high: 95 % interval of the difference; None where no category has two seeds.
        p_value: of the sign-flip test.
        probability_better: that the difference is above 0 once the luck of the seeds is averaged
            out; None where there is no interval.
        seed_spread, category_spread: of the differences; see `Spread`.
        shared_seed_p: where it is small, a seed is lucky in several categories at once, and the
            interval and the p-value are too sure; None where that cannot be seen.
        adjusted_p: after Holm's correction over the table, as the next three.
        smallest_p: the least adjusted p that these pairs could reach; see `Reach`, as for the next.
        needed_pairs: pairs from which on a verdict is possible; 0 where it is. Where `lacks_seeds`,
            more categories are of no use.
        verdict: better, worse, no difference shown, or too few cases.
    """

    metric: str
    pairs: int
    differing: int
    unpaired: int
    categories: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    probability_better: float | None
    seed_spread: float | None
    category_spread: float | None
    shared_seed_p: float | None
    adjusted_p: float = 1.0
    smallest_p: float = 1.0
    needed_pairs: int | None = 0
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
        worst_category, worst_difference: where the difference's mean over the seeds is least.
    """

    cell: str
    mean: float
    reference_mean: float
    worst_category: str
    worst_difference: float


C = TypeVar("C", bound=Contrast)


def compare_cells(
    scores: Mapping[str, Mapping[str, Scores]], reference: str, *, seed: int = 0
) -> list[Comparison]:
    """Every cell against the reference cell; the table that is corrected for is what comes back.

    Args:
        scores: metric -> cell -> scores.
        reference: a cell that every metric has.
        seed: of the sign patterns, where they are too many to go through.

    Returns:
        One comparison per metric and cell, in the order given; the reference and cells that share
        no case with it are left out.

    Raises:
        AnalysisError: if a metric has no such cell, or a score is not finite.
    """
    compared = []
    for metric, cells in scores.items():
        check_scores(cells, reference, metric)
        compared += [
            _compare(name, metric, cell, cells[reference], seed)
            for name, cell in cells.items()
            if name != reference and set(cell) & set(cells[reference])
        ]
    return correct_together(compared)


def correct_together(contrasts: Sequence[C]) -> list[C]:
    """The same contrasts with Holm's correction over all of them, and verdicts that follow.

    All of a table, also where it shows several metrics: each of its differences is a chance to find
    one that is not there.
    """
    p_values = [c.p_value for c in contrasts]
    result = []
    for i, (contrast, p) in enumerate(zip(contrasts, holm(p_values), strict=True)):
        others = p_values[:i] + p_values[i + 1 :]
        best = reach(contrast.pairs, contrast.differing, others)
        needed = best.needed
        if contrast.lacks_seeds and needed is not None:
            # One more case than there are categories gives one of them a second seed.
            needed = max(needed, contrast.categories + 1)
        verdict = decide(contrast.difference, contrast.low, contrast.high, p, needed)
        changes = {"adjusted_p": p, "smallest_p": best.smallest_p, "needed_pairs": needed}
        result.append(dataclasses.replace(contrast, **changes, verdict=verdict))
    return result


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
    shared = sorted(set(cell) & set(reference))
    # Equal scores must differ by 0, and not by what is left of rounding, which has a sign.
    return {case: round(cell[case] - reference[case], DECIMALS) for case in shared}


def measure(metric: str, scores: Scores, unpaired: int, seed: int) -> Contrast:
    """The contrast that has these values, by itself: nothing is corrected or decided.

    Args:
        metric: its name.
        scores: the difference of each case; at least one.
        unpaired: cases that were left out.
        seed: of the sign patterns, where they are too many to go through.
    """
    low, high, probability = seed_interval(scores) or (None, None, None)
    spreads = spread(scores)
    return Contrast(
        metric=metric,
        pairs=len(scores),
        differing=sum(bool(value) for value in scores.values()),
        unpaired=unpaired,
        categories=len(by_category(scores)),
        difference=spreads.mean,
        low=low,
        high=high,
        p_value=sign_flip_p(scores, seed),
        probability_better=probability,
        seed_spread=spreads.seeds,
        category_spread=spreads.categories,
        shared_seed_p=shared_seed_p(scores),
    )


def _compare(name: str, metric: str, cell: Scores, reference: Scores, seed: int) -> Comparison:
    paired = paired_differences(cell, reference)
    measured = measure(metric, paired, len(set(cell) ^ set(reference)), seed)
    means = {category: float(group.mean()) for category, group in by_category(paired).items()}
    worst = min(means, key=means.__getitem__)
    return Comparison(
        cell=name,
        mean=spread({case: cell[case] for case in paired}).mean,
        reference_mean=spread({case: reference[case] for case in paired}).mean,
        worst_category=worst,
        worst_difference=means[worst],
        **dataclasses.asdict(measured),
    )
