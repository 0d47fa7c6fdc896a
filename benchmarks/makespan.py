"""How long a study takes on 1 to 512 GPUs in the order in which its fits are handed out.

    python benchmarks/makespan.py --space paper --seeds 3
    python benchmarks/makespan.py --space paper --seeds 3 --slowest 3
    python benchmarks/makespan.py --ledger runs --most 32

Nothing is run: fits are handed to GPUs on paper, each to the one that is free first. With --ledger
the durations are those that a ledger's finished fits took, whichever studies did them. With --space
they are modelled: the work of a grid's cells (`study.fit_costs.fit_work`) on MVTec AD's fifteen
categories, each fit times a number that scatters around 1 (--scatter: the deviation of its
logarithm; medians of 21 draws), because like fits never take the same. Multiply-accumulates leave
the Fourier transforms out; --slowest says how many times longer the slowest cell takes than the
fastest one, the others evenly between.

The bound is the larger of total / m, p1 and p_m + p_(m+1) (durations p, the longest first, on m
GPUs). The second bound knows that fits are whole (`study.makespan`). All columns but the two bounds
are multiples of the first bound:

    case by case    one case after the other, all cells of each: the order that a study had before
    study's         what a study does, by durations that it expects: of like fits, or of the work
    longest first   by the true durations, which nobody knows beforehand
"""

import argparse
import dataclasses
import math
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from ffcad.config import TrainConfig
from study.arguments import parse
from study.fit_costs import finished_fits, fit_work
from study.ledger import Ledger
from study.makespan import lower_bound, makespan, whole_fits_bound
from study.order import expected_durations, in_order
from study.storage import Storage
from study.trials import Case, TrialRecord, new_trial

DRAWS = 21
# MVTec AD's test images: normal, defective (Bergmann et al., CVPR 2019, Table 2).
MVTEC = {
    "bottle": (20, 63),
    "cable": (58, 92),
    "capsule": (23, 109),
    "carpet": (28, 89),
    "grid": (21, 57),
    "hazelnut": (40, 70),
    "leather": (32, 92),
    "metal_nut": (22, 93),
    "pill": (26, 141),
    "screw": (41, 119),
    "tile": (33, 84),
    "toothbrush": (12, 30),
    "transistor": (60, 40),
    "wood": (19, 60),
    "zipper": (32, 119),
}
Durations = dict[int, float]


@dataclasses.dataclass(frozen=True)
class Fits:
    """A study on paper.

    Attributes:
        title: what it is.
        trials: one for each fit, case by case.
        expected: number of a trial -> the duration that a driver would expect.
        took: what the fits really take, in one draw or several.
    """

    title: str
    trials: list[TrialRecord]
    expected: Durations
    took: list[Durations]


def recorded(storage: str) -> Fits:
    """The finished fits of a ledger, as one study."""
    records = sorted(finished_fits(Ledger(Storage(storage))), key=lambda r: (r.seed, r.category))
    trials = [
        new_trial(
            number,
            {},
            TrainConfig.from_dict(record.configuration),
            (Case(record.category, record.seed, record.key),),
        )
        for number, record in enumerate(records)
    ]
    took = {number: record.seconds for number, record in enumerate(records)}
    title = f"{len(trials)} recorded fits of {min(took.values()):.0f} to {max(took.values()):.0f} s"
    return Fits(title, trials, expected_durations(trials, records), [took])


def modelled(name: str, seeds: int, scatter: float, slowest: float | None) -> Fits:
    """A grid on MVTec AD's categories."""
    with tempfile.TemporaryDirectory() as nowhere:
        _, space, _ = parse(["--space", name, "--storage", nowhere])
    cells = [configuration for _, configuration in space.distinct_cells()]
    trials: list[TrialRecord] = []
    means: Durations = {}
    for seed in range(seeds):
        for category, (normal, defective) in MVTEC.items():
            select = (normal + defective) // 2
            for i, cell in enumerate(cells):
                number = len(trials)
                case = Case(category, seed, f"{number}")
                trials.append(new_trial(number, {}, cell, (case,)))
                means[number] = fit_work(cell, (select, normal + defective - select))
                if slowest is not None:
                    # An order of the cells that has nothing to do with their slowness.
                    step = (5 * i) % len(cells) / max(1, len(cells) - 1)
                    means[number] = 1 + (slowest - 1) * step
    numbers = random.Random(0)
    took = [
        {n: mean * math.exp(numbers.gauss(0, scatter)) for n, mean in means.items()}
        for _ in range(DRAWS if scatter else 1)
    ]
    title = (
        f"{name}: {len(cells)} cells x {len(MVTEC)} categories x {seeds} seeds, modelled, scatter "
        f"{scatter:g}"
    )
    # A driver knows the mean of like fits once it has some, and the work before.
    expected = expected_durations(trials, []) if slowest is None else means
    return Fits(title, trials, expected, took)


def rows(fits: Fits, most: int) -> list[list[str]]:
    """The table's rows: medians over the draws, on 1, 2, 4 ... GPUs."""
    unbegun = frozenset(trial.number for trial in fits.trials)
    result = []
    machines = 1
    while machines <= most:
        order = in_order(fits.trials, unbegun, fits.expected, machines)
        found = []
        for took in fits.took:
            bound = lower_bound(list(took.values()), machines)
            longest_first = sorted(took.values(), reverse=True)
            found.append(
                (
                    bound / statistics.fmean(took.values()),
                    whole_fits_bound(list(took.values()), machines) / bound,
                    makespan([took[t.number] for t in fits.trials], machines) / bound,
                    makespan([took[t.number] for t in order], machines) / bound,
                    makespan(longest_first, machines) / bound,
                )
            )
        bound, *ratios = (statistics.median(column) for column in zip(*found, strict=True))
        result.append([f"{machines}", f"{bound:.2f}", *(f"{ratio:.3f}" for ratio in ratios)])
        machines *= 2
    return result


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ledger", help="a storage with finished fits")
    source.add_argument("--space", help="a grid whose fits' durations are modelled")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scatter", type=float, default=0.1)
    parser.add_argument("--slowest", type=float, help="times the fastest cell")
    parser.add_argument("--most", type=int, default=512, help="GPUs")
    given = parser.parse_args()
    if given.ledger:
        fits = recorded(given.ledger)
    else:
        fits = modelled(given.space, given.seeds, given.scatter, given.slowest)
    console = Console(width=110)
    slowest = f", slowest cell {given.slowest:g} times the fastest" if given.slowest else ""
    console.print(f"{fits.title}{slowest}", highlight=False)
    columns = ("GPUs", "bound, mean fits", "whole fits", "case by case", "study's", "longest first")
    table = Table(*columns)
    for row in rows(fits, given.most):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
