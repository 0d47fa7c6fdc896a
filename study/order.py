"""In which order a grid's fits are handed to Tune.

Case by case, all cells of each, as long as that costs nothing: so a half-done study can compare its
cells. The last cases, as many as keep every slot busy for twice the longest fit, are taken
together, and of them the longest fits come first: so the study ends with short ones, and not with a
long one on one GPU while the others are idle. On many GPUs these are all cases. Fits that take
nearly the same are spread over the categories.
"""

import itertools
from collections.abc import Iterable, Mapping
from statistics import fmean

from ffcad.config import TrainConfig
from study.fit_costs import (
    Seconds,
    finished_fits,
    fit_work,
    is_near,
    of_commonest_kind,
    seconds_of_like,
    seconds_scaled,
)
from study.ledger import FitRecord, Ledger
from study.plan import Plan
from study.trials import TrialRecord

# What is kept for the end, in units of the longest fit on every slot.
RESERVE = 2.0
# Durations within this factor are nearly the same: none is known better before.
NEARLY = 1.1


def waiting_trials(plan: Plan, ledger: Ledger, slots: int) -> list[TrialRecord]:
    """A plan's trials that are left, in the order in which they are handed out.

    Args:
        plan: what is left.
        ledger: tells what like fits took.
        slots: trials at once.
    """
    waiting = [trial for trial in plan.trials if not trial.decided]
    if len(plan.unbegun) <= slots:  # They begin together, whatever the order.
        return _begun_first(waiting, plan.unbegun)
    expected = expected_durations(waiting, finished_fits(ledger))
    return in_order(waiting, plan.unbegun, expected, slots)


def in_order(
    waiting: list[TrialRecord],
    unbegun: frozenset[int],
    durations: Mapping[int, float],
    slots: int,
) -> list[TrialRecord]:
    """Trials in the order in which they are handed out; those that were begun come first.

    Args:
        waiting: trials, by number.
        unbegun: the numbers of those that no sitting has begun; each has one case.
        durations: number -> expected duration, in any unit.
        slots: trials at once.
    """
    trials = _begun_first(waiting, unbegun)
    begun = len(trials) - len(unbegun)
    begun, trials = trials[:begun], trials[begun:]
    if not trials:
        return begun
    kept = RESERVE * slots * max(durations[trial.number] for trial in trials)
    cases = [list(of_case) for _, of_case in itertools.groupby(trials, _case)]
    last: list[TrialRecord] = []
    while cases and sum(durations[trial.number] for trial in last) < kept:
        last = cases.pop() + last
    first = [trial for of_case in cases for trial in of_case]
    return [*begun, *first, *_longest_first(last, durations)]


def expected_durations(trials: Iterable[TrialRecord], records: list[FitRecord]) -> dict[int, float]:
    """Trial's number -> what it will take: seconds where finished fits tell it, else its work.

    Args:
        trials: of one case each, or of several.
        records: finished fits; those of the kind of machine that did most of them count, because
            only what is long beside the others matters.
    """
    trials = list(trials)
    configurations = {t.digest: TrainConfig.from_dict(t.configuration) for t in trials}
    records = of_commonest_kind(records)
    asked = {(t.digest, case.category) for t in trials for case in t.cases}
    seconds = seconds_of_like(records)
    # To count a configuration's work takes a second.
    if any(seconds(configurations[digest], category) is None for digest, category in asked):
        near = [record for record in records if is_near(record, configurations.values())]
        seconds = _by_work(near, {category for _, category in asked})
    each = {(d, category): seconds(configurations[d], category) for d, category in asked}
    return {t.number: sum(each[t.digest, case.category] for case in t.cases) for t in trials}


def _by_work(near: list[FitRecord], categories: Iterable[str]) -> Seconds:
    """What a fit takes, by its work and fits of about its size; its training's work without any."""
    if not near:
        return lambda configuration, category: fit_work(configuration, (0, 0))
    images = {r.category: r.inputs["images"] for r in near}
    known = [(counts["select"], counts["report"]) for counts in images.values()]
    usual = round(fmean(c[0] for c in known)), round(fmean(c[1] for c in known))
    known = dict(zip(images, known, strict=True))
    return seconds_scaled(near, {name: known.get(name, usual) for name in categories})


def _longest_first(trials: list[TrialRecord], durations: Mapping[int, float]) -> list[TrialRecord]:
    """The longest first; of those that take nearly the same, one of each category in turn."""
    alike: list[list[TrialRecord]] = []
    for trial in sorted(trials, key=lambda trial: -durations[trial.number]):
        if not alike or durations[trial.number] * NEARLY < durations[alike[-1][0].number]:
            alike.append([])
        alike[-1].append(trial)
    spread = (_spread(sorted(same, key=lambda trial: trial.number)) for same in alike)
    return list(itertools.chain.from_iterable(spread))


def _spread(trials: list[TrialRecord]) -> list[TrialRecord]:
    """One trial of each category in turn, each category's in the order given."""
    of_category: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        of_category.setdefault(trial.cases[0].category, []).append(trial)
    turns = itertools.zip_longest(*of_category.values())
    return [trial for turn in turns for trial in turn if trial is not None]


def _begun_first(waiting: list[TrialRecord], unbegun: frozenset[int]) -> list[TrialRecord]:
    return sorted(waiting, key=lambda trial: trial.number in unbegun)


def _case(trial: TrialRecord) -> tuple[str, int]:
    return trial.cases[0].category, trial.cases[0].seed
