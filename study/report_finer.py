"""A grid's results per category and per type of defect."""

from statistics import fmean

from study.paired_statistics import by_category
from study.report_tables import (
    MUTED,
    NOTHING,
    PLAIN,
    STRONG,
    Column,
    Entry,
    Table,
    bare,
    heading,
    percent,
)
from study.results import StudyResults


def category_table(results: StudyResults, metric: str) -> Table | None:
    """Each category's mean over seeds, a column per cell; None where no cell has any."""
    scores = results.cell_scores(metric)
    if not scores:
        return None
    columns = (Column("Category", numeric=False), *(Column(name, "%") for name in scores))
    rows = []
    for category in results.config.categories:
        values = {name: by_category(s).get(category) for name, s in scores.items()}
        means = {name: float(v.mean()) for name, v in values.items() if v is not None}
        best = max(means.values()) if len(means) > 1 else None
        rows.append(
            (
                Entry(category),
                *(
                    Entry(percent(means.get(n)), STRONG if means.get(n) == best else PLAIN)
                    if n in means
                    else Entry(NOTHING, MUTED)
                    for n in scores
                ),
            )
        )
    return Table(
        title=f"{heading(metric)} per category",
        columns=columns,
        rows=tuple(rows),
        notes=("Means over the seeds that are finished; the highest of a row stands out.",),
    )


def type_table(results: StudyResults, metric: str) -> Table | None:
    """Each defect type's metric, a column per cell; None where no record has any."""
    name = bare(metric)
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    images: dict[tuple[str, str], int] = {}
    for cell in results.cells:
        for fit in cell.chosen.finished:
            for kind, metrics in fit.report_types.items():
                images[fit.category, kind] = int(metrics["images"])
                if name in metrics:
                    of_kind = values.setdefault((fit.category, kind), {})
                    of_kind.setdefault(cell.name, []).append(metrics[name])
    if not values:
        return None
    names = [cell.name for cell in results.cells if any(cell.name in v for v in values.values())]
    rows = [
        (
            Entry(category),
            Entry(kind),
            Entry(str(images[category, kind])),
            *(Entry(percent(fmean(of[n])) if n in of else NOTHING) for n in names),
        )
        for (category, kind), of in sorted(values.items())
    ]
    return Table(
        title=f"{heading(metric)} per type of defect",
        columns=(
            Column("Category", numeric=False),
            Column("Defect", numeric=False),
            Column("Images"),
            *(Column(name, "%") for name in names),
        ),
        rows=tuple(rows),
        notes=(
            "The images of one type against all normal images of the report split; means over "
            "seeds. Few images make an uncertain number.",
        ),
    )
