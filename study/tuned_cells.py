"""Which of its configurations stands for a cell with nuisance knobs, and how a report says it.

A draw is tried once all its cases are finished or one has failed: then it will have no other value,
and a cell that drew it has had that chance.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.ledger import FAILED, FINISHED
from study.report_tables import quoted

if TYPE_CHECKING:  # What reads a study asks this module for its choice.
    from study.results import CellResult, ConfigurationResult

Draws = Sequence["ConfigurationResult"]


def equally_tuned(cells: Sequence[Draws]) -> "list[tuple[ConfigurationResult, ...]]":
    """The draws of each cell that its best one may be chosen from.

    The best of six beats the best of one by luck alone, so while cells have tried different numbers
    of draws, only the first n tried ones of each count; see `equal_tries`.

    Args:
        cells: the draws of each, in the order in which they were drawn.

    Returns:
        As many tuples, of finished draws. Of a cell that has none among the first n the first one
        that is finished, which nobody chose among others; of one without any all of its draws.
    """
    tries = equal_tries(cells)
    result = []
    for draws in cells:
        first = [draw for draw in tried_draws(draws)[:tries] if draw.state == FINISHED]
        later = [draw for draw in draws if draw.state == FINISHED][:1]
        result.append(tuple(first or later or draws))
    return result


def equal_tries(cells: Sequence[Draws]) -> int | None:
    """How many tried draws of each cell count, so that none is tuned more often than another.

    The least number that a cell has which still has others to do, and at least one; None where no
    cell has. A cell that has tried all of its own has had its tuning, also if they are fewer than
    another's because it does not use every nuisance knob.
    """
    counts = [(len(tried_draws(draws)), len(draws)) for draws in cells]
    unfinished = [tried for tried, drawn in counts if tried < drawn]
    return max(1, min(unfinished)) if unfinished else None


def tried_draws(draws: Draws) -> "list[ConfigurationResult]":
    """Those that are finished on all cases, or have failed."""
    return [draw for draw in draws if draw.state in (FINISHED, FAILED)]


def best_draw(draws: Draws, objective: str) -> "ConfigurationResult":
    """The configuration that stands for a cell with nuisance knobs, chosen on the select split.

    Of those that are finished on all cases the one with the highest mean objective; while none is,
    the one with the most finished fits.
    """
    complete = [d for d in draws if d.value is not None]
    if complete:
        return max(complete, key=lambda d: d.value)
    return max(draws, key=lambda d: len(d.scores(objective)))


def half_tuned(cells: "Sequence[CellResult]") -> bool:
    """Whether some tuned cell has draws that are not tried."""
    return any(len(c.draws) > 1 and len(tried_draws(c.draws)) < len(c.draws) for c in cells)


def tuning_note(cells: "Sequence[CellResult]", objective: str) -> str:
    """How the cells were tuned, from what is there; empty where none was."""
    if all(len(cell.draws) == 1 for cell in cells):
        return ""
    return " ".join([_tries_said(cells, objective), *_failures_said(cells)])


def _tries_said(cells: "Sequence[CellResult]", objective: str) -> str:
    stands = f"the one with the best mean {objective} stands for a cell"
    if half_tuned(cells):
        counts = ", ".join(
            f"{quoted(c.name)} {len(tried_draws(c.draws))} of {len(c.draws)}" for c in cells
        )
        tries = equal_tries([c.draws for c in cells])
        first = "first one" if tries == 1 else f"first {tries}"
        return (
            f"The tuning of nuisance knobs is not finished; configurations tried: {counts}. So "
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


def _failures_said(cells: "Sequence[CellResult]") -> list[str]:
    failed = {c.name: sum(draw.state == FAILED for draw in c.draws) for c in cells}
    counts = ", ".join(f"{quoted(name)} {number}" for name, number in failed.items() if number)
    return [f"Of these have failed, and were tries all the same: {counts}."] if counts else []
