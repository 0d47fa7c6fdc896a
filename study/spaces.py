"""Search spaces: which knobs of a training are searched over or set by cells, which are fixed.

How a space is written down is said in `study/space_files.py`.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from ffcad.config import ConfigError, TrainConfig, check_knob, knobs

# Each size is another decoding and another digest of the data set.
MOST_IMAGE_SIZES = 8
# Random draws that show whether a space is made of configurations.
PROBES = 64
# A message is one line, and a grid may have many cells.
CELLS_NAMED = 4


class SpaceError(ValueError):
    """A search space that cannot be found, read, or drawn from."""


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        name: what the study and its messages call it.
        question: the first line of its lab card.
        search: knob -> distribution, in an order in which a condition precedes what it governs.
        fixed: knob -> value.
        cells: of a grid: name -> knob -> value; empty for a search.
    """

    name: str
    question: str
    search: dict[str, BaseDistribution]
    fixed: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_grid(self) -> bool:
        """Whether its configurations are all named, and none is drawn."""
        return bool(self.cells)

    def cell_configurations(self) -> dict[str, TrainConfig]:
        """A grid's configurations by their cells' names, in the order written."""
        return {
            name: TrainConfig.from_dict({**self.fixed, **values})
            for name, values in self.cells.items()
        }

    def distinct_cells(self) -> list[tuple[tuple[str, ...], TrainConfig]]:
        """A grid's configurations, each once, with all names that it has."""
        names: dict[str, list[str]] = {}
        configurations = {}
        for name, config in self.cell_configurations().items():
            names.setdefault(config.digest(), []).append(name)
            configurations.setdefault(config.digest(), config)
        return [(tuple(names[digest]), config) for digest, config in configurations.items()]

    def parameters(self, config: TrainConfig) -> dict[str, Any]:
        """What Optuna knows of a configuration: the searched knobs that are active in it, or those
        that a grid's cells set."""
        if self.is_grid:
            return {name: getattr(config, name) for name in self._cell_knobs()}
        values = config.to_dict()
        return {name: values[name] for name in self.search if _is_active(name, values)}

    def optuna_distributions(self) -> dict[str, BaseDistribution]:
        """Of what `parameters` gives; a grid's knobs have the cells' values as choices."""
        if not self.is_grid:
            return self.search
        return {n: CategoricalDistribution(self.values_of(n)) for n in self._cell_knobs()}

    def draw(self, trial: BaseTrial) -> TrainConfig:
        """Asks an Optuna trial for every searched knob that is active given those before it."""
        values = dict(self.fixed)
        for name, distribution in self.search.items():
            if _is_active(name, values):
                values[name] = _suggest(trial, name, distribution)
        return TrainConfig.from_dict(values)

    def pinned(self, values: dict[str, Any]) -> "Space":
        """The same space with knobs set to values, searched ones included.

        Searched knobs that the values leave without a use are dropped.

        Raises:
            SpaceError: if a key is no knob, a value is not allowed, or a grid's cells set the knob.
        """
        for name in values:
            if varying := [cell for cell, knobs_of in self.cells.items() if name in knobs_of]:
                raise SpaceError(
                    f"search space {self.name!r}: {name!r} cannot be pinned, because cells set it: "
                    f"{_listed(varying)}; change CELLS instead"
                )
        fixed = {**self.fixed, **values}
        search = {k: d for k, d in self.search.items() if k not in values}
        rest = Space(self.name, self.question, search, fixed)
        search = {k: d for k, d in search.items() if rest.never_active(k) is None}
        return checked(self.name, self.question, search, fixed, cells=self.cells)

    def never_active(self, name: str) -> str | None:
        """Why the knob is never used in this space, or None."""
        for other, allowed in knobs()[name].metadata["active_if"].items():
            if not set(self.values_of(other)) & set(allowed):
                return f"{other} is never {' or '.join(map(repr, allowed))}"
        return None

    def values_of(self, name: str) -> list[Any]:
        """Every value that the space can give the knob: its bounds, where it is a range."""
        if name in self.search:
            return bounds(self.search[name])
        if self.is_grid:
            configs = self.cell_configurations().values()
            return list(dict.fromkeys(getattr(config, name) for config in configs))
        return [self.fixed.get(name, knobs()[name].default)]

    def corners(self, names: list[str]) -> list[TrainConfig]:
        """One configuration for each combination of the knobs' extreme values; a grid's cells."""
        if self.is_grid:
            return [config for _, config in self.distinct_cells()]
        combinations = itertools.product(*(self.values_of(name) for name in names))
        return [
            TrainConfig.from_dict({**self.fixed, **dict(zip(names, values, strict=True))})
            for values in combinations
        ]

    def _cell_knobs(self) -> list[str]:
        return list(dict.fromkeys(knob for values in self.cells.values() for knob in values))


