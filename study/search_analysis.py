"""What a search's trials say of its knobs, and of the choice that was made among them.

Statements on cells are made by comparing cases (`study/analysis.py`); these here only say where to
look next. docs/method.md says what each figure means and assumes.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from ffcad.config import knobs
from study.analysis import AnalysisError
from study.paired_statistics import LEVEL

# A rule of thumb: the spaces here have up to eight knobs.
FEWEST_TRIALS = 20
BEST_TRIALS = 5
# The part of a range that is near its end.
NEAR = 0.1
ROUNDING = 1e-9
# Between two choices there is no end to be near to.
FEWEST_CHOICES = 3
# With four, no order could have a p-value below 0.05.
FEWEST_RANKED = 5


@dataclass(frozen=True)
class KnobImportance:
    """How much of the objective's variance between trials a knob explains by itself.

    Attributes:
        knob: its name.
        importance: share of the variance, in [0, 1], with the other knobs averaged over; None where
            too few trials have the knob.
        trials: finished trials that have the knob.
        conditional: whether some finished trials do not have it, which are left out then.
        rank: 1 for the most important of the knobs that all these trials have and that vary among
            them; None without an importance.
        among: how many knobs these are.
    """

    knob: str
    importance: float | None
    trials: int
    conditional: bool
    rank: int | None
    among: int


@dataclass(frozen=True)
class NearBound:
    """A knob of which the best trials lie near an end of its range.

    Attributes:
        knob: its name.
        bound: that end.
        near: how many of the best trials are there.
        trials: of the best ones, those that have the knob.
        expected: share of the range that counts as near this end.
        is_limit: whether the knob itself allows nothing beyond.
    """

    knob: str
    bound: float
    near: int
    trials: int
    expected: float
    is_limit: bool


@dataclass(frozen=True)
class RankAgreement:
    """Whether what the select split ranks high, the report split does too.

    Attributes:
        ranked: how many are ranked by both.
        tau: Kendall's tau-b, in [-1, 1]; None where one of the splits has the same value for all.
        p_value: of the hypothesis that the two orders have nothing to do with each other.
        chosen: the best by the select split.
        chosen_rank: its rank by the report split, from 1.
        lost: by how much the best by the report split is better there.
    """

    ranked: int
    tau: float | None
    p_value: float | None
    chosen: Hashable
    chosen_rank: int
    lost: float


def knob_importance(trials: Sequence[FrozenTrial], *, seed: int = 0) -> list[KnobImportance]:
    """Share of the objective's variance for each knob (functional ANOVA of a random forest).

    Hutter et al., ICML 2014, as Optuna has it. Over all trials it leaves out the knobs that not all
    of them have; here such a knob is ranked among the trials that have it, with what they share.

    Args:
        trials: of one search space; only finished ones count.
        seed: of the forest.

    Returns:
        The knobs that vary, those of all trials first, the most important first.

    Raises:
        AnalysisError: if there are fewer than 20 finished trials.
    """
    finished = _finished(trials, FEWEST_TRIALS, "the importance of knobs")
    searched = dict.fromkeys(name for t in finished for name in t.params)
    varying = [knob for knob in searched if len(_values(knob, finished)) > 1]
    shares: dict[tuple[int, ...], dict[str, float]] = {}
    result = []
    for knob in varying:
        having = tuple(i for i, t in enumerate(finished) if knob in t.params)
        of_these = [finished[i] for i in having]
        # Of a conditional knob, what it depends on is often the same in all trials that have it.
        shared = sorted(
            n
            for n in varying
            if all(n in t.params for t in of_these) and len(_values(n, of_these)) > 1
        )
        importance = rank = None
        if len(having) >= FEWEST_TRIALS:
            if having not in shares:
                shares[having] = _shares(of_these, shared, seed)
            importance = shares[having][knob]
            rank = 1 + sum(share > importance for share in shares[having].values())
        conditional = len(having) < len(finished)
        entry = KnobImportance(knob, importance, len(having), conditional, rank, len(shared))
        result.append(entry)
    return sorted(result, key=lambda k: (k.conditional, -(k.importance or 0.0)))


def near_bounds(trials: Sequence[FrozenTrial], *, best: int = BEST_TRIALS) -> list[NearBound]:
    """Ends of ranges near which more of the best trials lie than chance would put there.

    Near is a tenth of the range, of its logarithm where that is searched, or the last value of
    numbers that are listed or stepped through. An end is named if at least half of the best trials
    are near it, and so many would be in at most 5 % of uniform draws.

    Args:
        trials: of one search space, with an objective that is maximised; only finished ones count.
        best: how many of them count as best.

    Raises:
        AnalysisError: if there are fewer than twice as many finished trials.
    """
    finished = _finished(trials, 2 * best, f"the bounds that the best {best} trials are near to")
    ranked = sorted(finished, key=lambda t: t.value, reverse=True)[:best]
    result = []
    for knob in dict.fromkeys(name for t in ranked for name in t.params):
        having = [t for t in ranked if knob in t.params]
        searched = _range_of(having[0].distributions[knob])
        if searched is None:
            continue
        positions = np.array([searched.position(t.params[knob]) for t in having])
        for bound, distances in ((searched.low, positions), (searched.high, 1 - positions)):
            near = int(np.count_nonzero(distances <= NEAR + ROUNDING))
            by_chance = stats.binom.sf(near - 1, len(having), searched.near_share)
            if 2 * near >= len(having) and by_chance <= LEVEL:
                share, is_limit = searched.near_share, _is_limit(knob, bound)
                result.append(NearBound(knob, bound, near, len(having), share, is_limit))
    return result


def rank_agreement(
    select: Mapping[Hashable, float], report: Mapping[Hashable, float]
) -> RankAgreement:
    """How the select split's ranking agrees with the report split's.

    Args:
        select: trial or cell -> what was chosen by; more is better.
        report: trial or cell -> the same metric on the report split. Those in both count.

    Raises:
        AnalysisError: if fewer than five are in both, or a value is not finite.
    """
    both = [name for name in select if name in report]
    if len(both) < FEWEST_RANKED:
        raise AnalysisError(
            f"whether two splits rank alike needs at least {FEWEST_RANKED} configurations with "
            f"results on both but got {len(both)}"
        )
    chosen_by = np.array([select[name] for name in both])
    reported = np.array([report[name] for name in both])
    if not np.isfinite([chosen_by, reported]).all():
        raise AnalysisError(
            "a configuration without a finite result cannot be ranked; leave it out"
        )
    tau = p_value = None
    if np.ptp(chosen_by) and np.ptp(reported):
        result = stats.kendalltau(chosen_by, reported)
        tau, p_value = float(result.statistic), float(result.pvalue)
    best = int(chosen_by.argmax())
    rank = 1 + int(np.count_nonzero(reported > reported[best]))
    lost = float(reported.max() - reported[best])
    return RankAgreement(len(both), tau, p_value, both[best], rank, lost)


@dataclass(frozen=True)
class _Range:
    """Numbers that a knob is searched over: two ends, the scale, and what share is near an end."""

    low: float
    high: float
    log: bool
    near_share: float
    listed: tuple[float, ...] = ()

    def position(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        if self.listed:
            return self.listed.index(value) / (len(self.listed) - 1)
        low, high, value = ((math.log(x) if self.log else x) for x in (self.low, self.high, value))
        return (value - low) / (high - low)


def _range_of(distribution: BaseDistribution) -> _Range | None:
    """None where the values have no order, or are too few for an end to mean something."""
    if distribution.single():
        return None
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        if any(isinstance(c, bool) or not isinstance(c, int | float) for c in choices):
            return None
        listed = tuple(sorted(choices))
        count = len(listed)
        low, high, log = listed[0], listed[-1], False
    else:
        low, high, log = distribution.low, distribution.high, distribution.log
        count = None if distribution.step is None else round((high - low) / distribution.step) + 1
        listed = ()
    if count is not None and count < FEWEST_CHOICES:
        return None
    near = NEAR if count is None or log else (int(NEAR * (count - 1) + ROUNDING) + 1) / count
    return _Range(low, high, log, near, listed)


def _values(knob: str, trials: Sequence[FrozenTrial]) -> set[str]:
    """What values those of the trials that have the knob have of it, as text."""
    return {repr(t.params[knob]) for t in trials if knob in t.params}


def _is_limit(knob: str, bound: float) -> bool:
    """Whether the knob has no value beyond this one."""
    allowed = knobs()[knob].metadata
    if allowed["choices"]:
        return bound in (min(allowed["choices"]), max(allowed["choices"]))
    return bound in (allowed["low"], allowed["high"])


def _finished(trials: Sequence[FrozenTrial], fewest: int, what: str) -> list[FrozenTrial]:
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    if len(finished) < fewest:
        raise AnalysisError(
            f"{what} needs at least {fewest} finished trials but got {len(finished)}"
        )
    return finished


def _shares(trials: Sequence[FrozenTrial], shared: list[str], seed: int) -> dict[str, float]:
    """Knob -> share of the variance between these trials, which all have the knobs `shared`."""
    if not np.ptp([t.value for t in trials]):
        return dict.fromkeys(shared, 0.0)  # Optuna's evaluator refuses them
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    optuna.logging.set_verbosity(verbosity)
    study.add_trials([_on_searched_scale(trial) for trial in trials])
    shares = FanovaImportanceEvaluator(seed=seed).evaluate(study, params=shared)
    return {knob: float(share) for knob, share in shares.items()}


def _on_searched_scale(trial: FrozenTrial) -> FrozenTrial:
    """The trial with logarithms for the knobs that are searched on a logarithmic scale.

    The evaluator averages over a knob's range as it is given, so that a learning rate between 0.01
    and 1 would count nearly by what it does above 0.1.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, distribution in trial.distributions.items():
        log = getattr(distribution, "log", False)
        params[name] = math.log(trial.params[name]) if log else trial.params[name]
        distributions[name] = (
            FloatDistribution(math.log(distribution.low), math.log(distribution.high))
            if log
            else distribution
        )
    return create_trial(params=params, distributions=distributions, value=trial.value)
