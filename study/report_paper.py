"""A study's numbers in the shape of the paper's tables, with the paper's own beside them."""

import functools
from statistics import fmean

from ffcad.config import TrainConfig
from ffcad.cost import NOT_COUNTED, model_cost
from study.paired_statistics import by_category, spread
from study.paper_numbers import (
    ABLATIONS,
    AVERAGE,
    CATEGORY_TABLES,
    SOURCE,
    PaperRow,
    is_default,
    table_rows,
)
from study.report_comparison import paper_configs, short
from study.report_tables import (
    MUTED,
    NOTHING,
    PLAIN,
    STRONG,
    Block,
    Column,
    Entry,
    Table,
    Text,
    bare,
    mean_and_spread,
    number,
    percent,
    points,
    said_metric,
)
from study.results import CellResult, StudyResults

# What a model's size depends on.
ARCHITECTURE = (
    "image_size",
    "ffc_layers",
    "global_ratio",
    "ffc_encoder",
    "ffc_autoencoder",
    "local_fourier_unit",
    "autoencoder_channels",
    "head_channels",
)
PRECISION = (
    "report_pixel_ap",
    "report_pixel_f1_max",
    "report_pixel_precision",
    "report_pixel_recall",
)


def paper_blocks(results: StudyResults) -> list[Block]:
    """The paper's tables that the study asks for; those of size and of precision for any grid."""
    blocks: list[Block] = []
    asked = [t for t in results.config.tables if t in ABLATIONS]
    if len(asked) > 1:  # One table alone is the table of results.
        blocks += [_ablation(results, table) for table in asked]
    if set(CATEGORY_TABLES) & set(results.config.tables):
        blocks += _category_tables(results)
    blocks.append(_size(results))
    if results.has_masks:
        blocks.append(_precision(results))
    return blocks


def _ablation(results: StudyResults, table: str) -> Table:
    """One of Tables 12-16, in the paper's order."""
    rows = []
    for row in table_rows(table):
        cell = _cell_of(results, row)
        ours = [_mean(cell, m) if cell else Entry(NOTHING, MUTED) for m in results.paper_metrics]
        rows.append(
            (
                Entry(row.name),
                Entry(cell.name if cell else "no such cell", PLAIN if cell else MUTED),
                *ours,
                *(Entry(percent(row.values[bare(m)])) for m in results.paper_metrics),
            )
        )
    return Table(
        title=f"Table {table} of the paper",
        columns=(
            Column("The paper's row", numeric=False),
            Column("Cell", numeric=False),
            *(Column(f"{short(m)} here", "%") for m in results.paper_metrics),
            *(Column(f"{short(m)} in the paper", "%") for m in results.paper_metrics),
        ),
        rows=tuple(rows),
        notes=(f"{SOURCE}; means over the 15 categories of MVTec AD.",),
    )


def _cell_of(results: StudyResults, row: PaperRow) -> CellResult | None:
    configs = paper_configs(results)
    return next((c for c in results.cells if row.is_of(configs[c.name])), None)


def _mean(cell: CellResult, metric: str) -> Entry:
    scores = cell.chosen.scores(metric)
    if not scores:
        return Entry(NOTHING, MUTED)
    known = spread(scores)
    return Entry(mean_and_spread(known.mean, known.seeds))


def _category_tables(results: StudyResults) -> list[Block]:
    """Tables 2-5 or 6-9: each category beside the paper's."""
    cell = next((c for c in results.cells if is_default(c.chosen.config)), None)
    rows = [r for r in table_rows(*CATEGORY_TABLES) if r.dataset == results.config.data]
    if not rows:
        return [
            Text(
                "The paper's Tables 2-9 are of MVTec AD and VisA; this study has other images "
                f"({results.config.data}), so there is nothing to put beside its categories."
            )
        ]
    if cell is None:
        return [Text("No cell is the paper's default, of which its Tables 2-9 are.")]
    tables = dict.fromkeys(row.table for row in rows)
    return [_category_table(results, cell, [r for r in rows if r.table == t]) for t in tables]


