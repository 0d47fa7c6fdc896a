"""What a study's cases say of its cells on categories like those that it has.

Here the categories are the sample and their mean differences the replicates; the seeds only make
these means steadier. The question is harder than that of `study/analysis.py`, because how much a
configuration helps differs from category to category, and it is asked of six categories at least.
docs/method.md says what each figure means and assumes.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.analysis import AnalysisError, check_scores, paired_differences
from study.paired_statistics import DECIMALS, LEVEL, Scores, by_category, flipped_p, holm
from study.verdicts import TOO_FEW, decide, reach

# With five, Wilcoxon's test cannot reach 0.05, and no interval holds its level.
FEWEST_CATEGORIES = 6
RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class CategoryComparison:
    """A cell against the reference cell in one metric, the categories being a sample.

    Attributes:
        cell: its name.
        metric: its name.
        categories: in which both cells have a case.
        better_in, worse_in: categories with a mean difference above and below 0.
        difference: mean over the categories of their mean differences.
        low, high: 95 % interval of the mean difference over all categories like these.
        p_value: of Wilcoxon's signed-rank test.
        probability_better: that the mean difference over all categories like these is above 0.
        adjusted_p: after Holm's correction over the table, as the next three.
        smallest_p: the least adjusted p that these categories could reach; see `Reach`, as for the
            next.
        needed_categories: from which on a verdict is possible; 0 where it is.
        verdict: better, worse, no difference shown, or too few cases.
    """

    cell: str
    metric: str
    categories: int
    better_in: int
    worse_in: int
    difference: float
    low: float
    high: float
    p_value: float
    probability_better: float
    adjusted_p: float = 1.0
    smallest_p: float = 1.0
    needed_categories: int | None = 0
    verdict: str = TOO_FEW


def compare_over_categories(
    cells: Mapping[str, Scores], reference: str, metric: str, *, seed: int = 0
) -> list[CategoryComparison]:
    """Every cell against the reference cell; the table that is corrected for is what comes back.

    Args:
        cells: name -> scores.
        reference: the name of one of them.
        metric: what the scores are, for messages and the result.
        seed: of the resampling, and of sign patterns where they are drawn.

    Returns:
        One comparison per cell, in the order given; the reference and cells that share fewer than
        six categories with it are left out.

    Raises:
        AnalysisError: if no cell shares six categories with the reference, if there is no such
            reference, or a score is not finite.
    """
    check_scores(cells, reference, metric)
    compared = []
    most = 0
    for name, cell in cells.items():
        if name == reference:
            continue
        groups = by_category(paired_differences(cell, cells[reference]))
        most = max(most, len(groups))
        if len(groups) >= FEWEST_CATEGORIES:
            means = np.round([group.mean() for group in groups.values()], DECIMALS)
            compared.append(_compare(name, metric, means, seed))
    if not compared:
        raise AnalysisError(
            f"statements on categories like these need at least {FEWEST_CATEGORIES} categories "
            f"that a cell and the reference have in common but got {most}; finish them, give more "
            "with --categories, or read the table on these categories"
        )
    return _judged(compared)


def signed_rank_p(means: NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945), exact.

    Args:
        means: (K,) differences; zeros are left out, as Wilcoxon does. Equal sizes share the mean of
            their ranks; SciPy's exact distribution does not know such ranks, so there the signs of
            the ranks are flipped instead: all patterns of up to 16, random ones beyond.
        seed: of the random ones.
    """
    other = means[means != 0]
    if not len(other):
        return 1.0
    ranks = stats.rankdata(np.abs(other))
    if len(set(ranks.tolist())) < len(ranks):
        return flipped_p(np.sign(other) * ranks, seed)
    return float(stats.wilcoxon(other, method="exact").pvalue)


def category_interval(means: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """What is known of the mean over all categories like these.

    The categories are resampled and each resample's mean taken in units of its own standard error
    (the bootstrap-t of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5).
    Of its interval and Student's each end is the farther one: the first one is too short where few
    categories differ at all, the second where the differences are skewed. SciPy's percentile and
    BCa intervals are too short for 6 to 15 categories: docs/method.md has the figures.

    Args:
        means: (K,) differences, K >= 2.
        seed: of the resampling.

    Returns:
        Low and high end of the 95 % interval, and the probability that the mean is above 0, by
        Student's t if nothing was known of it before.
    """
    size, mean = len(means), float(means.mean())
    if not np.ptp(means):
        return mean, mean, 0.5 + 0.5 * float(np.sign(mean))
    error = means.std(ddof=1) / math.sqrt(size)
    drawn = means[np.random.default_rng(seed).integers(size, size=(RESAMPLES, size))]
    # A resample of equal values has no standard error; it is drawn where many categories tie.
    drawn = drawn[np.ptp(drawn, axis=1) > 0]
    t = (drawn.mean(axis=1) - mean) / (drawn.std(axis=1, ddof=1) / math.sqrt(size))
    least, most = np.quantile(t, [LEVEL / 2, 1 - LEVEL / 2])
    student = stats.t.ppf(1 - LEVEL / 2, size - 1)
    low, high = mean - error * max(most, student), mean - error * min(least, -student)
    return float(low), float(high), float(stats.t.cdf(mean / error, size - 1))


def _compare(name: str, metric: str, means: NDArray[np.float64], seed: int) -> CategoryComparison:
    low, high, probability = category_interval(means, seed)
    return CategoryComparison(
        cell=name,
        metric=metric,
        categories=len(means),
        better_in=int((means > 0).sum()),
        worse_in=int((means < 0).sum()),
        difference=float(means.mean()),
        low=low,
        high=high,
        p_value=signed_rank_p(means, seed),
        probability_better=probability,
    )


def _judged(compared: list[CategoryComparison]) -> list[CategoryComparison]:
    """The same with Holm's correction over all of them, and verdicts that follow."""
    p_values = [c.p_value for c in compared]
    result = []
    for i, (c, p) in enumerate(zip(compared, holm(p_values), strict=True)):
        best = reach(c.categories, c.better_in + c.worse_in, p_values[:i] + p_values[i + 1 :])
        verdict = decide(c.difference, c.low, c.high, p, best.needed)
        changes = {
            "adjusted_p": p,
            "smallest_p": best.smallest_p,
            "needed_categories": best.needed,
        }
        result.append(dataclasses.replace(c, **changes, verdict=verdict))
    return result
