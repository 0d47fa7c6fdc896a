"""The pictures of a grid's comparison, with their captions."""

from functools import partial

from study.analysis import Comparison
from study.paired_statistics import by_category
from study.report_comparison import Comparisons, paper_difference
from study.report_figures import forest, slopes
from study.report_tables import Block, Figure, heading, points
from study.results import StudyResults

# More cells than that make a picture that nobody reads.
MOST_PANELS = 12


def difference_blocks(results: StudyResults, comparisons: Comparisons) -> list[Block]:
    """Forest plot of the differences, and per metric how each category changes."""
    blocks: list[Block] = []
    if comparisons:
        blocks.append(_forest(results, comparisons))
    for metric in results.metrics:
        scores = results.cell_scores(metric)
        if results.reference not in scores or len(scores) < 2:
            continue
        means = {
            name: {category: float(v.mean()) for category, v in by_category(s).items()}
            for name, s in list(scores.items())[: MOST_PANELS + 1]
        }
        more = len(scores) - len(means)
        blocks.append(
            Figure(
                title=f"{heading(metric)} per category",
                caption=f"Each line is a category, from {results.reference} on the left to the "
                "cell on the right: blue and whole where it rises, orange and dashed where it "
                "falls. Means over the finished seeds."
                + (f" The first {MOST_PANELS} cells; {more} more are in the tables." * (more > 0)),
                draw=partial(slopes, means, results.reference, f"{heading(metric)}, %"),
                alternative=f"Lines from {results.reference} to each other cell, one per category; "
                "the table per category has the numbers.",
            )
        )
    return blocks


def _forest(results: StudyResults, comparisons: Comparisons) -> Figure:
    groups: dict[str, list[Comparison]] = {}
    for c in comparisons.values():
        groups.setdefault(heading(c.metric), []).append(c)
    paper = {
        (cell.name, metric): difference
        for cell in results.cells
        for metric in results.metrics
        if (difference := paper_difference(results, cell, metric)) is not None
    }
    caption = (
        f"Points are mean differences to {results.reference} over the cases in common, lines their "
        "95 % intervals; right of zero is better. Filled points have a verdict: blue better, "
        "orange worse."
    )
    if paper:
        caption += " Diamonds are the paper's differences."
    said = "; ".join(
        f"{c.cell}, {heading(c.metric)}: {points(c.difference)} points, {c.verdict}"
        for c in comparisons.values()
    )
    return Figure(
        title="Differences to the reference",
        caption=caption,
        draw=partial(forest, groups, paper, results.reference),
        alternative=said,
    )
