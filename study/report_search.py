"""What a report says of a search: ranks, what its knobs do, and what accuracy costs."""

import platform
from collections.abc import Mapping
from functools import partial

from study.latency import image_seconds
from study.ledger import FAILED, STOPPED
from study.paired_statistics import spread
from study.report_paper import model_size
from study.report_search_figures import Tried, history, parallel, pareto, slices
from study.report_tables import (
    MUTED,
    NOTHING,
    PLAIN,
    STRONG,
    Block,
    Column,
    Entry,
    Figure,
    Table,
    Text,
    mean_and_spread,
    percent,
    said_metric,
)
from study.results import ConfigurationResult, StudyResults

MOST_ROWS = 20


def ranked(results: StudyResults) -> list[ConfigurationResult]:
    """The finished configurations, the best on the select split first; others have no rank."""
    finished = [c for c in results.configurations if c.value is not None]
    return sorted(finished, key=lambda c: -c.value)


def search_answer(results: StudyResults) -> list[Text]:
    """Which configuration a search chose, and what that is worth."""
    order = ranked(results)
    if not order:
        return [Text("No configuration is finished yet: nothing to rank.")]
    best = order[0]
    texts = [
        Text(
            f"Best of {len(order)} finished configurations by {results.config.objective}: trial "
            f"{best.trials[0].number} with {percent(best.value)} %: {best.name}."
        )
    ]
    if len(order) > 1 and not results.config.confirm:  # Else the caveats say where its figures are.
        texts.append(
            Text(
                "The best of many is lucky: its select value is too high, and its rank may be "
                "chance. --confirm K fits it and the default again on K fresh seeds."
            )
        )
    return texts


