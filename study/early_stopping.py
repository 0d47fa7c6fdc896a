"""Ray's trial scheduler, rebuilt from a study's trials."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.optuna_study import STATES
from study.reports import OBJECTIVE, RUNG
from study.trials import TrialRecord

REDUCTION_FACTOR = 2


class HalvingByNumber(ASHAScheduler):
    """Knows trials by their numbers: one that came back is another one of Tune's, and passes again
    the rungs that it has passed, as itself."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Is called by Tune, as the others are."""
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        return super().on_trial_result(tune_controller, _by_number(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last result counts, too."""
        super().on_trial_complete(tune_controller, _by_number(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """It is not run any more."""
        super().on_trial_remove(tune_controller, _by_number(trial))


def _by_number(trial: Any) -> SimpleNamespace:
    """All that successive halving looks at of a trial of Tune."""
    return SimpleNamespace(trial_id=trial.config["trial_number"])


def make_scheduler(rungs: int, trials: list[TrialRecord]) -> TrialScheduler:
    """Successive halving over rungs, or none where there is one rung or nothing to stop.

    Args:
        rungs: of a whole trial; the last one is its end, where nothing is left to be stopped.
        trials: of earlier sittings; their values at the rungs count.
    """
    if rungs < 2:
        return FIFOScheduler()
    scheduler = HalvingByNumber(
        time_attr=RUNG,
        metric=OBJECTIVE,
        mode="max",
        max_t=rungs,
        grace_period=max(1, rungs // 4),
        reduction_factor=REDUCTION_FACTOR,
        stop_last_trials=False,
    )
    for record in trials:
        if record.state not in STATES:
            continue
        # Ray keeps no rungs over a restart.
        former = SimpleNamespace(config={"trial_number": record.number})
        scheduler.on_trial_add(None, former)
        for rung, value in sorted(record.intermediate.items()):
            scheduler.on_trial_result(None, former, {RUNG: rung, OBJECTIVE: value})
    return scheduler
