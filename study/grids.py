"""Cells of a grid, made of factors or of parts that are left out.

    CELLS = factorial({"global_ratio": (0.25, 0.5), "ffc_layers": (1, 2)})
    CELLS = leave_one_out({"global_ratio": 0.25}, {"no FFC": {"global_ratio": 0.0}})
    CELLS = fractional_factorial({"hsas": ("none", "2d"), "ffc_layers": (1, 2),
        "optimizer": ("sgd", "adamw"), "ffc_encoder": (False, True)}, ["d=abc"])

All give dictionaries, so `CELLS = {"default": {}, **factorial(...)}` adds a row by hand.
"""

import itertools
import math
import re
import string
from collections.abc import Sequence
from typing import Any

FULL = "full"


def factorial(factors: dict[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """A cell for each combination of values; the last knob varies fastest.

    Args:
        factors: knob -> values.

    Returns:
        Cells with names like 'global_ratio 0.25, ffc_layers 1'.
    """
    return _named(
        [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    )


def fractional_factorial(
    factors: dict[str, tuple[Any, Any]], generators: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """A regular fraction of the two-level factorial: half of its cells for each generator.

    The factors are called a, b, c, ... in their order. A generator `d=abc` sets d by the others: to
    its second level in the cells in which the product of their levels, as -1 and 1, is 1. What is
    saved is paid for in what can be told apart: the effect of d is one with the interaction abc.
    See Box, Hunter & Hunter, "Statistics for Experimenters", on fractional factorial designs.

    Args:
        factors: knob -> its two values.
        generators: one for each factor that the others set.

    Returns:
        Cells named as by `factorial`.

    Raises:
        ValueError: if a factor has not two values, a generator is none, or two factors are always
            changed together, so that their effects cannot be told apart (resolution II).
    """
    if wrong := [knob for knob, values in factors.items() if len(values) != 2]:
        raise ValueError(f"{wrong[0]} must have two values but has {len(factors[wrong[0]])}")
    letters = dict(zip(factors, string.ascii_lowercase, strict=False))
    words = dict(_generator(text, list(letters.values())) for text in generators)
    if len(words) < len(generators):
        raise ValueError("two generators set the same factor; keep one of them")
    if mixed := [f"{d}={word}" for d, word in words.items() if set(word) & set(words)]:
        raise ValueError(f"generator {mixed[0]!r} has a factor that a generator sets; write it out")
    _check_resolution(words)
    free = [letter for letter in letters.values() if letter not in words]
    cells = []
    for signs in itertools.product((-1, 1), repeat=len(free)):
        sign = dict(zip(free, signs, strict=True))
        sign |= {d: math.prod(sign[letter] for letter in word) for d, word in words.items()}
        cells.append({knob: factors[knob][sign[letters[knob]] > 0] for knob in factors})
    return _named(cells)


def leave_one_out(
    full: dict[str, Any], without: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The full method, and one cell for each part that it does without.

    Args:
        full: knob -> value.
        without: name of a cell -> the knobs that differ from the full method, with their values.

    Returns:
        The cell 'full', then those of `without`.

    Raises:
        ValueError: if a cell of `without` is called 'full', or does not differ from it.
    """
    if FULL in without:
        raise ValueError(
            f"a cell of `without` is called {FULL!r}, as the full method is; rename it"
        )
    cells = {FULL: dict(full)}
    for name, values in without.items():
        cells[name] = {**full, **values}
        if cells[name] == full:
            raise ValueError(
                f"cell {name!r} is the full method; give at least one knob another value"
            )
    return cells


def _generator(text: str, letters: list[str]) -> tuple[str, str]:
    """A generator's letter and the letters that set it."""
    match = re.fullmatch(r"([a-z])=([a-z]+)", text)
    known = match is not None and set(match[1] + match[2]) <= set(letters)
    if not known or len(set(match[2])) < len(match[2]):
        raise ValueError(
            f"generator {text!r} must be one letter, '=', and other letters once each, like "
            f"'d=abc', of {', '.join(letters)}"
        )
    return match[1], match[2]


def _check_resolution(words: dict[str, str]) -> None:
    """Refuses fractions in which two factors are changed together in all cells."""
    defining = [frozenset(d + word) for d, word in words.items()]
    for count in range(1, len(defining) + 1):
        for chosen in itertools.combinations(defining, count):
            product: frozenset[str] = frozenset()
            for word in chosen:
                product ^= word  # A letter's square is 1.
            if len(product) < 3:
                raise ValueError(
                    f"factors {' and '.join(sorted(product))} cannot be told apart with these "
                    "generators; give longer ones"
                )


def _named(cells: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {", ".join(f"{knob} {value}" for knob, value in cell.items()): cell for cell in cells}
