"""How wrong the estimate was that the driver kept before the first fit."""

import itertools
from collections.abc import Callable, Iterable

from study.ledger import FINISHED, FitRecord, last_seen
from study.report_tables import NOTHING, Block, Column, Entry, Table, Text, duration
from study.results import ConfigurationResult, StudyResults


def plan_blocks(results: StudyResults) -> list[Block]:
    """The plan beside what its fits took since."""
    plan = results.document.get("plan")
    if plan is None or "configurations" not in plan:  # An older version counted otherwise.
        return [
            Text(
                "No plan was kept: when the study began, nothing told its time, and no --dry-run "
                "of it had been made on that machine."
            )
        ]
    planned = _planned(results)
    cases = {case.key: case for c in planned for case in c.cases}
    fits = [case.fit for case in cases.values() if case.fit is not None]
    done = sum(fit.status == FINISHED for fit in fits) - plan["finished"]
    work = sum(fit.work_seconds for fit in fits) - plan["spent_seconds"]
    gpu_seconds = sum(fit.gpu_seconds for fit in fits) - plan["spent_gpu_seconds"]
    wall = worked_seconds(fits, results.config.name, plan["when"])
    rows = [
        _row("Fits", plan["left"], done, "{:,}".format),
        _row("Work", plan["seconds"], work, duration),
        _row("Time from beginning to end", plan["wall_seconds"], wall, duration),
    ]
    if plan["gpus"] or gpu_seconds:
        hours = plan["seconds"] * plan["gpus"] / 3600, gpu_seconds / 3600
        rows.append(_row("GPU-hours", *hours, "{:.2f}".format))
    notes = [
        f"Of what was left when it was planned, {plan['source']}. Time is with {plan['slots']} "
        "trials at once; what was taken of it is while at least one fit was worked at."
    ]
    later = len(set(results.cases) - set(cases))
    if later:
        notes.append(f"{later} fits were asked for later, and are in neither column.")
    return [
        Table(
            title="Plan against truth",
            columns=(
                Column("What", numeric=False),
                Column("Planned"),
                Column("Taken" if _is_over(results, planned) else "So far"),
                Column("Of what was planned", "%"),
            ),
            rows=tuple(rows),
            notes=tuple(notes),
        )
    ]


def _row(
    name: str, planned: float, taken: float, said: Callable[[float], str]
) -> tuple[Entry, ...]:
    share = f"{100 * taken / planned:.0f}" if planned else NOTHING
    return Entry(name), Entry(said(planned)), Entry(said(taken)), Entry(share)


def _planned(results: StudyResults) -> list[ConfigurationResult]:
    """The configurations that there were when the plan was made; the study may have been enlarged
    since."""
    count = results.document["plan"]["configurations"]
    if results.cells:
        return [draw for cell in results.cells for draw in cell.draws[:count]]
    return list(results.configurations[:count])


def _is_over(results: StudyResults, planned: list[ConfigurationResult]) -> bool:
    """Whether nothing of the planned fits is left to be done."""
    wanted = 0 if results.cells else results.document["plan"]["configurations"]
    if len(planned) < wanted and not results.document.get("exhausted"):
        return False
    trials = [trial for c in planned for trial in c.trials]
    begun = {case.key for trial in trials for case in trial.cases}
    waiting = {case.key for c in planned for case in c.cases if case.state != FINISHED} - begun
    return not waiting and all(trial.decided for trial in trials)


def worked_seconds(fits: Iterable[FitRecord], study: str, since: float) -> float:
    """How long a study was worked at: the union of its fits' sittings, by their machines' clocks.

    Args:
        fits: the study's.
        study: its name; what others did of the fits is not counted.
        since: what was before does not count; epoch, seconds.
    """
    spans = sorted(
        (max(began, since), ended)
        for fit in fits
        for began, ended, of in _sittings(fit)
        if of == study and ended > since
    )
    total, until = 0.0, since
    for began, ended in spans:
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def _sittings(fit: FitRecord) -> Iterable[tuple[float, float, str]]:
    """(began, ended, study) of each; one that was killed ended with its last evaluation."""
    for sitting, following in itertools.zip_longest(fit.sittings, fit.sittings[1:]):
        if following is None:
            ended = last_seen(fit)
        else:
            seen = [e["time"] for e in fit.history if e["time"] <= following["began"]]
            ended = max(seen, default=sitting["began"])
        yield sitting["began"], max(ended, sitting["began"]), sitting["study"]
