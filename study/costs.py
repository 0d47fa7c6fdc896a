"""What a study will cost, before it is run: what is left of it, times what a fit costs."""

import time
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from ffcad.config import TrainConfig
from study.config import StudyConfig
from study.drawing import drawn_at_random
from study.encoder_needs import encoders_to_make, needed_encoders
from study.encoders import EncoderStore
from study.fit_costs import (
    Seconds,
    cluster_history,
    encoder_seconds,
    history,
    seconds_of_like,
    summed,
)
from study.inputs import Inputs, cases_of
from study.ledger import FINISHED, Ledger
from study.makespan import makespan
from study.order import in_order
from study.plan import Plan
from study.question import cell_cases
from study.spaces import Space
from study.storage import Storage
from study.trials import Case

# Random draws that stand for the configurations that a search will ask for.
SAMPLED = 16


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left of a study, and what it will cost.

    Attributes:
        fits: of the whole study.
        finished: of them in the ledger, whoever did them.
        begun: of those that are left.
        left: still to be done; what was stopped early or failed is neither finished nor left.
        configurations: of the whole study; where cells are tuned, of each of them. A study that is
            enlarged later has others after these.
        seconds: of all fits that are left, added up; None where nothing is known.
        wall_seconds: the same from beginning to end, with `slots` trials at once.
        slots: trials at once.
        gpus: of each.
        source: what it was estimated from, in a few words.
        spent_seconds, spent_gpu_seconds: of the study's fits until now, whoever did them.
        encoders: to be made.
        encoder_seconds: of making them, added up; None where nothing is known.
    """

    fits: int
    finished: int
    begun: int
    left: int
    configurations: int
    seconds: float | None
    wall_seconds: float | None
    slots: int
    gpus: float
    source: str
    spent_seconds: float = 0.0
    spent_gpu_seconds: float = 0.0
    encoders: int = 0
    encoder_seconds: float | None = 0.0

    @property
    def total_seconds(self) -> float | None:
        """With the making of encoders, where its time is known."""
        return None if self.seconds is None else self.seconds + (self.encoder_seconds or 0.0)

    @property
    def total_wall_seconds(self) -> float | None:
        """With the making of encoders, which comes first, several at once."""
        if not self.encoders or self.wall_seconds is None:
            return self.wall_seconds
        return self.wall_seconds + (self.encoder_seconds or 0.0) / min(self.slots, self.encoders)

    @property
    def gpu_hours(self) -> float | None:
        """Of all that is left; None where its time is not known."""
        return None if self.total_seconds is None else self.total_seconds * self.gpus / 3600

    def to_dict(self) -> dict[str, Any]:
        """As the study's document keeps it, with the time at which it was made (epoch, seconds)."""
        return {**asdict(self), "when": time.time()}


def configurations_ahead(space: Space, plan: Plan) -> list[TrainConfig]:
    """What is left to be fitted; random draws stand for what a search will ask for."""
    begun = [TrainConfig.from_dict(t.configuration) for t in plan.trials if not t.decided]
    if not plan.new:
        return begun
    return [*begun, *drawn_at_random(space.search, space.fixed, SAMPLED)[0]]


def estimate(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    plan: Plan,
    ledger: Ledger,
    seconds: Seconds,
    source: str,
    slots: tuple[int, float],
) -> Estimate:
    """Counts what is left of a study, and adds up what it costs.

    Args:
        config, space, inputs: the study.
        plan: what is left of it.
        ledger: what is done.
        seconds: of a fit.
        source: what those come from.
        slots: trials at once, and the GPUs of each.
    """
    waiting = [trial for trial in plan.trials if not trial.decided]
    if space.is_grid:
        keys = {case.key for _, case in cell_cases(config, space, inputs)}
    else:
        keys = {case.key for trial in plan.current for case in trial.cases}
    records = {r.key: r for r in ledger.read_all(list(keys))[0]}
    finished = {key for key, record in records.items() if record.status == FINISHED}
    unfinished = {case.key for trial in waiting for case in trial.cases} - finished

    def left(configuration: TrainConfig, case: Case) -> float | None:
        record, whole = records.get(case.key), seconds(configuration, case.category)
        if record is not None and record.status == FINISHED:
            return 0.0
        return whole if whole is None or record is None else max(0.0, whole - record.work_seconds)

    of_trial: dict[int, float | None] = {}
    for trial in waiting:
        configuration = TrainConfig.from_dict(trial.configuration)
        of_trial[trial.number] = summed(left(configuration, case) for case in trial.cases)
    if None not in of_trial.values():
        waiting = in_order(waiting, plan.unbegun, of_trial, slots[0])
    durations = [of_trial[trial.number] for trial in waiting]
    if plan.new:
        sample, _ = drawn_at_random(space.search, space.fixed, SAMPLED)
        each = [
            summed(seconds(drawn, case.category) for case in cases_of(config, inputs, drawn))
            for drawn in sample
        ]
        mean = None if None in each or not each else fmean(each)
        durations += [mean] * plan.new
    total = summed(durations)
    new = plan.new * len(config.cases)
    return Estimate(
        fits=len(keys) + new,
        finished=len(finished),
        begun=sum(key in records and records[key].iteration > 0 for key in unfinished),
        left=len(unfinished) + new,
        configurations=config.draws if space.is_grid else plan.total,
        seconds=total,
        wall_seconds=None if total is None else makespan(durations, slots[0]),
        slots=slots[0],
        gpus=slots[1],
        source=source,
        spent_seconds=sum(record.work_seconds for record in records.values()),
        spent_gpu_seconds=sum(record.gpu_seconds for record in records.values()),
    )


def estimate_from_history(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    plan: Plan,
    ledger: Ledger,
    slots: tuple[int, float],
    cluster: bool = False,
) -> Estimate | None:
    """What a study will cost, where the ledger has fits like all of its own; costs nothing.

    Args:
        config, space, inputs: the study.
        plan: what is left of it.
        ledger: of what is done.
        slots: trials at once, and the GPUs of each.
        cluster: whether they are on other machines than this one; then the fits that count are
            those of the kind of machine that did most.
    """
    threads = config.cpus_per_trial
    records = cluster_history(ledger, threads, slots[1]) if cluster else history(ledger, threads)
    if not records:
        return None
    source = from_history(len(records), "like these")
    seconds = seconds_of_like(records)
    found = estimate(config, space, inputs, plan, ledger, seconds, source, slots)
    if found.seconds is None:
        return None
    return with_encoders(found, space, inputs, plan, ledger.storage)


def with_encoders(
    found: Estimate, space: Space, inputs: Inputs, plan: Plan, storage: Storage
) -> Estimate:
    """An estimate with the encoders that are made before the trials of a plan.

    Args:
        found: of the fits.
        space, inputs: the study's.
        plan: what is left of it.
        storage: holds encoders.
    """
    store = EncoderStore(storage)
    left, _ = encoders_to_make(needed_encoders(space, inputs, plan), store)
    seconds = encoder_seconds(left.values(), store)
    return replace(found, encoders=len(left), encoder_seconds=seconds)


def from_history(count: int, how: str) -> str:
    """An estimate's source, in a few words."""
    return f"from {count} finished fit{'s' * (count != 1)} in the ledger, {how}"
