"""Effects of a factor grid: what each factor does, and what two of them do only together.

An effect is a contrast of the cells that every case has a value of, so it is measured, tested and
corrected for as the comparison of two cells is (`study/analysis.py`).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.analysis import AnalysisError, Contrast, check_scores, correct_together, measure
from study.paired_statistics import DECIMALS, Scores

# Name of a cell -> factor -> level.
Levels = Mapping[str, Mapping[str, Any]]
# Factor -> (first level, other level).
Factors = Mapping[str, tuple[Any, Any]]

# Of the cosine between two contrasts' coefficients, which are small fractions.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Effect(Contrast):
    """Of one factor, or of two factors together.

    Attributes:
        factors: factor -> (its first level, the level that is compared with it).
        mixed_with: names of other effects that are in this figure too, in a fraction of a grid;
            where they cannot be told from it at all, they have no figure of their own.
        difference: of one factor, what the change from its first level to the other does to the
            metric, over all levels of the others. Of two, by how much more the change of one does
            where the other one is changed too: above 0, both together do more than the sum of both.
    """

    factors: Factors
    mixed_with: tuple[str, ...]

    @property
    def name(self) -> str:
        """As 'hsas none -> 1d', or 'ffc_layers x hsas'."""
        return _name(self.factors)


def factor_effects(
    cells: Mapping[str, Scores], levels: Levels, metric: str, *, seed: int = 0
) -> list[Effect]:
    """The effects of every factor, and of every two factors that have two levels.

    Args:
        cells: name -> scores.
        levels: name of a cell -> factor -> level; the first cell has every factor's first level.
        metric: what the scores are, for messages and the result.
        seed: of the sign patterns, where they are too many to go through.

    Returns:
        The effects of one factor, then those of two, in the factors' order; Holm's correction is
        over all of them. Only cases that every cell has count.

    Raises:
        AnalysisError: if the cells are no grid or balanced fraction of one, no case has all cells,
            or a score is not finite.
    """
    first = next(iter(levels))
    check_scores(cells, first, metric)
    cases = [set(cells[name]) for name in levels]
    complete, unpaired = set.intersection(*cases), len(set.union(*cases))
    if not complete:
        raise AnalysisError(
            f"no case has a result of all {len(levels)} cells of the grid; finish the study, or "
            "read the comparison of single cells"
        )
    effects = []
    for factors, weights, mixed_with in _distinct(_contrasts(levels)):
        scores = {
            case: _weighed(weights, [cells[name][case] for name in levels])
            for case in sorted(complete)
        }
        measured = dataclasses.asdict(measure(metric, scores, unpaired - len(complete), seed))
        effects.append(Effect(factors=factors, mixed_with=mixed_with, **measured))
    return correct_together(effects)


def is_factor_grid(levels: Levels) -> bool:
    """Whether the factors vary independently over the cells, finished or not.

    Args:
        levels: name of a cell -> factor -> level; every cell with the same factors.
    """
    try:
        _contrasts(levels)
    except AnalysisError:
        return False
    return True


def _distinct(
    contrasts: list[tuple[Factors, NDArray[np.float64]]],
) -> list[tuple[Factors, NDArray[np.float64], tuple[str, ...]]]:
    """The effects that a fraction tells apart, with the names of those that each is mixed with."""
    result = []
    for factors, weights in contrasts:
        shared = [
            (_name(others), abs(_cosine(weights, of_others)))
            for others, of_others in contrasts
            if set(others) != set(factors)
        ]
        earlier = [abs(_cosine(weights, of_others)) for _, of_others, _ in result]
        if all(cosine < 1 - ROUNDING for cosine in earlier):
            mixed_with = tuple(name for name, cosine in shared if cosine > ROUNDING)
            result.append((factors, weights, mixed_with))
    return result


def _contrasts(levels: Levels) -> list[tuple[Factors, NDArray[np.float64]]]:
    """Each effect's factors, and the weights of the cells in it, (cells,)."""
    first = next(iter(levels.values()))
    columns = {factor: [of_cell[factor] for of_cell in levels.values()] for factor in first}
    distinct = {factor: list(dict.fromkeys(column)) for factor, column in columns.items()}
    means = {
        (factor, level): np.array([value == level for value in columns[factor]], dtype=float)
        for factor, values in distinct.items()
        for level in values
    }
    single = [
        (
            {factor: (values[0], level)},
            _mean(means[factor, level]) - _mean(means[factor, values[0]]),
        )
        for factor, values in distinct.items()
        for level in values[1:]
    ]
    for (one, a), (other, b) in itertools.combinations(single, 2):
        if set(one) != set(other) and abs(_cosine(a, b)) > ROUNDING:
            raise AnalysisError(
                f"the cells are no balanced factor grid: {next(iter(one))!r} and "
                f"{next(iter(other))!r} do not vary independently; read the comparison of single "
                "cells"
            )
    double = []
    of_two = [factors for factors, _ in single if len(distinct[next(iter(factors))]) == 2]
    for one, other in itertools.combinations(of_two, 2):
        (a, of_a), (b, of_b) = *one.items(), *other.items()
        signs = {0: -1.0, 1: 1.0}
        vector = sum(
            signs[i] * signs[j] * _mean(means[a, of_a[i]] * means[b, of_b[j]])
            for i, j in itertools.product((0, 1), repeat=2)
        )
        double.append(({**one, **other}, vector))
    return single + double


def _mean(chosen: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights that average the cells which are marked with 1; (cells,)."""
    return chosen / chosen.sum()


def _weighed(weights: NDArray[np.float64], scores: list[float]) -> float:
    # Equal scores must give 0 and not what is left of rounding, which has a sign in every case.
    return round(float(weights @ np.array(scores)), DECIMALS)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _name(factors: Factors) -> str:
    if len(factors) > 1:
        return " x ".join(factors)
    ((factor, (first, other)),) = factors.items()
    return f"{factor} {first} -> {other}"