def checked(
    name: str,
    question: str,
    search: dict[str, BaseDistribution],
    fixed: dict[str, Any],
    *,
    cells: dict[str, dict[str, Any]] | None = None,
) -> Space:
    """A space whose every bound, or every cell, is a configuration.

    Raises:
        SpaceError: if a key is no knob, is fixed and also searched or set by a cell, or can never
            be active; if a bound or a cell is not allowed; if there are searched knobs and cells.
    """
    cells = cells or {}
    if search and cells:
        raise SpaceError(f"search space {name!r}: has SEARCH and CELLS; keep one")
    try:
        for key in (*search, *fixed):
            check_knob(key)
        TrainConfig.from_dict(fixed)
    except ConfigError as e:
        raise SpaceError(f"search space {name!r}: {e}") from e
    if both := sorted(set(search) & set(fixed)):
        raise SpaceError(f"search space {name!r}: {both[0]!r} is in SEARCH and in FIXED; keep one")
    for key, distribution in search.items():
        if not isinstance(distribution, BaseDistribution):
            raise SpaceError(
                f"search space {name!r}: SEARCH[{key!r}] must be an Optuna distribution but got "
                f"{distribution!r} ({type(distribution).__name__}); a single value goes into FIXED"
            )
    _check_cells(name, cells, fixed)
    space = Space(name, question, _by_dependency(name, search), fixed, cells)
    for key in space.optuna_distributions():
        _check_knob_range(space, key)
    _check_draws(space)
    return space


def _check_cells(name: str, cells: dict[str, dict[str, Any]], fixed: dict[str, Any]) -> None:
    for cell, values in cells.items():
        if not (isinstance(cell, str) and cell.strip() and isinstance(values, dict)):
            raise SpaceError(
                f"search space {name!r}: CELLS must be name -> (knob -> value), with names that "
                f"are not empty, but got {cell!r}: {values!r}"
            )
        if both := sorted(set(values) & set(fixed)):
            raise SpaceError(
                f"search space {name!r}: {both[0]!r} is in cell {cell!r} and in FIXED; keep one"
            )
        try:
            TrainConfig.from_dict({**fixed, **values})
        except ConfigError as e:
            raise SpaceError(f"search space {name!r}, cell {cell!r}: {e}") from e


def bounds(distribution: BaseDistribution) -> list[Any]:
    """A distribution's choices, or its two ends."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def _check_knob_range(space: Space, key: str) -> None:
    for value in space.values_of(key) if key in space.search else ():
        try:
            TrainConfig.from_dict({**space.fixed, key: value})
        except ConfigError as e:
            raise SpaceError(f"search space {space.name!r}: {e}") from e
    if reason := space.never_active(key):
        done = "set by cells" if space.is_grid else "searched"
        raise SpaceError(
            f"search space {space.name!r}: {key!r} is {done} but never used, because {reason}"
        )
    sizes = space.optuna_distributions().get("image_size")
    if key == "image_size" and not (
        isinstance(sizes, CategoricalDistribution) and len(sizes.choices) <= MOST_IMAGE_SIZES
    ):
        form = "have" if space.is_grid else "be a CategoricalDistribution of"
        raise SpaceError(
            f"search space {space.name!r}: image_size must {form} at most {MOST_IMAGE_SIZES} "
            "sizes, because each is another copy of the data set"
        )


def _check_draws(space: Space) -> None:
    """Draws at random: between its bounds, or in two knobs together, a space may hold what is no
    configuration. Some of it is drawn again during a search, most of it is a mistake."""
    if not space.search:
        return
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(verbosity)
    wrong = []
    for _ in range(PROBES):
        try:
            space.draw(study.ask())
        except ConfigError as e:
            wrong.append(e)
    if len(wrong) > PROBES // 2:
        raise SpaceError(
            f"search space {space.name!r}: {len(wrong)} of {PROBES} random draws are no "
            f"configuration; the last one: {wrong[-1]}"
        ) from wrong[-1]


def _by_dependency(name: str, search: dict[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    ordered: dict[str, BaseDistribution] = {}

    def place(key: str) -> None:
        for condition in knobs()[key].metadata["active_if"]:
            if condition in search:
                place(condition)
        ordered[key] = search[key]

    for key in search:
        place(key)
    return ordered


def _is_active(name: str, values: dict[str, Any]) -> bool:
    """Whether the knob is used, given the values drawn so far and the defaults of the rest."""
    return all(
        values.get(other, knobs()[other].default) in allowed and _is_active(other, values)
        for other, allowed in knobs()[name].metadata["active_if"].items()
    )


def _suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)


def _listed(names: list[str]) -> str:
    rest = len(names) - CELLS_NAMED
    return ", ".join(map(repr, names[:CELLS_NAMED])) + (f" and {rest} more" if rest > 0 else "")
