"""What a report says of a search's knobs and of its choice: where to look next."""

from functools import partial

from study.analysis import AnalysisError
from study.ledger import FINISHED
from study.optuna_study import frozen_trial
from study.paired_statistics import spread
from study.report_search_figures import bars
from study.report_tables import (
    NOTHING,
    Block,
    Column,
    Entry,
    Figure,
    Table,
    Text,
    number,
    p_value,
    percent,
    points,
    said_metric,
)
from study.results import StudyResults
from study.search_analysis import KnobImportance, knob_importance, near_bounds, rank_agreement


def knob_blocks(results: StudyResults) -> list[Block]:
    """Importance of the knobs, bounds that the best trials are near to, and how the splits agree;
    for what there are too few trials yet, a line says so."""
    trials = [frozen_trial(results.space, t) for t in results.current if t.state == FINISHED]
    blocks: list[Block] = []
    try:
        importance = knob_importance(trials)
        blocks += [_importance_figure(importance), _importance_table(importance)]
    except AnalysisError as e:
        blocks.append(Text(_sentence(e)))
    try:
        near = near_bounds(trials)
        blocks += [
            Text(
                f"{n.near} of the best {n.trials} trials that have {n.knob} lie near its bound "
                f"{n.bound:g}"
                + (
                    ", beyond which there is nothing."
                    if n.is_limit
                    else ": the best value may lie beyond; widen the range."
                ),
                warning=not n.is_limit,
            )
            for n in near
        ]
        if not near:
            blocks.append(Text("The best trials are near no bound of the search space."))
    except AnalysisError as e:
        blocks.append(Text(_sentence(e)))
    return [*blocks, _agreement(results)]


def _importance_figure(importance: list[KnobImportance]) -> Figure:
    known = {
        k.knob + (" (where it is used)" if k.conditional else ""): 100 * k.importance
        for k in importance
        if k.importance is not None
    }
    return Figure(
        title="Importance of the knobs",
        caption="The share of the objective's variance between trials that a knob explains by "
        "itself (functional ANOVA). A conditional knob's share is among the trials that use it.",
        draw=partial(
            bars, {name: 100 * value for name, value in known.items()}, "share of the variance, %"
        ),
        alternative="; ".join(f"{name} {value:.1f} %" for name, value in known.items()),
    )


def _importance_table(importance: list[KnobImportance]) -> Table:
    rows = [
        (
            Entry(k.knob),
            Entry(percent(k.importance)),
            Entry(NOTHING if k.rank is None else f"{k.rank} of {k.among}"),
            Entry(str(k.trials)),
            Entry("where it is used" if k.conditional else "in all trials"),
        )
        for k in importance
    ]
    return Table(
        title="Importance of the knobs",
        columns=(
            Column("Knob", numeric=False),
            Column("Share of the variance", "%"),
            Column("Rank"),
            Column("Trials"),
            Column("Among", numeric=False),
        ),
        rows=tuple(rows),
    )


def _agreement(results: StudyResults) -> Block:
    objective = results.config.objective
    reported = objective.replace("select_", "report_", 1)
    finished = [c for c in results.configurations if c.value is not None]
    select = {c.trials[0].number: c.value for c in finished}
    # A select split of made defects has masks also where the report split has none.
    report = {
        c.trials[0].number: spread(scores).mean for c in finished if (scores := c.scores(reported))
    }
    metric = said_metric(objective.removeprefix("select_"))
    if finished and not report:
        return Text(
            f"The report split has no {metric}, so nothing can be said of whether it ranks the "
            "configurations as the select split does."
        )
    try:
        found = rank_agreement(select, report)
    except AnalysisError as e:
        return Text(_sentence(e))
    if found.tau is None:
        return Text("One of the splits has the same value for all configurations: no ranking.")
    return Text(
        f"Select and report split rank the {found.ranked} finished configurations with Kendall's "
        f"tau {number(found.tau, 2)} (1: alike; 0: unrelated; p {p_value(found.p_value)}). The one "
        f"chosen, trial {found.chosen}, is number {found.chosen_rank} on the report split; the "
        f"best there has {points(found.lost).lstrip('+')} points more {metric}. No choice was made "
        "by that."
    )


def _sentence(error: AnalysisError) -> str:
    text = str(error)
    return f"{text[0].upper()}{text[1:]}."
