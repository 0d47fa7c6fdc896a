"""Search spaces: which knobs of a training are searched over or set by cells, which are fixed.

How a space is written down is said in `study/space_files.py`.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial

from ffcad.config import ConfigError, TrainConfig, check_knob, knobs
from study.drawing import (
    bounds,
    by_dependency,
    drawn,
    drawn_at_random,
    drawn_beforehand,
    is_active,
)
from study.space_checks import (
    NUMBERED,
    SpaceError,
    check_cells,
    check_distributions,
    checked_reference,
    listed,
)

# Each size is another decoding and another digest of the data set.
MOST_IMAGE_SIZES = 8
# Random draws that show whether a space is made of configurations.
PROBES = 64


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        name: what the study and its messages call it.
        question: the first line of its lab card.
        search: knob -> distribution, in an order in which a condition precedes what it governs.
        fixed: knob -> value.
        cells: of a grid: name -> knob -> value; empty for a search.
        reference: the cell that the others are compared with; None for a search.
        tables: the paper's, that ask the same.
        nuisance: of a grid: knob -> distribution, of what is tuned within each cell, in an order in
            which a condition precedes what it governs.
        draws: of a grid: configurations per cell, if there is something to be tuned in it.
    """

    name: str
    question: str
    search: dict[str, BaseDistribution]
    fixed: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    reference: str | None = None
    tables: tuple[str, ...] = ()
    nuisance: dict[str, BaseDistribution] = field(default_factory=dict)
    draws: int = 1

    @property
    def is_grid(self) -> bool:
        """Whether its configurations are all named, and none is drawn."""
        return bool(self.cells)

    def cell_configurations(self) -> dict[str, TrainConfig]:
        """A grid's configurations by their cells' names, in the order written.

        With nuisance knobs a cell has several: the first one, with those knobs at their defaults,
        has the cell's name, the others are called 'name #2' and so on.
        """
        return dict(self._configurations)

    @cached_property
    def _configurations(self) -> dict[str, TrainConfig]:
        return {
            name if i == 0 else f"{name}{NUMBERED}{i + 1}": config
            for name, values in self.cells.items()
            for i, config in enumerate(
                drawn_beforehand(self.nuisance, {**self.fixed, **values}, self.draws)
            )
        }

    def cell_of(self, config: TrainConfig) -> list[str]:
        """The cells that a configuration belongs to, whatever its nuisance knobs; none in a search.

        Rows of several tables may be one cell's configuration, so there may be several.
        """
        defaults = {name: knobs()[name].default for name in self.nuisance}
        own = dataclasses.replace(config, **defaults).digest()
        return [
            name
            for name, values in self.cells.items()
            if TrainConfig.from_dict({**self.fixed, **values}).digest() == own
        ]

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
        that a grid's cells set and tune."""
        if self.is_grid:
            return {name: getattr(config, name) for name in self._cell_knobs()}
        values = config.to_dict()
        return {name: values[name] for name in self.search if is_active(name, values)}

    def optuna_distributions(self) -> dict[str, BaseDistribution]:
        """Of what `parameters` gives; a grid's knobs have the cells' values as choices."""
        if not self.is_grid:
            return self.search
        return {n: CategoricalDistribution(self._given(n)) for n in self._cell_knobs()}

    def draw(self, trial: BaseTrial) -> TrainConfig:
        """Asks an Optuna trial for every searched knob that is active given those before it."""
        return drawn(trial, self.search, self.fixed)

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
                    f"{listed(varying)}; change CELLS instead"
                )
        fixed = {**self.fixed, **values}
        left = {k: d for k, d in (self.search | self.nuisance).items() if k not in values}
        varied = {"nuisance" if self.is_grid else "search": left}
        rest = dataclasses.replace(self, fixed=fixed, **varied)
        left = {k: d for k, d in left.items() if rest.never_active(k) is None}
        return checked(
            self.name,
            self.question,
            {} if self.is_grid else left,
            fixed,
            cells=self.cells,
            reference=self.reference,
            tables=self.tables,
            nuisance=left if self.is_grid else {},
            draws=self.draws,
        )

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
            tuned = bounds(self.nuisance[name]) if name in self.nuisance else []
            return list(dict.fromkeys([*self._given(name), *tuned]))
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
        named = (knob for values in self.cells.values() for knob in values)
        return list(dict.fromkeys([*named, *self.nuisance]))

    def _given(self, name: str) -> list[Any]:
        """The values that a grid's configurations have of a knob."""
        values = (getattr(config, name) for config in self._configurations.values())
        return list(dict.fromkeys(values))


def checked(
    name: str,
    question: str,
    search: dict[str, BaseDistribution],
    fixed: dict[str, Any],
    *,
    cells: dict[str, dict[str, Any]] | None = None,
    reference: str | None = None,
    tables: tuple[str, ...] = (),
    nuisance: dict[str, BaseDistribution] | None = None,
    draws: int = 1,
) -> Space:
    """A space whose every bound, or every cell, is a configuration.

    Args:
        name, question, search, fixed, cells, tables: as `Space` has them.
        reference: None takes a grid's first cell.
        nuisance: of a grid.
        draws: counts only where there is something to be tuned.

    Raises:
        SpaceError: if a key is no knob, is in two of what is fixed, tuned, searched and set by
            cells, or can never be active; if a bound or a cell is not allowed; if there are
            searched knobs and cells; if the reference is no cell.
    """
    cells, nuisance = cells or {}, nuisance or {}
    if search and cells:
        raise SpaceError(f"search space {name!r}: has SEARCH and CELLS; keep one")
    if nuisance and not cells:
        raise SpaceError(
            f"search space {name!r}: NUISANCE is for CELLS; a search tunes every knob of SEARCH"
        )
    try:
        for key in (*search, *nuisance, *fixed):
            check_knob(key)
        TrainConfig.from_dict(fixed)
    except ConfigError as e:
        raise SpaceError(f"search space {name!r}: {e}") from e
    for part, distributions in (("SEARCH", search), ("NUISANCE", nuisance)):
        check_distributions(name, part, distributions, fixed)
    check_cells(name, cells, fixed, nuisance)
    space = Space(
        name,
        question,
        by_dependency(search),
        fixed,
        cells,
        checked_reference(name, reference, cells),
        tuple(tables),
        by_dependency(nuisance),
        draws if nuisance else 1,
    )
    for key in space.optuna_distributions():
        _check_knob_range(space, key)
    _check_draws(space)
    return space


def _check_knob_range(space: Space, key: str) -> None:
    distributions = space.search | space.nuisance
    for value in bounds(distributions[key]) if key in distributions else ():
        for cell in space.cells.values() or [{}]:
            try:
                TrainConfig.from_dict({**space.fixed, **cell, key: value})
            except ConfigError as e:
                raise SpaceError(f"search space {space.name!r}: {e}") from e
    if reason := space.never_active(key):
        tuned = "tuned" if key in space.nuisance else "set by cells"
        raise SpaceError(
            f"search space {space.name!r}: {key!r} is {tuned if space.is_grid else 'searched'} but "
            f"never used, because {reason}"
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
    _, wrong = drawn_at_random(space.search, space.fixed, PROBES)
    if len(wrong) > PROBES // 2:
        raise SpaceError(
            f"search space {space.name!r}: {len(wrong)} of {PROBES} random draws are no "
            f"configuration; the last one: {wrong[-1]}"
        ) from wrong[-1]
