"""Cells of a grid, made of factors or of parts that are left out.

    CELLS = factorial({"global_ratio": (0.25, 0.5), "ffc_layers": (1, 2)})
    CELLS = leave_one_out({"global_ratio": 0.25}, {"no FFC": {"global_ratio": 0.0}})

Both give dictionaries, so `CELLS = {"default": {}, **factorial(...)}` adds a row by hand.
"""

import itertools
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
    cells = [
        dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())
    ]
    return {", ".join(f"{knob} {value}" for knob, value in cell.items()): cell for cell in cells}


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
