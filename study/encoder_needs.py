"""Which encoders a study needs: known from its question and its trials, before any is made."""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from ffcad.config import ConfigError, TrainConfig
from study.encoders import EncoderNeed, EncoderStore
from study.inputs import ENCODER_KNOBS, Inputs
from study.ledger import BEGUN, FAILED, FINISHED
from study.plan import Plan
from study.spaces import Space
from study.trials import RETIRED, TrialRecord

# Combinations of knobs beyond which a space counts as continuous.
MOST_COMBINATIONS = 1000


def needed_encoders(space: Space, inputs: Inputs, plan: Plan) -> dict[str, EncoderNeed]:
    """The encoders that must be there before a plan's trials can begin, by their keys.

    Those of the trials that are left, and, where configurations are still to be drawn, all that the
    space can ask for. Not the latter where they are more than these configurations, as in a
    continuous range of ratios: the fits then make what they need, each once.

    Args:
        space: the study's.
        inputs: digests of what encoders are made of.
        plan: what is left to do.
    """
    needs = of_trials([trial for trial in plan.trials if not trial.decided], inputs)
    if plan.new:
        ahead = of_space(space, inputs)
        if ahead is not None and len(ahead) <= plan.new:
            needs |= ahead
    return needs


def of_trials(trials: Iterable[TrialRecord], inputs: Inputs) -> dict[str, EncoderNeed]:
    """The encoders of trials, by their keys; retired trials need none."""
    if not inputs.makings:
        return {}
    return _by_key(
        (TrainConfig.from_dict(t.configuration) for t in trials if t.state != RETIRED), inputs
    )


def of_space(space: Space, inputs: Inputs) -> dict[str, EncoderNeed] | None:
    """All encoders that a space can ask for, by their keys; None where a knob has a range."""
    if not inputs.makings:
        return {}
    if space.is_grid:
        return _by_key(space.cell_configurations().values(), inputs)
    names = [*ENCODER_KNOBS, "encoder_weights"]
    values = {name: _values(space, name) for name in names}
    combinations = 1
    for found in values.values():
        combinations *= len(found or ())
    if not 0 < combinations <= MOST_COMBINATIONS:
        return None
    configurations = []
    for chosen in itertools.product(*values.values()):
        try:
            knobs = {**space.fixed, **dict(zip(names, chosen, strict=True))}
            configurations.append(TrainConfig.from_dict(knobs))
        except ConfigError:
            continue  # A corner that is no configuration is never drawn.
    return _by_key(configurations, inputs)


def encoders_to_make(
    needs: dict[str, EncoderNeed], store: EncoderStore
) -> tuple[dict[str, EncoderNeed], str]:
    """Those that are not there yet, and a line for the console; empty where none is needed."""
    if not needs:
        return {}, ""
    records, _ = store.read_all(list(needs))
    states = {record.key: record.status for record in records}
    left = {key: need for key, need in needs.items() if states.get(key) != FINISHED}
    counts = Counter(states.get(key, "to make") for key in needs)
    order = (FINISHED, FAILED, BEGUN, "to make")
    parts = [f"{counts[state]} {state}" for state in order if counts[state]]
    return left, f"{len(needs)} encoder{'s' * (len(needs) != 1)}: {', '.join(parts)}"


def _by_key(configurations: Iterable[TrainConfig], inputs: Inputs) -> dict[str, EncoderNeed]:
    needs = (inputs.encoder_need(configuration) for configuration in configurations)
    return {need.key: need for need in needs if need is not None}


def _values(space: Space, name: str) -> list[Any] | None:
    """Every value that a space gives a knob; None where that is a range."""
    distribution = space.search.get(name)
    if distribution is None or isinstance(distribution, CategoricalDistribution):
        return space.values_of(name)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if distribution.step is None:
        return None
    steps = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + i * distribution.step for i in range(steps + 1)]
