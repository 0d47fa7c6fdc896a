"""Learning curves and precision-recall curves of a report."""

import csv
import io
from functools import partial
from statistics import fmean

from study.ledger import FINISHED, Ledger
from study.report_figures import Line, lines_figure, mean_curve
from study.report_tables import Block, Figure, Text, said_metric
from study.results import ConfigurationResult, StudyResults
from study.storage import Storage

# Lines that can be told apart, and panels that fit a page.
MOST_LINES, MOST_PANELS = 7, 9
# Single fits behind the means; more would hide them.
MOST_SINGLE = 40
# A line's label, a cell's name or a trial's, with the configuration that it is of.
Shown = list[tuple[str, ConfigurationResult]]
PIXEL, IMAGE = "pixel_precision_recall", "image_precision_recall"


def curve_blocks(results: StudyResults, storage: Storage) -> list[Block]:
    """How the fits learned, and precision against recall of those that are finished."""
    shown, note = _shown(results)
    blocks: list[Block] = []
    if figure := _learning(results, shown, note):
        blocks.append(figure)
    blocks.append(_precision_recall(results, shown, note, Ledger(storage)))
    return blocks


def _shown(results: StudyResults) -> tuple[Shown, str]:
    """What the curves are of, and a sentence if it is not all.

    Of a grid the first cells, which begin with the reference; of a search the best configurations
    on the select split.
    """
    if results.cells:
        ordered = sorted(results.cells, key=lambda cell: cell.name != results.reference)
        chosen = [(cell.name, cell.chosen) for cell in ordered if cell.chosen.finished]
        note = f" The first {MOST_LINES} of {len(chosen)} cells."
    else:
        ranked = [c for c in results.configurations if c.value is not None]
        best = sorted(ranked, key=lambda c: -c.value)
        chosen = [(f"trial {c.trials[0].number}", c) for c in best]
        note = (
            f" The best {MOST_LINES} of {len(chosen)} finished configurations by "
            f"{results.config.objective}."
        )
    return chosen[:MOST_LINES], note if len(chosen) > MOST_LINES else ""


def _learning(results: StudyResults, shown: Shown, note: str) -> Figure | None:
    objective = results.config.objective
    lines, changes = [], set()
    many = sum(len(configuration.finished) for _, configuration in shown)
    for label, configuration in shown:
        curves = [
            {e["iteration"]: 100 * e[objective] for e in fit.history}
            for fit in configuration.finished
        ]
        changes.add(configuration.config.autoencoder_iterations)
        if many <= MOST_SINGLE:
            lines += [Line(label, list(c), list(c.values()), faint=True) for c in curves]
        common = sorted(set.intersection(*(set(c) for c in curves)))
        means = [fmean(c[i] for c in curves) for i in common]
        lines.append(Line(label, common, means))
    if not lines:
        return None
    marks = [change for change in changes if change]
    y = f"select split's {said_metric(objective.removeprefix('select_'))}, %"
    return Figure(
        title="Learning curves",
        caption=f"{objective} at each evaluation: thick lines are means over the finished cases, "
        "thin ones, where they are few, single fits. Dotted: where stage two begins; before it the "
        "map is the feature discrepancy, another map than after it." + note,
        draw=partial(lines_figure, {"": lines}, "iteration", y, marks=marks),
        alternative=f"Lines of {objective} over iterations.",
    )


def _precision_recall(results: StudyResults, shown: Shown, note: str, ledger: Ledger) -> Block:
    name = PIXEL if results.has_masks else IMAGE
    categories = results.config.categories[:MOST_PANELS]
    panels: dict[str, list[Line]] = {category: [] for category in categories}
    for label, configuration in shown:
        for category in categories:
            keys = [
                case.key
                for case in configuration.cases
                if case.category == category and case.state == FINISHED
            ]
            curves = [curve for key in keys if (curve := _curve(ledger, key, name))]
            if curves:
                panels[category].append(Line(label, *mean_curve(curves)))
    panels = {category: lines for category, lines in panels.items() if lines}
    if not panels:
        return Text("No precision-recall curves: no finished fit has a file of them.")
    level = name.partition("_")[0]
    more = len(results.config.categories) - len(categories)
    return Figure(
        title=f"Precision and recall of {level}s",
        caption=f"Of the report split's {level}s, a panel per category: means over the seeds at "
        "equal recall." + note + (f" {more} more categories are left out." if more > 0 else ""),
        draw=partial(lines_figure, panels, "recall", "precision", square=True),
        alternative="Lines of precision over recall, per category; their areas are the average "
        "precisions of the tables.",
    )


def _curve(ledger: Ledger, key: str, name: str) -> tuple[list[float], list[float]] | None:
    """A fit's curve from its file; None where it has none."""
    try:
        text = ledger.storage.read(f"{ledger.folder(key)}/curves.csv").decode()
    except FileNotFoundError:
        return None
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["curve"] == name]
    return ([float(r["x"]) for r in rows], [float(r["y"]) for r in rows]) if rows else None
