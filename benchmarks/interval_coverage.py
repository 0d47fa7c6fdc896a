"""How often the intervals of a study's report hold the truth, and how large a difference is found.

    python benchmarks/interval_coverage.py

Draws differences of two cells whose true mean is known. First the seeds are the sample (the table
"on these categories"), then the categories ("on categories like these"): the share of 95 %
intervals that hold the truth, of the method used and of those that were not taken. Then the share
of comparisons with a true difference that get the verdict "better". docs/method.md has the figures.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ffcad.commands.arguments import positive_number
from study.analysis import compare_cells
from study.category_analysis import RESAMPLES as CATEGORY_RESAMPLES
from study.category_analysis import category_interval
from study.paired_statistics import seed_interval
from study.verdicts import BETTER

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Array]

RESAMPLES = 300


def shared(rng: np.random.Generator, categories: int, seeds: int) -> Array:
    """A third of the variance is a seed's luck in all categories at once."""
    own = rng.normal(size=(categories, seeds))
    return np.sqrt(2 / 3) * own + np.sqrt(1 / 3) * rng.normal(size=seeds)


# (categories, seeds) of differences around 0.
SEED_NOISES: dict[str, Draw] = {
    "normal": lambda rng, k, s: rng.normal(size=(k, s)),
    "unequal over categories": lambda rng, k, s: (
        np.exp(rng.normal(size=(k, 1))) * rng.normal(size=(k, s))
    ),
    "heavy tails (t, 3)": lambda rng, k, s: rng.standard_t(3, size=(k, s)),
    "skewed (exponential)": lambda rng, k, s: rng.exponential(size=(k, s)) - 1,
    "a third shared": shared,
}
# (categories, 1) of differences around 0: what a configuration does in each.
CATEGORY_EFFECTS: dict[str, Draw] = {
    "normal": SEED_NOISES["normal"],
    "heavy tails (t, 3)": SEED_NOISES["heavy tails (t, 3)"],
    "skewed (exponential)": SEED_NOISES["skewed (exponential)"],
    "70 % a tenth as large": lambda rng, k, s: (
        np.where(rng.random((k, s)) < 0.7, 0.1, 1.0) * rng.normal(size=(k, s))
    ),
    "the same, one-sided": lambda rng, k, s: (
        np.where(rng.random((k, s)) < 0.7, 0.1, 1.0) * rng.exponential(size=(k, s)) - 0.37
    ),
}


def holds(low: float, high: float) -> bool:
    """Whether an interval has the truth in it."""
    return low <= 0 <= high


def used_on_seeds(values: Array, rng: np.random.Generator) -> bool:
    """The interval of the report."""
    scores = {(str(k), s): value for (k, s), value in np.ndenumerate(values)}
    low, high, _ = seed_interval(scores)
    return holds(low, high)


def resampled_seeds(values: Array, rng: np.random.Generator) -> bool:
    """Percentiles of means whose seeds are resampled within each category."""
    picks = rng.integers(values.shape[1], size=(RESAMPLES, *values.shape))
    means = np.take_along_axis(values[None], picks, axis=2).mean(axis=(1, 2))
    return holds(*np.quantile(means, (0.025, 0.975)))


def used_on_categories(values: Array, rng: np.random.Generator) -> bool:
    """The interval of the report."""
    low, high, _ = category_interval(values[:, 0], int(rng.integers(2**31)))
    return holds(low, high)


def percentiles_of_categories(values: Array, rng: np.random.Generator) -> bool:
    """Percentiles of means whose categories are resampled."""
    result = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng
    )
    return holds(*result.confidence_interval)


def bca_of_categories(values: Array, rng: np.random.Generator) -> bool:
    """The same, bias-corrected and accelerated."""
    result = stats.bootstrap((values[:, 0],), np.mean, n_resamples=RESAMPLES, method="BCa", rng=rng)
    return holds(*result.confidence_interval)


