"""Points of a space that no trial has tried yet, drawn as Optuna's trials."""

import contextlib
import random

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState

from ffcad.config import ConfigError, TrainConfig
from study.drawing import every_point
from study.optuna_study import tell
from study.spaces import Space
from study.trials import TrialRecord

# A suggestion that was already tried is drawn again this often by the sampler, then at random;
# then, where the space has no more points than that, one is taken of those that are left.
SAMPLER_REDRAWS, RANDOM_REDRAWS, MOST_POINTS = 10, 200, 20_000


def draw_untried(
    study: optuna.Study, space: Space, known: dict[str, TrialRecord], seed: int
) -> tuple[Trial, TrainConfig] | None:
    """Draws a configuration that is not known; None where nothing is left.

    Args:
        study: asked; it is told of everything that it suggests in vain.
        space: of the study.
        known: the trials by their configurations' digests.
        seed: of what is drawn at random.
    """
    sampler = study.sampler
    try:
        for attempt in range(SAMPLER_REDRAWS + RANDOM_REDRAWS):
            if attempt == SAMPLER_REDRAWS:
                study.sampler = RandomSampler(seed=seed + len(study.trials))
            asked = study.ask()
            try:
                config = space.draw(asked)
            except ConfigError:  # a corner of the space that is no configuration
                study.tell(asked, state=TrialState.FAIL)
                continue
            if config.digest() not in known:
                return asked, config
            _answer_repeated(study, asked, known[config.digest()])
    finally:
        study.sampler = sampler
    return _one_that_is_left(study, space, known, seed)


def _one_that_is_left(
    study: optuna.Study, space: Space, known: dict[str, TrialRecord], seed: int
) -> tuple[Trial, TrainConfig] | None:
    """A random point of a finite space that is not known; None where there is none."""
    left = []
    for values in every_point(space.search, space.fixed, MOST_POINTS) or []:
        with contextlib.suppress(ConfigError):
            config = TrainConfig.from_dict({**space.fixed, **values})
            if config.digest() not in known:
                left.append((values, config))
    if not left:
        return None
    values, config = random.Random(seed + len(study.trials)).choice(left)
    study.enqueue_trial(values)
    asked = study.ask()
    space.draw(asked)
    return asked, config


def _answer_repeated(study: optuna.Study, asked: Trial, record: TrialRecord) -> None:
    """Tells the sampler what is known of a configuration that it suggested before."""
    asked.set_user_attr("repeats", record.number)
    if record.decided:
        for rung, value in record.intermediate.items():
            asked.report(value, rung)
        tell(study, asked, record)
    else:
        study.tell(asked, state=TrialState.FAIL)
