"""How values of knobs are drawn from Optuna's distributions, conditional ones only where used."""

import dataclasses
import warnings
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import QMCSampler, RandomSampler
from optuna.trial import BaseTrial, TrialState

from ffcad.config import ConfigError, TrainConfig, knobs

# Asked beyond what is wanted, because a draw may be no configuration, or one that is there already.
REDRAWS = 64
DIGITS = 4


def bounds(distribution: BaseDistribution) -> list[Any]:
    """A distribution's choices, or its two ends."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def by_dependency(search: dict[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The same in an order in which a condition precedes what it governs."""
    ordered: dict[str, BaseDistribution] = {}

    def place(key: str) -> None:
        for condition in knobs()[key].metadata["active_if"]:
            if condition in search:
                place(condition)
        ordered[key] = search[key]

    for key in search:
        place(key)
    return ordered


def is_active(name: str, values: dict[str, Any]) -> bool:
    """Whether the knob is used, given the values drawn so far and the defaults of the rest."""
    return all(
        values.get(other, knobs()[other].default) in allowed and is_active(other, values)
        for other, allowed in knobs()[name].metadata["active_if"].items()
    )


def drawn(
    trial: BaseTrial, search: dict[str, BaseDistribution], given: dict[str, Any]
) -> TrainConfig:
    """Asks an Optuna trial for every knob that is active given those before it.

    Args:
        trial: that suggests.
        search: knob -> distribution, ordered by `by_dependency`.
        given: knob -> value, of those that are not drawn.

    Raises:
        ConfigError: if what was drawn is no configuration.
    """
    values = dict(given)
    for name, distribution in search.items():
        if is_active(name, values):
            values[name] = _suggest(trial, name, distribution)
    return TrainConfig.from_dict(values)


def every_point(
    search: dict[str, BaseDistribution], given: dict[str, Any], most: int
) -> list[dict[str, Any]] | None:
    """What can be drawn, each as the values of its active knobs.

    Args:
        search: knob -> distribution, ordered by `by_dependency`.
        given: knob -> value, of those that are not drawn.
        most: points to list.

    Returns:
        The points, some of which may be no configuration; None where a range is continuous, or
        there are more of them.
    """
    points: list[dict[str, Any]] = [{}]
    for name, distribution in search.items():
        values = _listed(distribution, most)
        if values is None:
            return None
        points = [
            {**point, name: value}
            for point in points
            for value in (values if is_active(name, {**given, **point}) else [None])
        ]
        if len(points) > most:
            return None
    return [{n: value for n, value in point.items() if value is not None} for point in points]


def drawn_beforehand(
    search: dict[str, BaseDistribution], given: dict[str, Any], count: int
) -> list[TrainConfig]:
    """Distinct configurations that are the same on every machine and in every sitting.

    The first one has the drawn knobs at their defaults; the others spread evenly over the ranges
    (Halton's sequence, unscrambled; choices are drawn at random with a fixed seed), to four digits.
    The first n of more draws are the n draws, so that a budget can grow.

    Args:
        search: knob -> distribution, ordered by `by_dependency`.
        given: knob -> value, of those that are not drawn.
        count: how many; fewer are returned where there are no more.
    """
    first = TrainConfig.from_dict(given)
    found = {first.digest(): first}
    if count == 1 or not search:
        return [first]
    study = _quiet_study(_even_sampler())
    for number in range(count + REDRAWS):
        if len(found) == count:
            break
        trial = study.ask()
        try:
            config = _rounded(drawn(trial, search, given), search)
        except ConfigError:
            study.tell(trial, state=TrialState.FAIL)
            continue
        study.tell(trial, 0.0)
        # From the first one, the sampler learns which knobs there are; the second is the corner
        # where Halton's sequence begins.
        if number > 1:
            found.setdefault(config.digest(), config)
    return list(found.values())


def drawn_at_random(
    search: dict[str, BaseDistribution], given: dict[str, Any], count: int
) -> tuple[list[TrainConfig], list[ConfigError]]:
    """Configurations, and the errors of draws that are none, of `count` random draws in all."""
    study = _quiet_study(RandomSampler(seed=0))
    found, wrong = [], []
    for _ in range(count):
        try:
            found.append(drawn(study.ask(), search, given))
        except ConfigError as e:
            wrong.append(e)
    return found, wrong


def _listed(distribution: BaseDistribution, most: int) -> list[Any] | None:
    """Every value of a distribution; None where it is continuous, or there are more than `most`."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if distribution.step is None:
        return None
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    if count > most:
        return None
    return [distribution.low + i * distribution.step for i in range(count)]


def _rounded(config: TrainConfig, search: dict[str, BaseDistribution]) -> TrainConfig:
    """With floats of few digits, which no other machine's arithmetic makes another configuration,
    as its digest would tell."""
    changes = {}
    for name, distribution in search.items():
        if isinstance(distribution, FloatDistribution):
            value = float(f"{getattr(config, name):.{DIGITS}g}")
            if distribution.low <= value <= distribution.high:
                changes[name] = value
    return dataclasses.replace(config, **changes)


def _even_sampler() -> QMCSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return QMCSampler(
            qmc_type="halton",
            scramble=False,
            seed=0,
            independent_sampler=RandomSampler(seed=0),
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )


def _quiet_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)
