"""Ray's trial scheduler, rebuilt from a study's trials."""

from types import SimpleNamespace

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.optuna_study import STATES
from study.reports import OBJECTIVE, RUNG
from study.trials import TrialRecord

REDUCTION_FACTOR = 2


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
        if record.state not in STATES:
            continue
        # Ray keeps no rungs over a restart. It knows a trial by its id, so a name is enough.
        former = SimpleNamespace(trial_id=f"former-{record.number}")
        scheduler.on_trial_add(None, former)
        for rung, value in sorted(record.intermediate.items()):
            scheduler.on_trial_result(None, former, {RUNG: rung, OBJECTIVE: value})
    return scheduler
