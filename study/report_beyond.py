"""What a grid's report says beyond single cells on its own categories: categories like these, and
the effects of a factor grid."""

from study.analysis import AnalysisError
from study.category_analysis import CategoryComparison, compare_over_categories
from study.factor_analysis import Effect, factor_effects
from study.report_comparison import TONES
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
    for metric in results.metrics:
        scores = results.cell_scores(metric)
        if results.reference not in scores or len(scores) < 2:
            continue
        try:
            compared = compare_over_categories(scores, results.reference, metric)
        except AnalysisError as e:
            text = str(e)
            return [Text(f"On categories like these nothing can be said: {text}.")]
        blocks.append(_category_table(results, metric, compared))
    return blocks


def _category_table(
    results: StudyResults, metric: str, compared: list[CategoryComparison]
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
        notes=(
            "The categories' mean differences are the sample: Wilcoxon's signed-rank test, and an "
            "interval by resampling the categories. It is the harder question of the two.",
        ),
    )


def effect_blocks(results: StudyResults) -> list[Block]:
    """Effects and interactions, where the cells are a factor grid; else nothing."""
    levels = {cell: dict(values) for cell, values in results.config.cells.items()}
    knobs = {tuple(sorted(values)) for values in levels.values()}
    if len(knobs) != 1 or len(next(iter(knobs))) < 2:
        return []
    blocks: list[Block] = []
    for metric in results.metrics:
        scores = {name: cell.chosen.scores(metric) for cell in results.cells for name in cell.names}
        try:
            effects = factor_effects(scores, levels, metric)
        except AnalysisError:  # No balanced grid, or too little of it is done.
            return []
        blocks.append(_effect_table(metric, effects))
    return blocks


def _effect_table(metric: str, effects: list[Effect]) -> Table:
    rows = [
        (
            Entry(e.name),
            Entry(str(e.pairs)),
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
        ),
    )
