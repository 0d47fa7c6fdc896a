"""Arithmetic of paired differences: spread, interval and test of scores over cases.

docs/method.md says what each figure means and assumes; `study/analysis.py` makes tables of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# (category, seed) -> a metric's value, or a difference of two.
Scores = Mapping[tuple[str, int], float]

# Of intervals, and of p-values after Holm's correction.
LEVEL = 0.05
# Up to 16 pairs all sign patterns are gone through; beyond, this many are drawn.
SIGN_PATTERNS = 99_999
DRAWN_AT_ONCE = 10_000
# Of metrics, which are between 0 and 1; beyond is what is left of rounding.
DECIMALS = 12


@dataclass(frozen=True)
class Spread:
    """How much scores differ between seeds, and between categories.

    Attributes:
        mean: over the categories' means.
        seeds: standard deviation over the seeds of a category, pooled over the categories; None
            where no category has two seeds.
        categories: standard deviation of what the categories' means would be without the seeds'
            share in it; None with one category or without `seeds`.
    """

    mean: float
    seeds: float | None
    categories: float | None


def spread(scores: Scores) -> Spread:
    """Mean, spread over seeds and spread over categories of a cell's scores, or of differences."""
    groups = list(by_category(scores).values())
    means = np.array([group.mean() for group in groups])
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return Spread(float(means.mean()), None, None)
    pooled = sum((len(group) - 1) * group.var(ddof=1) for group in groups if len(group) > 1)
    pooled = float(pooled / freedom)
    categories = None
    if len(groups) > 1:
        of_seeds = np.mean([pooled / len(group) for group in groups])
        categories = math.sqrt(max(0.0, float(means.var(ddof=1) - of_seeds)))
    return Spread(float(means.mean()), math.sqrt(pooled), categories)


def seed_interval(scores: Scores) -> tuple[float, float, float] | None:
    """What is known of the mean over the categories, if only the seeds were drawn at random.

    From a t distribution around the mean. Each category has a variance of its own; their sum has
    the degrees of freedom of Welch and Satterthwaite (Satterthwaite, Biometrics Bulletin 2, 1946).
    A category with one seed takes the pooled variance of the others. Resampling the seeds within
    the categories, which would assume nothing of their distribution, gives far too short intervals
    with the two to five seeds that a study can afford: docs/method.md has the figures.

    Returns:
        Low and high end of the 95 % interval, and the probability that the mean is above 0, if
        nothing was known of it before; None where no category has two seeds.
    """
    groups = list(by_category(scores).values())
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    sizes = np.array([len(group) for group in several])
    singles = len(groups) - len(several)
    variances = np.array([group.var(ddof=1) for group in several])
    shares = variances * (1 / sizes + singles * (sizes - 1) / (sizes - 1).sum())
    mean = float(np.mean([group.mean() for group in groups]))
    if not shares.any():
        return mean, mean, 0.5 + 0.5 * float(np.sign(mean))
    freedom = shares.sum() ** 2 / np.sum(shares**2 / (sizes - 1))
    error = math.sqrt(shares.sum()) / len(groups)
    half = error * float(stats.t.ppf(1 - LEVEL / 2, freedom))
    return mean - half, mean + half, float(stats.t.cdf(mean / error, freedom))


def sign_flip_p(scores: Scores, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that each difference might as well have the other sign.

    The statistic is the mean over the categories of the mean over their seeds; see `flipped_p`.
    """
    # The categories' number divides every pattern's statistic alike.
    terms = np.concatenate([group / len(group) for group in by_category(scores).values()])
    return flipped_p(terms, seed)


def flipped_p(terms: NDArray[np.float64], seed: int = 0) -> float:
    """How often a sum is as far from 0 as the observed one, if every term's sign is drawn.

    Args:
        terms: (N,). All sign patterns are gone through, or SIGN_PATTERNS random ones beside the one
            observed; zeros are left out, because they are the same with either sign.
        seed: of the random ones.
    """
    terms = terms[terms != 0]
    if len(terms) < 2:
        return 1.0  # SciPy asks for two
    # SciPy counts patterns as equal whose statistics differ by rounding, relative to the observed
    # one; where that is next to nothing, rounding may matter, but p is near 1.
    result = stats.permutation_test(
        (terms,),
        np.sum,
        permutation_type="samples",
        n_resamples=SIGN_PATTERNS,
        batch=DRAWN_AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def shared_seed_p(scores: Scores) -> float | None:
    """P-value of the hypothesis that a seed is not lucky in several categories at once.

    The cases of a seed share initial weights and simulated anomalies over the categories, and the
    interval and the test take them for independent. A small p-value says that they are not, and
    that both are too sure. It is the F test of the seeds in a two-way layout, over those seeds that
    every category has.

    Returns:
        None with fewer than two such seeds or fewer than two categories.
    """
    categories = sorted({category for category, _ in scores})
    seeds = [
        seed
        for seed in sorted({seed for _, seed in scores})
        if all((category, seed) in scores for category in categories)
    ]
    if len(categories) < 2 or len(seeds) < 2:
        return None
    values = np.array([[scores[c, s] for s in seeds] for c in categories])
    values -= values.mean(axis=1, keepdims=True)
    of_seeds = values.mean(axis=0)
    freedom = len(seeds) - 1, (len(seeds) - 1) * (len(categories) - 1)
    shared = len(categories) * np.sum(of_seeds**2) / freedom[0]
    rest = np.sum((values - of_seeds) ** 2) / freedom[1]
    if not shared:
        return 1.0
    return float(stats.f.sf(shared / rest, *freedom)) if rest else 0.0


def by_category(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Category -> its seeds' scores; both in a fixed order."""
    groups: dict[str, list[float]] = {}
    for category, seed in sorted(scores):
        groups.setdefault(category, []).append(scores[category, seed])
    return {category: np.array(values) for category, values in groups.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given.

    The smallest is multiplied by their number, the next by one less, and so on; none is smaller
    than the one before it, or greater than 1.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()
