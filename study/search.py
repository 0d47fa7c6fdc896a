"""Optuna's sampler and Ray's trial scheduler, both rebuilt from a study's trials.

Ray's own adapter to Optuna is not used: it tells trials that were stopped early as complete, leaves
one with a NaN running for ever, and cannot be restored after a kill.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ffcad.config import ConfigError, TrainConfig
from study.ledger import FAILED, FINISHED, STOPPED
from study.spaces import Space
from study.trials import Case, TrialRecord

# What the trainable reports; heartbeats have a fraction only.
OBJECTIVE, RUNG, FINAL, ERROR, FRACTION = "objective", "rung", "final", "error", "fraction"

REDUCTION_FACTOR = 2
STATES = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}

# A suggestion that was already tried is drawn again this often by the sampler, then at random.
SAMPLER_REDRAWS, RANDOM_REDRAWS = 10, 200


class OptunaSearch(Searcher):
    """Suggests distinct configurations to Tune, and tells Optuna what became of them.

    Begun trials of earlier sittings come first, with the number and configuration they had.

    Args:
        space: to draw from.
        cases_of: the cases of a configuration, with their fits' keys.
        trials: of earlier sittings.
        write: keeps a trial's record durably; called before anything is answered.
        seed: of the sampler.
    """

    def __init__(
        self,
        space: Space,
        cases_of: Callable[[TrainConfig], tuple[Case, ...]],
        trials: list[TrialRecord],
        write: Callable[[TrialRecord], None],
        seed: int = 0,
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.space, self.cases_of, self.write = space, cases_of, write
        self.records = {record.number: record for record in trials}
        # With the same seed at every sitting, a resumed study would suggest its first draws again.
        self.seed = seed + len(trials)
        self.study = rebuild_study(space, trials, self.seed)
        self.waiting = [record for record in trials if not record.decided]
        self.running: dict[str, Asked] = {}
        self.fractions: dict[int, float] = {}
        self.exhausted = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """A configuration for Tune's trial; FINISHED where the space holds no untried one."""
        if self.waiting:
            record = self.waiting.pop(0)
            self.study.enqueue_trial(record.drawn)
            asked = self.study.ask()
            # Drawn again, because the file of the encoder's weights may have moved.
            record = dataclasses.replace(record, configuration=self.space.draw(asked).to_dict())
            for rung, value in record.intermediate.items():
                asked.report(value, rung)
        else:
            found = self._draw_untried()
            if found is None:
                self.exhausted = True
                return Searcher.FINISHED
            asked, config = found
            record = TrialRecord(
                number=max(self.records, default=-1) + 1,
                state="begun",
                drawn=asked.params,
                configuration=config.to_dict(),
                digest=config.digest(),
                cases=self.cases_of(config),
            )
        asked.set_user_attr("number", record.number)
        self.running[trial_id] = Asked(record.number, asked, set(record.intermediate))
        self.fractions[record.number] = 0.0
        self._keep(record)
        return {"configuration": record.configuration, "trial_number": record.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps how far the trial is, and its objective at a rung."""
        asked, value = self.running[trial_id], result.get(OBJECTIVE)
        self.fractions[asked.number] = result.get(FRACTION, 0.0)
        if value is None or not math.isfinite(value):
            return
        rung = result[RUNG]
        # A trial that is tried again after its worker died passes the same rungs again.
        if rung not in asked.rungs:
            asked.rungs.add(rung)
            asked.trial.report(value, rung)
            record = self.records[asked.number]
            intermediate = {**record.intermediate, rung: value}
            self._keep(dataclasses.replace(record, intermediate=intermediate))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Finished, stopped by the trial scheduler, or failed: decides which, and tells Optuna."""
        # Tune gives the result that a trial is stopped at here only.
        if result is not None:
            self.on_trial_result(trial_id, result)
        asked = self.running.pop(trial_id)
        self.fractions.pop(asked.number, None)
        record = dataclasses.replace(self.records[asked.number], **outcome(result, error))
        self._tell(asked.trial, record)
        self._keep(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study is resumed from its trials' records."""

    def _keep(self, record: TrialRecord) -> None:
        self.write(record)
        self.records[record.number] = record

    def _draw_untried(self) -> tuple[Trial, TrainConfig] | None:
        known = {record.digest: record for record in self.records.values()}
        sampler = self.study.sampler
        try:
            for attempt in range(SAMPLER_REDRAWS + RANDOM_REDRAWS):
                if attempt == SAMPLER_REDRAWS:
                    self.study.sampler = RandomSampler(seed=self.seed + len(self.study.trials))
                asked = self.study.ask()
                try:
                    config = self.space.draw(asked)
                except ConfigError:  # a corner of the space that is no configuration
                    self.study.tell(asked, state=TrialState.FAIL)
                    continue
                if config.digest() not in known:
                    return asked, config
                self._answer_repeated(asked, known[config.digest()])
        finally:
            self.study.sampler = sampler
        return None

    def _answer_repeated(self, asked: Trial, record: TrialRecord) -> None:
        """Tells the sampler what is known of a configuration that it suggested before."""
        asked.set_user_attr("repeats", record.number)
        if record.decided:
            for rung, value in record.intermediate.items():
                asked.report(value, rung)
            self._tell(asked, record)
        else:
            self.study.tell(asked, state=TrialState.FAIL)

    def _tell(self, asked: Trial, record: TrialRecord) -> None:
        if record.state == FINISHED:
            self.study.tell(asked, record.value)
        else:
            self.study.tell(asked, state=STATES[record.state])


@dataclass
class Asked:
    """An Optuna trial that Tune runs: the number of its record, and the rungs it has passed."""

    number: int
    trial: Trial
    rungs: set[int]


def outcome(result: dict[str, Any] | None, error: bool) -> dict[str, Any]:
    """What a trial's last result says of it: the fields of its record that change.

    Args:
        result: the last thing that the trainable reported, if it reported anything.
        error: whether Tune gave the trial up.
    """
    value = (result or {}).get(OBJECTIVE)
    ended = time.time()
    if error or result is None:
        reason = "its worker process died, and so did the ones that tried again"
        return {"state": FAILED, "error": reason, "ended": ended, "machine_failed": True}
    if result.get(ERROR):
        return {"state": FAILED, "error": result[ERROR], "ended": ended}
    if not result.get(FINAL):
        return {"state": STOPPED, "ended": ended}
    if value is None or not math.isfinite(value):
        return {"state": FAILED, "error": f"its objective is {value}", "ended": ended}
    return {"state": FINISHED, "value": value, "ended": ended}


def make_sampler(seed: int) -> TPESampler:
    """TPE over the groups of knobs that are active together, with running trials repelling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def rebuild_study(space: Space, trials: list[TrialRecord], seed: int) -> optuna.Study:
    """An Optuna study in memory that knows every decided trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(seed))
    for record in trials:
        if record.decided:
            study.add_trial(frozen_trial(space, record))
    return study


def frozen_trial(space: Space, record: TrialRecord) -> FrozenTrial:
    """A decided trial as Optuna knows it: PRUNED with its intermediate values, FAIL without one."""
    value = record.value
    if record.state == STOPPED and record.intermediate:
        # What `Study.tell` does; `best_trial` looks at COMPLETE ones only.
        value = record.intermediate[max(record.intermediate)]
    return create_trial(
        state=STATES[record.state],
        params=record.drawn,
        distributions={name: space.search[name] for name in record.drawn},
        value=value,
        intermediate_values=record.intermediate,
        user_attrs={"number": record.number},
    )


def make_scheduler(rungs: int, trials: list[TrialRecord]) -> TrialScheduler:
    """Successive halving over rungs, or none where there is one rung or nothing to stop.

    Args:
        rungs: of a whole trial; the last one is its end, where nothing is left to be stopped.
        trials: of earlier sittings; their values at the rungs count.
    """
    if rungs < 2:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr=RUNG,
        metric=OBJECTIVE,
        mode="max",
        max_t=rungs,
        grace_period=max(1, rungs // 4),
        reduction_factor=REDUCTION_FACTOR,
        stop_last_trials=False,
    )
    for record in trials:
        if not record.decided:
            continue
        # Ray keeps no rungs over a restart. It knows a trial by its id, so a name is enough.
        former = SimpleNamespace(trial_id=f"former-{record.number}")
        scheduler.on_trial_add(None, former)
        for rung, value in sorted(record.intermediate.items()):
            scheduler.on_trial_result(None, former, {RUNG: rung, OBJECTIVE: value})
    return scheduler
