"""What a grid's report says beyond single cells on its own categories: categories like these, and
the effects of a factor grid."""

from collections.abc import Mapping
from typing import Any

from study.analysis import AnalysisError
from study.category_analysis import (
    FEWEST_CATEGORIES,
    CategoryComparison,
    compare_over_categories,
)
from study.factor_analysis import Effect, Levels, factor_effects, is_factor_grid
from study.report_comparison import TONES, case_notes
from study.report_notes import needed_notes, width_notes
from study.report_tables import (
    Block,
    Column,
    Entry,
    Table,
    Text,
    heading,
    interval,
    meaning,
    p_value,
    percent,
    points,
    quoted,
)
from study.results import StudyResults


def category_blocks(results: StudyResults) -> list[Block]:
    """Whether the differences hold on categories like these; or why nobody can tell."""
    blocks: list[Block] = []
    unsaid: dict[str, str] = {}
    for metric in results.metrics:
        scores = results.cell_scores(metric)
        if results.reference not in scores or len(scores) < 2:
            continue
        try:
            compared = compare_over_categories(scores, results.reference, metric)
        except AnalysisError as e:
            unsaid[metric] = str(e)
            continue
        known = {results.reference, *(c.cell for c in compared)}
        left_out = [name for name in scores if name not in known]
        blocks.append(_category_table(results, metric, compared, left_out))
    return [*blocks, *_unsaid("On categories like these nothing can be said of", unsaid)]


def _unsaid(beginning: str, reasons: Mapping[str, str]) -> list[Text]:
    """Why there is no table of some metrics; those with one reason have one line.

    Args:
        beginning: of the line, up to the metrics.
        reasons: metric -> why.
    """
    return [
        Text(
            f"{beginning} {' and '.join(meaning(m) for m, r in reasons.items() if r == reason)}: "
            f"{reason}."
        )
        for reason in dict.fromkeys(reasons.values())
    ]


def _category_table(
    results: StudyResults, metric: str, compared: list[CategoryComparison], left_out: list[str]
) -> Table:
    rows = [
        (
            Entry(c.cell),
            Entry(str(c.categories)),
            Entry(f"{c.better_in} / {c.worse_in}"),
            Entry(points(c.difference)),
            Entry(interval(c.low, c.high)),
            Entry(p_value(c.p_value)),
            Entry(p_value(c.adjusted_p)),
            Entry(percent(c.probability_better)),
            Entry(c.verdict, TONES[c.verdict]),
        )
        for c in compared
    ]
    notes = [
        "The categories' mean differences are the sample: Wilcoxon's signed-rank test, and an "
        "interval by resampling the categories. It is the harder question of the two.",
        *needed_notes({c.cell: c.needed_categories for c in compared}, "categories"),
        *width_notes({c.cell: (c.low, c.high) for c in compared}, "all categories"),
    ]
    if left_out:
        notes.append(
            f"Left out, because they share fewer than {FEWEST_CATEGORIES} finished categories with "
            f"the reference: {', '.join(map(quoted, left_out))}."
        )
    return Table(
        title=f"Differences in {meaning(metric)} to {results.reference}, on categories like these",
        columns=(
            Column("Cell", numeric=False),
            Column("Categories"),
            Column("Better / worse in"),
            Column("Difference", "points"),
            Column("95 % interval", "points"),
            Column("p"),
            Column("p after Holm"),
            Column("Probability of being better", "%"),
            Column("Verdict", numeric=False),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def effect_blocks(results: StudyResults) -> list[Block]:
    """Effects and interactions, where cells are a factor grid; else nothing.

    Cells beside the grid, as the default is, have no part in them.
    """
    levels = _factor_cells(results.config.cells)
    if not levels:
        return []
    beside = [name for name in results.config.cells if name not in levels]
    blocks: list[Block] = []
    unsaid: dict[str, str] = {}
    for metric in results.metrics:
        scores = {
            name: cell.chosen.scores(metric)
            for cell in results.cells
            for name in cell.names
            if name in levels
        }
        try:
            effects = factor_effects(scores, levels, metric)
        except AnalysisError as e:
            unsaid[metric] = str(e)
            continue
        blocks.append(_effect_table(metric, effects, _effect_notes(levels, beside)))
    return [*blocks, *_unsaid("Nothing can be said yet of the factors' effects on", unsaid)]


def _factor_cells(cells: Levels) -> Levels:
    """The cells that are a grid of two factors or more; none where there is no such grid."""
    groups: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for name, values in cells.items():
        groups.setdefault(tuple(sorted(values)), {})[name] = dict(values)
    grids = [
        of_cells
        for knobs, of_cells in groups.items()
        if len(knobs) > 1 and len(of_cells) > 1 and is_factor_grid(of_cells)
    ]
    # Two knobs need four cells; less is a grid only where nothing is beside it.
    grids = [of_cells for of_cells in grids if len(of_cells) >= 4 or len(groups) == 1]
    return max(grids, key=len, default={})


def _effect_notes(levels: Levels, beside: list[str]) -> list[str]:
    """What the table of effects leaves out."""
    notes = []
    columns = {
        f: {repr(values[f]) for values in levels.values()} for f in next(iter(levels.values()))
    }
    varying = [factor for factor, values in columns.items() if len(values) > 1]
    many = [factor for factor in varying if len(columns[factor]) > 2]
    if many and len(varying) > 1:
        notes.append(
            "What two factors do only together is shown for factors of two levels alone: of "
            f"{', '.join(map(quoted, many))} there is no such row."
        )
    if beside:
        notes.append(f"Not of the grid, and left out here: {', '.join(map(quoted, beside))}.")
    return notes


def _effect_table(metric: str, effects: list[Effect], notes: list[str]) -> Table:
    rows = [
        (
            Entry(e.name),
            Entry(f"{e.pairs} of {e.pairs + e.unpaired}"),
            Entry(points(e.difference)),
            Entry(interval(e.low, e.high)),
            Entry(p_value(e.p_value)),
            Entry(p_value(e.adjusted_p)),
            Entry(e.verdict, TONES[e.verdict]),
            Entry(", ".join(map(quoted, e.mixed_with)) or "none"),
        )
        for e in effects
    ]
    return Table(
        title=f"Effects on {heading(metric)}",
        columns=(
            Column("Effect", numeric=False),
            Column("Cases"),
            Column("Effect's size", "points"),
            Column("95 % interval", "points"),
            Column("p"),
            Column("p after Holm"),
            Column("Verdict", numeric=False),
            Column("Mixed with", numeric=False),
        ),
        rows=tuple(rows),
        notes=(
            "Of one factor: what its change does, over all levels of the others. Of two (x): how "
            "much more the one does where the other is changed too. Only cases that every cell has "
            "finished count.",
            *case_notes({e.name: e for e in effects}),
            *notes,
        ),
    )
