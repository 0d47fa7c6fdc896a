"""Which of its configurations stands for a cell with nuisance knobs, and how a report says it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.report_tables import quoted

if TYPE_CHECKING:  # What reads a study asks this module for its choice.
    from study.results import CellResult, ConfigurationResult


def equally_tuned(
    cells: "Sequence[Sequence[ConfigurationResult]]",
) -> "list[tuple[ConfigurationResult, ...]]":
    """The draws of each cell that its best one may be chosen from.

    The best of six beats the best of one by luck alone, so while cells have finished different
    numbers of draws, the first n finished ones of each count: n is the least number that a cell has
    which still has others to do. A cell that is finished with all of its own has had its tuning,
    also if they are fewer than another's because it does not use every nuisance knob.

    Args:
        cells: the draws of each, in the order in which they were drawn.

    Returns:
        As many tuples; of a cell that has no finished draw all of its draws.
    """
    done = [[draw for draw in draws if draw.value is not None] for draws in cells]
    unfinished = [
        len(of_cell)
        for of_cell, draws in zip(done, cells, strict=True)
        if len(of_cell) < len(draws)
    ]
    most = max(1, min(unfinished)) if unfinished else None
    return [tuple(of_cell[:most] or draws) for of_cell, draws in zip(done, cells, strict=True)]


def best_draw(draws: "Sequence[ConfigurationResult]", objective: str) -> "ConfigurationResult":
    """The configuration that stands for a cell with nuisance knobs, chosen on the select split.

    Of those that are finished on all cases the one with the highest mean objective; while none is,
    the one with the most finished fits.
    """
    complete = [d for d in draws if d.value is not None]
    if complete:
        return max(complete, key=lambda d: d.value)
    return max(draws, key=lambda d: len(d.scores(objective)))


def finished_draws(cell: "CellResult") -> int:
    """How many of a cell's configurations are finished on all cases."""
    return sum(draw.value is not None for draw in cell.draws)


def half_tuned(cells: "Sequence[CellResult]") -> bool:
    """Whether some tuned cell has draws that are not finished on all cases."""
    return any(len(c.draws) > 1 and finished_draws(c) < len(c.draws) for c in cells)


def tuning_note(cells: "Sequence[CellResult]", objective: str) -> str:
    """How the cells were tuned, from what is there; empty where none was."""
    if all(len(cell.draws) == 1 for cell in cells):
        return ""
    stands = f"the one with the best mean {objective} stands for a cell"
    if half_tuned(cells):
        counts = ", ".join(f"{quoted(c.name)} {finished_draws(c)} of {len(c.draws)}" for c in cells)
        tried = max((len(c.tried) for c in cells if finished_draws(c)), default=1)
        first = "first finished one" if tried == 1 else f"first {tried} finished ones"
        return (
            f"The tuning of nuisance knobs is not finished; configurations that are: {counts}. So "
            f"that no cell is tuned more often than another, only the {first} of each count; "
            f"{stands}."
        )
    numbers = {len(c.draws) for c in cells}
    if len(numbers) == 1:
        return (
            f"Nuisance knobs were tuned within each cell, equally often: {numbers.pop()} "
            f"configurations of each; {stands}."
        )
    counts = ", ".join(f"{quoted(c.name)} {len(c.draws)}" for c in cells)
    return (
        "Nuisance knobs were tuned within each cell, but not every cell uses all of them, so the "
        f"numbers of its configurations differ: {counts}; {stands}."
    )
