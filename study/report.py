"""The report of a study: which sections it has, where it is written, and its copy in MLflow.

    python -m study report NAME

It is made from the ledger and the study's documents alone.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

from study.report_answers import answers
from study.report_beyond import category_blocks, effect_blocks
from study.report_comparison import (
    Comparisons,
    compared,
    differences_table,
    results_table,
)
from study.report_cost import cost_blocks
from study.report_curves import curve_blocks
from study.report_endings import ended_early
from study.report_finer import category_table, type_table
from study.report_grid_figures import difference_blocks
from study.report_knobs import knob_blocks
from study.report_paper import paper_blocks
from study.report_pictures import disagreement_blocks
from study.report_rendering import PICTURES, html, latex, markdown
from study.report_repeat import repeat_blocks
from study.report_search import ranking_table, search_answer, search_blocks
from study.report_tables import Block, Report, Section, Text, quoted
from study.results import StudyResults
from study.storage import Storage
from study.wording import caveats, is_warning

# Format -> its file and what makes it.
FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "html": ("report.html", html),
    "markdown": ("report.md", markdown),
    "latex": ("report.tex", latex),
}


def make_report(
    results: StudyResults, storage: Storage, *, pictures: bool = False, latency: bool = False
) -> Report:
    """Puts a report together.

    Args:
        results: of the study.
        storage: where the curves of its fits are.
        pictures: whether images that two configurations judge differently are shown, which needs
            the images and the checkpoints.
        latency: whether a search's configurations are timed on this machine.
    """
    comparisons = compared(results) if results.cells else {}
    sections = [Section("Answer", tuple(_answer(results, comparisons)))]
    if results.cells:
        sections += _grid_sections(results, comparisons)
    else:
        blocks = search_blocks(results, latency)
        sections.append(Section("Results", (ranking_table(results), *blocks)))
        sections.append(Section("Knobs and choice", tuple(knob_blocks(results))))
    sections.append(Section("Curves", tuple(curve_blocks(results, storage))))
    if pictures:
        blocks = disagreement_blocks(results, storage, comparisons)
        sections.append(Section("Images", tuple(blocks)))
    sections.append(Section("Stopped, failed, noted", tuple(ended_early(results))))
    sections.append(Section("Cost", tuple(cost_blocks(results))))
    sections.append(Section("To repeat it", tuple(repeat_blocks(results))))
    return Report(
        study=results.config.name,
        question=results.config.question,
        state=_state(results),
        sections=tuple(section for section in sections if section.blocks),
    )


def _grid_sections(results: StudyResults, comparisons: Comparisons) -> list[Section]:
    measured = [m for m in results.metrics if any(c.metric == m for c in comparisons.values())]
    tables = [differences_table(results, metric, comparisons) for metric in measured]
    figures = difference_blocks(results, comparisons)
    beyond = [*effect_blocks(results), *category_blocks(results)]
    finer = [
        *(category_table(results, metric) for metric in results.metrics),
        *(type_table(results, metric) for metric in results.metrics),
    ]
    return [
        Section(
            "Results",
            (results_table(results, comparisons), *_other_names(results), *figures, *tables),
        ),
        Section("Beyond these cells and categories", tuple(beyond)),
        Section("Categories and types of defect", tuple(t for t in finer if t is not None)),
        Section("Beside the paper", tuple(paper_blocks(results))),
    ]


def _other_names(results: StudyResults) -> list[Text]:
    """Which cells are one configuration with another one, whose name stands for them."""
    return [
        Text(
            f"{quoted(cell.name)} is one configuration with "
            f"{', '.join(quoted(name) for name in cell.names if name != cell.name)}."
        )
        for cell in results.cells
        if len(cell.names) > 1
    ]


def _answer(results: StudyResults, comparisons: Comparisons) -> list[Block]:
    blocks = [
        Text(line, warning=is_warning(line)) for line in caveats(results.config, results.current)
    ]
    said = answers(results, comparisons) if results.cells else search_answer(results)
    return [*said, *blocks]


def _state(results: StudyResults) -> str:
    cases = results.cases.values()
    done = sum(case.state == "finished" for case in cases)
    parts = [f"{done} of {len(cases)} fits finished"]
    if results.driver:
        parts.append(f"run by {results.driver}")
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    return f"{', '.join(parts)}; report of {now}"


def write_report(report: Report, folder: Path, formats: list[str]) -> list[Path]:
    """Writes a report's files; those of an earlier report in the folder are replaced.

    A picture goes, too, that an earlier report's file names and none does any more; other files in
    the folder of pictures are somebody else's.

    Args:
        report: what they show.
        folder: where they go; made if it is not there.
        formats: keys of `FORMATS`.

    Returns:
        The files, those of the formats first; all but HTML have their pictures in a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    former = _named_pictures(folder)
    written = []
    for name in formats:
        file, render = FORMATS[name]
        written.append(folder / file)
        written[-1].write_text(render(report), encoding="utf-8")
    if set(formats) - {"html"}:
        pictures = folder / PICTURES
        pictures.mkdir(exist_ok=True)
        for figure in report.figures:
            written.append(pictures / figure.file)
            written[-1].write_bytes(figure.png)
    for name in former - _named_pictures(folder):
        (folder / PICTURES / name).unlink(missing_ok=True)
    return written


def _named_pictures(folder: Path) -> set[str]:
    """The names of the pictures that the reports in a folder show from files."""
    texts = [
        path.read_text(encoding="utf-8")
        for file, _ in FORMATS.values()
        if (path := folder / file).is_file()
    ]
    return {name for text in texts for name in re.findall(rf"{PICTURES}/([a-z0-9-]+\.png)", text)}
