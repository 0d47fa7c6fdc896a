"""What a report says of a grid: its cells side by side, and how sure the differences are."""

from collections.abc import Mapping

from ffcad.config import TrainConfig
from study.analysis import Comparison, Contrast, compare_cells
from study.paired_statistics import spread
from study.paper_numbers import (
    SOURCE,
    PaperRow,
    ablation_row,
    as_trained_in_the_paper,
    other_training,
)
from study.report_notes import needed_notes, width_notes
from study.report_tables import (
    BAD,
    GOOD,
    MUTED,
    NOTHING,
    PLAIN,
    STRONG,
    Column,
    Entry,
    Table,
    bare,
    heading,
    interval,
    mean_and_spread,
    meaning,
    p_value,
    percent,
    points,
    quoted,
)
from study.results import DETECTION, LOCALISATION, CellResult, StudyResults
from study.tuned_cells import tuning_note
from study.verdicts import BETTER, NO_DIFFERENCE, TOO_FEW, WORSE

SHORT = {DETECTION: "Det.", LOCALISATION: "Loc."}
TONES = {BETTER: GOOD, WORSE: BAD, NO_DIFFERENCE: PLAIN, TOO_FEW: MUTED}

Comparisons = Mapping[tuple[str, str], Comparison]


def short(metric: str) -> str:
    """A metric in a column's title, by the paper's word if it has one."""
    return SHORT.get(metric, heading(metric))


def compared(results: StudyResults) -> dict[tuple[str, str], Comparison]:
    """(cell, metric) -> its comparison with the reference; corrected over all that the table of
    results shows."""
    scores = {metric: results.cell_scores(metric) for metric in results.metrics}
    comparable = {metric: cells for metric, cells in scores.items() if results.reference in cells}
    return {(c.cell, c.metric): c for c in compare_cells(comparable, results.reference)}


def results_table(results: StudyResults, comparisons: Comparisons) -> Table:
    """The table in the paper's shape, with what the paper does not give."""
    metrics = results.metrics
    with_paper = any(_paper_row(results, cell) for cell in results.cells)
    several = len(results.cells) > 1
    columns = [Column("Cell", numeric=False), Column("Cases done")]
    for metric in metrics:
        columns.append(Column(f"{short(metric)} mean \N{PLUS-MINUS SIGN} spread", "%"))
        if several:
            columns.append(Column(f"{short(metric)} difference [95 % interval]", "points"))
            columns.append(Column(f"{short(metric)} verdict", numeric=False))
    if with_paper:
        columns += [Column(f"Paper's {short(m)}", "%") for m in results.paper_metrics]
    if with_paper and several:
        columns += [Column(f"{short(m)} sign agrees", numeric=False) for m in results.paper_metrics]
    rows = [_result_row(results, cell, comparisons, with_paper) for cell in results.cells]
    return Table(
        title="Cells beside the reference" if several else "Means over the cases",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple(_result_notes(results, with_paper)),
    )


def _paper_row(results: StudyResults, cell: CellResult) -> PaperRow | None:
    """The paper's row that a cell is; None too where two cells are that row: what tells them apart
    is nothing that the paper varied."""
    rows = {name: ablation_row(config) for name, config in paper_configs(results).items()}
    row = rows[cell.name]
    return row if list(rows.values()).count(row) == 1 else None


def paper_configs(results: StudyResults) -> dict[str, TrainConfig]:
    """Cell -> its configuration, but for how all cells are trained otherwise than in the paper."""
    other = other_training([cell.chosen.config for cell in results.cells])
    return {c.name: as_trained_in_the_paper(c.chosen.config, other) for c in results.cells}


def _result_row(
    results: StudyResults, cell: CellResult, comparisons: Comparisons, with_paper: bool
) -> tuple[Entry, ...]:
    reference = cell.name == results.reference
    chosen = cell.chosen
    done = len(chosen.finished)
    row = [
        Entry(cell.name, STRONG if reference else PLAIN),
        Entry(f"{done} of {len(chosen.cases)}", PLAIN if done == len(chosen.cases) else MUTED),
    ]
    for metric in results.metrics:
        scores = chosen.scores(metric)
        known = spread(scores) if scores else None
        row.append(Entry(mean_and_spread(known.mean, known.seeds) if known else NOTHING))
        comparison = comparisons.get((cell.name, metric))
        if len(results.cells) == 1:
            continue
        if reference:
            row += [Entry("reference", MUTED), Entry(NOTHING, MUTED)]
        elif comparison is None:
            row += [Entry(NOTHING, MUTED), Entry(NOTHING, MUTED)]
        else:
            row += [Entry(_difference(comparison)), _verdict(comparison)]
    if with_paper:
        paper = _paper_row(results, cell)
        row += [
            Entry(percent(paper.values[bare(metric)]) if paper else NOTHING)
            for metric in results.paper_metrics
        ]
    if with_paper and len(results.cells) > 1:
        row += [sign_agrees(results, cell, m, comparisons) for m in results.paper_metrics]
    return tuple(row)


def sign_agrees(
    results: StudyResults, cell: CellResult, metric: str, comparisons: Comparisons
) -> Entry:
    """Whether the difference to the reference has the paper's sign; one without a sign has none to
    agree with."""
    comparison = comparisons.get((cell.name, metric))
    difference = paper_difference(results, cell, metric)
    if comparison is None or difference is None:
        return Entry(NOTHING, MUTED)
    signs = {"paper": difference, "here": comparison.difference}
    if equal := [where for where, value in signs.items() if value == 0]:
        return Entry(f"{' and '.join(equal)}: equal", MUTED)
    same = (comparison.difference > 0) == (difference > 0)
    return Entry("yes" if same else "no", GOOD if same else BAD)