def _category_table(results: StudyResults, cell: CellResult, rows: list[PaperRow]) -> Table:
    (metric,) = rows[0].values
    ours = by_category(cell.chosen.scores(f"report_{metric}"))
    entries, both = [], []
    for row in rows:
        theirs = row.values[metric]
        if row.name not in results.config.categories:
            continue
        if row.name not in ours:  # Not finished.
            nothing = Entry(NOTHING, MUTED)
            entries.append((Entry(row.name), nothing, Entry(percent(theirs)), nothing))
            continue
        known = spread({("", i): v for i, v in enumerate(ours[row.name])})
        both.append((known.mean, theirs))
        entries.append(
            (
                Entry(row.name),
                Entry(mean_and_spread(known.mean, known.seeds)),
                Entry(percent(theirs)),
                Entry(points(known.mean - theirs)),
            )
        )
    if both:
        mean, theirs = fmean(b[0] for b in both), fmean(b[1] for b in both)
        whole = len(both) == sum(row.name != AVERAGE for row in rows)
        entries.append(
            (
                Entry("average" if whole else f"average of these {len(both)}", STRONG),
                Entry(percent(mean), STRONG),
                Entry(percent(theirs), STRONG),
                Entry(points(mean - theirs), STRONG),
            )
        )
    name = said_metric(metric)
    return Table(
        title=f"Table {rows[0].table} of the paper: {name}",
        columns=(
            Column("Category", numeric=False),
            Column("Here", "%"),
            Column("In the paper", "%"),
            Column("Difference", "points"),
        ),
        rows=tuple(entries),
        notes=(
            f"Here: {cell.name}, mean \N{PLUS-MINUS SIGN} standard deviation over the seeds. "
            f"In the paper: {SOURCE}.",
        ),
    )


def _size(results: StudyResults) -> Table:
    """Table 10: parameters, multiply-accumulates, Det., Loc."""
    rows = []
    for cell in results.cells:
        parameters, macs = model_size(cell.chosen.config)
        rows.append(
            (
                Entry(cell.name),
                Entry(number(parameters / 1e6, 2)),
                Entry(number(macs / 1e9, 2)),
                *(_mean(cell, metric) for metric in results.paper_metrics),
            )
        )
    (paper,) = (row for row in table_rows("10"))
    rows.append(
        (
            Entry("the paper's FFC-AD", MUTED),
            Entry(number(paper.values["parameters_millions"], 0), MUTED),
            Entry(number(paper.values["macs_billions"], 0), MUTED),
            *(Entry(percent(paper.values[bare(m)]), MUTED) for m in results.paper_metrics),
        )
    )
    return Table(
        title="Table 10 of the paper: size and accuracy",
        columns=(
            Column("Cell", numeric=False),
            Column("Parameters", "millions"),
            Column("Multiply-accumulates of an image", "billions"),
            *(Column(short(m), "%") for m in results.paper_metrics),
        ),
        rows=tuple(rows),
        notes=(
            "Counted at the cell's own image size; not counted: "
            f"{NOT_COUNTED}. What the paper calls FLOPs are multiply-accumulates, at 256x256.",
        ),
    )


def model_size(config: TrainConfig) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image."""
    return _model_size(tuple(getattr(config, name) for name in ARCHITECTURE))


@functools.cache
def _model_size(values: tuple) -> tuple[int, int]:
    """Counted once for each architecture, because that takes a second."""
    cost = model_cost(TrainConfig(**dict(zip(ARCHITECTURE, values, strict=True))))
    return cost.parameters, cost.macs


def _precision(results: StudyResults) -> Table:
    """Table 11: AP, F1, precision and recall of the pixels."""
    rows = [
        (Entry(cell.name), *(_mean(cell, metric) for metric in PRECISION)) for cell in results.cells
    ]
    (paper,) = (row for row in table_rows("11"))
    theirs = (Entry(percent(paper.values[bare(metric)]), MUTED) for metric in PRECISION)
    rows.append((Entry("the paper's FFC-AD", MUTED), *theirs))
    return Table(
        title="Table 11 of the paper: precision and recall of pixels",
        columns=(
            Column("Cell", numeric=False),
            Column("AP", "%"),
            Column("Greatest F1", "%"),
            Column("Precision there", "%"),
            Column("Recall there", "%"),
        ),
        rows=tuple(rows),
        notes=("The threshold of the greatest F1 is that of the report split itself.",),
    )