def student_of_categories(values: Array, rng: np.random.Generator) -> bool:
    """Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return holds(values.mean() - half, values.mean() + half)


def bootstrap_t_of_categories(values: Array, rng: np.random.Generator) -> bool:
    """Means whose categories are resampled, in units of each one's own standard error."""
    means, root = values[:, 0], np.sqrt(len(values))
    again = np.random.default_rng(int(rng.integers(2**31)))
    drawn = means[again.integers(len(means), size=(CATEGORY_RESAMPLES, len(means)))]
    drawn = drawn[np.ptp(drawn, axis=1) > 0]
    t = (drawn.mean(axis=1) - means.mean()) / (drawn.std(axis=1, ddof=1) / root)
    low, high = means.mean() - means.std(ddof=1) / root * np.quantile(t, (0.975, 0.025))
    return holds(low, high)


def coverage(method: Callable, draw: Draw, categories: int, seeds: int, draws: int) -> float:
    """Share of the intervals that hold the truth."""
    rng = np.random.default_rng(0)
    return float(np.mean([method(draw(rng, categories, seeds), rng) for _ in range(draws)]))


def print_coverages(title: str, noises: dict[str, Draw], methods: dict, designs, draws) -> None:
    """A table: for each method the coverage in every design."""
    print(f"\n{title}; columns are categories x seeds")
    print(f"{'':42}" + "".join(f"{f'{k} x {s}':>8}" for k, s in designs))
    for noise, (name, method) in itertools.product(noises, methods.items()):
        values = [coverage(method, noises[noise], k, s, draws) for k, s in designs]
        print(f"{noise:24} {name:17}" + "".join(f"{100 * v:8.1f}" for v in values), flush=True)


def power(categories: int, seeds: int, effect: float, table: int, draws: int) -> float:
    """Share of tables in which the one cell that differs is found better, by as many deviations of
    its differences over the seeds."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(draws):
        cases = list(itertools.product(map(str, range(categories)), range(seeds)))
        cells = {
            str(cell): dict(zip(cases, rng.normal(size=len(cases)), strict=True))
            for cell in range(table)
        }
        cells["0"] = {case: value + effect for case, value in cells["0"].items()}
        cells["reference"] = dict.fromkeys(cases, 0.0)
        found += compare_cells({"metric": cells}, "reference")[0].verdict == BETTER
    return found / draws


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=positive_number, default=600, help="of each figure")
    args = parser.parse_args()
    print_coverages(
        "On these categories: coverage, %",
        SEED_NOISES,
        {"t, Welch (used)": used_on_seeds, "resampled seeds": resampled_seeds},
        [(1, 2), (1, 3), (1, 5), (3, 2), (3, 3), (3, 5), (6, 2), (15, 2), (15, 3), (15, 5)],
        args.draws,
    )
    print_coverages(
        "On categories like these: coverage, %",
        CATEGORY_EFFECTS,
        {
            "hull (used)": used_on_categories,
            "bootstrap-t": bootstrap_t_of_categories,
            "Student's t": student_of_categories,
            "percentiles": percentiles_of_categories,
            "BCa": bca_of_categories,
        },
        [(6, 1), (8, 1), (12, 1), (15, 1)],
        args.draws // 2,
    )
    effects = (0.5, 1.0, 1.5, 2.0, 3.0)
    print(
        "\nVerdict 'better' on these categories, %; columns are the true difference in deviations"
    )
    print(f"{'':34}" + "".join(f"{effect:8}" for effect in effects))
    for (k, s), table in itertools.product([(3, 3), (6, 2), (3, 5)], (1, 4)):
        shares = [power(k, s, effect, table, args.draws // 10) for effect in effects]
        name = f"{k} x {s} cases, {table} comparison{'s' * (table > 1)}"
        print(f"{name:34}" + "".join(f"{100 * v:8.1f}" for v in shares), flush=True)


if __name__ == "__main__":
    main()