def paper_difference(results: StudyResults, cell: CellResult, metric: str) -> float | None:
    """The paper's difference between a cell and the reference, as a share; None where one of them
    is no row of it."""
    reference = next(c for c in results.cells if c.name == results.reference)
    rows = _paper_row(results, cell), _paper_row(results, reference)
    if None in rows or cell.name == results.reference or metric not in results.paper_metrics:
        return None
    # Printed with one digit in percent: what differs by less is rounding of ours.
    return round(rows[0].values[bare(metric)] - rows[1].values[bare(metric)], 6)


def _result_notes(results: StudyResults, with_paper: bool) -> list[str]:
    have = [f"{short(m)} is the {meaning(m)}" for m in results.paper_metrics]
    notes = [
        f"{' and '.join(have)} of the report split, taken when a fit is finished: the mean over "
        "the categories of the mean over their seeds.",
        "The spread is the standard deviation over the seeds within a category, pooled over the "
        "categories; a category with one seed says nothing of it.",
    ]
    if len(results.cells) > 1:
        notes.append(
            f"Differences are to {quoted(results.reference)}, over the cases that both have. The "
            "interval is about these categories and other seeds; p-values behind a verdict are "
            "corrected over all differences of this table (Holm)."
        )
    done = {len(cell.chosen.finished) for cell in results.cells}
    if len(done) > 1:
        notes.append(
            "Cells have finished different cases, so their means are not comparable; the "
            "differences are."
        )
    if with_paper:
        notes.append(
            f"The paper's values: {SOURCE}; means over the 15 categories of MVTec AD. A cell has "
            "the paper's row with its FFC layers, global ratio, places of FFC, HSAS, optimizer and "
            "reconstruction loss; other knobs and the data may differ. The sign is that of the "
            "difference to the reference as it was measured, whether or not it can be told from "
            "zero."
        )
        other = other_training([cell.chosen.config for cell in results.cells])
        if other:
            default = TrainConfig()
            words = (f"{k} {v} (there {getattr(default, k)})" for k, v in other.items())
            notes.append(
                f"All cells here are trained otherwise than in the paper: {', '.join(words)}."
            )
    if note := tuning_note(results.cells, results.config.objective):
        notes.append(note)
    return notes


def differences_table(results: StudyResults, metric: str, comparisons: Comparisons) -> Table:
    """What is behind the verdicts of one metric."""
    own = [c for c in comparisons.values() if c.metric == metric]
    columns = (
        Column("Cell", numeric=False),
        Column("Cases in common"),
        Column("Mean", "%"),
        Column("Reference's mean", "%"),
        Column("Difference", "points"),
        Column("95 % interval", "points"),
        Column("p"),
        Column("p after Holm"),
        Column("Probability of being better", "%"),
        Column("Worst category", numeric=False),
        Column("Difference there", "points"),
        Column("Spread over seeds", "points"),
        Column("Spread over categories", "points"),
        Column("Verdict", numeric=False),
    )
    rows = [
        (
            Entry(c.cell),
            Entry(f"{c.pairs} of {c.pairs + c.unpaired}"),
            Entry(percent(c.mean)),
            Entry(percent(c.reference_mean)),
            Entry(points(c.difference)),
            Entry(interval(c.low, c.high)),
            Entry(p_value(c.p_value)),
            Entry(p_value(c.adjusted_p)),
            Entry(percent(c.probability_better)),
            Entry(c.worst_category),
            Entry(points(c.worst_difference)),
            Entry(_points_unsigned(c.seed_spread)),
            Entry(_points_unsigned(c.category_spread)),
            _verdict(c),
        )
        for c in own
    ]
    least = sorted(c.smallest_p for c in own)
    reached = dict.fromkeys(p_value(p) for p in (least[0], least[-1]))
    notes = [
        "p is of the sign-flip test over the cases in common, of which only those with a "
        "difference count. After Holm's correction, beside the other comparisons as they are, the "
        f"least that these can reach is {' to '.join(reached)}.",
        "Both spreads are standard deviations of the differences: over the seeds of a category, "
        "and over the categories beyond what the seeds explain.",
        *case_notes({c.cell: c for c in own}),
    ]
    return Table(
        title=f"Differences in {meaning(metric)} to {results.reference}, on these categories",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def case_notes(contrasts: Mapping[str, Contrast]) -> list[str]:
    """What a table of contrasts over cases says of those without a verdict or an interval's width.

    Args:
        contrasts: name of a row -> what it shows.
    """
    notes = []
    for lacking in (False, True):
        needed = {n: c.needed_pairs for n, c in contrasts.items() if c.lacks_seeds == lacking}
        notes += needed_notes(needed, "cases", ", a second seed of a category among them" * lacking)
    ends = {name: (c.low, c.high) for name, c in contrasts.items()}
    return notes + width_notes(ends, "the seeds of each category")


def _difference(comparison: Comparison) -> str:
    if comparison.low is None:
        return points(comparison.difference)
    return f"{points(comparison.difference)} {interval(comparison.low, comparison.high)}"


def _verdict(comparison: Comparison) -> Entry:
    return Entry(comparison.verdict, TONES[comparison.verdict])


def _points_unsigned(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.2f}"
