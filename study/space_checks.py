"""What can be wrong with the parts of a search space, each said in one line."""

import difflib
from typing import Any

from optuna.distributions import BaseDistribution

from ffcad.config import ConfigError, TrainConfig

# A message is one line, and a grid may have many cells.
CELLS_NAMED = 4
# Between a cell's name and the number of a configuration that is tuned in it.
NUMBERED = " #"


class SpaceError(ValueError):
    """A search space that cannot be found, read, or drawn from."""


def check_distributions(
    name: str, part: str, distributions: dict[str, BaseDistribution], fixed: dict[str, Any]
) -> None:
    """Refuses what is no distribution, and knobs that are fixed, too."""
    if both := sorted(set(distributions) & set(fixed)):
        raise SpaceError(f"search space {name!r}: {both[0]!r} is in {part} and in FIXED; keep one")
    for key, distribution in distributions.items():
        if not isinstance(distribution, BaseDistribution):
            raise SpaceError(
                f"search space {name!r}: {part}[{key!r}] must be an Optuna distribution but got "
                f"{distribution!r} ({type(distribution).__name__}); a single value goes into FIXED"
            )


def checked_reference(
    name: str, reference: str | None, cells: dict[str, dict[str, Any]]
) -> str | None:
    """The reference cell; the first one where none is named."""
    if reference is None:
        return next(iter(cells), None)
    if not cells:
        raise SpaceError(f"search space {name!r}: REFERENCE is for CELLS; a search has none")
    if reference not in cells:
        near = difflib.get_close_matches(str(reference), cells, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"cells are {listed(list(cells))}"
        raise SpaceError(f"search space {name!r}: REFERENCE {reference!r} is no cell; {hint}")
    return reference


def check_cells(
    name: str,
    cells: dict[str, dict[str, Any]],
    fixed: dict[str, Any],
    nuisance: dict[str, BaseDistribution],
) -> None:
    """Refuses cells that are no configurations, or set what is fixed or tuned."""
    for cell, values in cells.items():
        if not (isinstance(cell, str) and cell.strip() and isinstance(values, dict)):
            raise SpaceError(
                f"search space {name!r}: CELLS must be name -> (knob -> value), with names that "
                f"are not empty, but got {cell!r}: {values!r}"
            )
        if nuisance and NUMBERED in cell:
            raise SpaceError(
                f"search space {name!r}: cell {cell!r} must not have {NUMBERED!r} in its name, "
                "which numbers the configurations that are tuned; rename it"
            )
        for part, others in (("FIXED", fixed), ("NUISANCE", nuisance)):
            if both := sorted(set(values) & set(others)):
                raise SpaceError(
                    f"search space {name!r}: {both[0]!r} is in cell {cell!r} and in {part}; keep "
                    "one"
                )
        try:
            TrainConfig.from_dict({**fixed, **values})
        except ConfigError as e:
            raise SpaceError(f"search space {name!r}, cell {cell!r}: {e}") from e


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - CELLS_NAMED
    return ", ".join(map(repr, names[:CELLS_NAMED])) + (f" and {rest} more" if rest > 0 else "")