def ranking_table(results: StudyResults) -> Table:
    """The finished configurations by rank, with the report split's metrics."""
    order = ranked(results)
    metrics = results.metrics
    rows = []
    for place, configuration in enumerate(order[:MOST_ROWS], start=1):
        scores = [configuration.scores(metric) for metric in metrics]
        known = [spread(s) if s else None for s in scores]
        rows.append(
            (
                Entry(str(place)),
                Entry(str(configuration.trials[0].number)),
                Entry(configuration.name, STRONG if place == 1 else PLAIN),
                Entry(percent(configuration.value)),
                *(Entry(mean_and_spread(k.mean, k.seeds) if k else NOTHING, MUTED) for k in known),
            )
        )
    notes = [
        f"Ranked by {results.config.objective} alone, the mean over all cases. The report split's "
        "columns had no part in it; the mean over the categories, \N{PLUS-MINUS SIGN} the standard "
        "deviation over seeds where there are several.",
    ]
    if len(order) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(order)} finished configurations.")
    objective = said_metric(results.config.objective.removeprefix("select_"))
    return Table(
        title="Finished configurations",
        columns=(
            Column("Rank"),
            Column("Trial"),
            Column("Settings that vary", numeric=False),
            Column(f"Select {objective}", "%"),
            *(Column(f"Report {said_metric(m.removeprefix('report_'))}", "%") for m in metrics),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def search_blocks(results: StudyResults, latency: bool) -> list[Block]:
    """The pictures of a search.

    Args:
        results: of it.
        latency: whether the time of an image is measured; else its multiply-accumulates are
            counted.
    """
    order = ranked(results)
    if not order:
        return []
    tried = [Tried(c.trials[0].number, c.trials[0].drawn, c.value) for c in order]
    label = f"select split's {said_metric(results.config.objective.removeprefix('select_'))}, %"
    ended = {
        state: [t.number for t in results.current if t.state == state]
        for state in (STOPPED, FAILED)
    }
    ended = {state: numbers for state, numbers in ended.items() if numbers}
    distributions = results.space.search
    blocks: list[Block] = [
        Figure(
            title="History",
            caption="Each finished configuration by its trial's number, and the best so far. "
            "Trials that ended early stand at the bottom: they have no value that compares.",
            draw=partial(history, tried, ended, label),
            alternative=f"The best value is {percent(order[0].value)} %, of trial "
            f"{order[0].trials[0].number}.",
        ),
        Figure(
            title="Slices",
            caption="The objective against each knob, of the finished configurations that use it. "
            "The other knobs vary too, so a slope here may be another knob's.",
            draw=partial(slices, tried, distributions, label),
            alternative="Dots of the objective over each knob's values.",
        ),
    ]
    if len(tried) > 1:
        blocks.append(
            Figure(
                title="Parallel coordinates",
                caption="A line for each finished configuration through its values; dark is "
                "high, yellow low. A knob that a configuration does not use is passed below.",
                draw=partial(parallel, tried, distributions, label),
                alternative="Lines through an axis per knob, coloured by the objective.",
            )
        )
    return [*blocks, *_pareto(results, order, latency)]


def _pareto(results: StudyResults, order: list[ConfigurationResult], latency: bool) -> list[Block]:
    """Accuracy against cost: the configurations that no other beats in both."""
    # By trial: what a report calls them is rounded, so two may have one name.
    by_trial = {c.trials[0].number: c for c in order}
    if latency:
        seconds = {
            key: 1000 * image_seconds(c.config)
            for key, c in {_size_key(c): c for c in order}.items()
        }
        costs = {trial: seconds[_size_key(c)] for trial, c in by_trial.items()}
        cost, unit = "Time of an image", "milliseconds"
        where = f"Measured on {platform.node()}, one image at a time."
    else:
        costs = {trial: model_size(c.config)[1] / 1e9 for trial, c in by_trial.items()}
        cost, unit = "Multiply-accumulates of an image", "billions"
        where = "Counted, not timed; --latency measures the time on the machine that reports."
    points = {trial: (costs[trial], c.value) for trial, c in by_trial.items()}
    front = front_of(points)
    objective = said_metric(results.config.objective.removeprefix("select_"))
    rows = [
        (
            Entry(str(i)),
            Entry(str(trial)),
            Entry(by_trial[trial].name),
            Entry(f"{costs[trial]:.3g}"),
            Entry(percent(by_trial[trial].value)),
            *(_report_mean(by_trial[trial], metric) for metric in results.metrics),
        )
        for i, trial in enumerate(front, start=1)
    ]
    return [
        Figure(
            title="Accuracy against cost",
            caption="Filled and numbered: no other finished configuration is both cheaper and "
            f"better on the select split (the Pareto front). {where}",
            draw=partial(
                pareto, points, front, f"{cost.lower()}, {unit}", f"select split's {objective}, %"
            ),
            alternative=f"{len(front)} of {len(order)} configurations are on the front; the table "
            "has them.",
        ),
        Table(
            title="Pareto front",
            columns=(
                Column("Number"),
                Column("Trial"),
                Column("Settings that vary", numeric=False),
                Column(cost, unit),
                Column(f"Select {objective}", "%"),
                *(
                    Column(f"Report {said_metric(m.removeprefix('report_'))}", "%")
                    for m in results.metrics
                ),
            ),
            rows=tuple(rows),
        ),
    ]


def front_of(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """The trials that no other beats in both cost (less) and value (more), by cost.

    Args:
        points: trial -> (cost, value).
    """
    front: list[int] = []
    for trial in sorted(points, key=lambda t: (points[t][0], -points[t][1])):
        if not front or points[trial][1] > points[front[-1]][1]:
            front.append(trial)
    return front


def _size_key(configuration: ConfigurationResult) -> str:
    config = configuration.config
    return f"{model_size(config)} {config.image_size} {config.device} {config.precision}"


def _report_mean(configuration: ConfigurationResult, metric: str) -> Entry:
    scores = configuration.scores(metric)
    return Entry(percent(spread(scores).mean) if scores else NOTHING)
