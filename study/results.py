"""A study's results as plain values, read from its storage: nothing of it is written here.

So it can look at a study that is half done, or that a driver is running right now.
"""

from dataclasses import dataclass
from typing import Any

from ffcad.config import TrainConfig
from study.config import StudyConfig, StudyError
from study.inputs import Inputs, cases_of
from study.lease_holders import current_holder, describe, describe_silence, silent_seconds
from study.ledger import FINISHED, FitRecord, Ledger
from study.mending import mended_trials
from study.outcomes import Outcome, outcomes
from study.question import study_of
from study.result_notes import mixed_encoders
from study.spaces import NUMBERED, Space
from study.storage import Storage
from study.trials import RETIRED, StudyFolder, TrialRecord, existing_study
from study.tuned_cells import best_draw, equally_tuned
from study.wording import settings, varying_knobs

# The paper's columns "Det." and "Loc.": the report split's, of finished fits.
DETECTION, LOCALISATION = "report_image_auroc", "report_pixel_ap"
# A fit that nobody began has no record.
NEW = "not begun"

Scores = dict[tuple[str, int], float]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """A configuration on one case.

    Attributes:
        category, seed: the case.
        key: the fit's.
        fit: its record; None where nobody began it, or it cannot be read.
    """

    category: str
    seed: int
    key: str
    fit: FitRecord | None

    @property
    def state(self) -> str:
        """finished, begun, stopped, failed or not begun."""
        return NEW if self.fit is None else self.fit.status


@dataclass(frozen=True, kw_only=True)
class ConfigurationResult:
    """A configuration with all cases of the study.

    Attributes:
        name: what the report calls it: its cells' names, or its settings that vary.
        config: every knob.
        trials: of it, by number; empty while a grid's was not begun.
        state: as `Outcome.state`; 'not begun' without a trial.
        value: mean objective on the select split, where all cases are finished.
        cases: in the study's order.
    """

    name: str
    config: TrainConfig
    trials: tuple[TrialRecord, ...]
    state: str
    value: float | None
    cases: tuple[CaseResult, ...]

    @property
    def finished(self) -> tuple[FitRecord, ...]:
        """The records of its finished fits."""
        return tuple(c.fit for c in self.cases if c.fit and c.state == FINISHED)

    def scores(self, metric: str) -> Scores:
        """(category, seed) -> a metric, of the finished fits that have it."""
        return {
            (f.category, f.seed): f.metrics[metric] for f in self.finished if metric in f.metrics
        }


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A grid's cell: what its question compares.

    Attributes:
        name: the cell's; where several are one configuration the reference's, or the first one's.
        names: of all of them, in the order written.
        chosen: the configuration that stands for it.
        draws: all its configurations; more than one where nuisance knobs are tuned within it.
        tried: those of them that it was chosen from.
    """

    name: str
    names: tuple[str, ...]
    chosen: ConfigurationResult
    draws: tuple[ConfigurationResult, ...]
    tried: tuple[ConfigurationResult, ...]


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Everything that a report says, before any statistics.

    Attributes:
        config: the study.
        space: its search space.
        inputs: digests of what went into its fits.
        document: the study's, as it was read.
        trials: all of them, retired ones too.
        configurations: of the present question, in the order of their trials; of a grid in the
            order of its cells.
        cells: of a grid, in the order written; empty for a search.
        reference: the name of the cell that the others are compared with; None for a search.
        driver: who drives the study now, as its lease says; None if nobody.
        notes: what had to be mended, cannot be read or is to be known, a line each.
        also: metrics of the report split that are compared beside the paper's.
    """

    config: StudyConfig
    space: Space
    inputs: Inputs
    document: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    configurations: tuple[ConfigurationResult, ...]
    cells: tuple[CellResult, ...]
    reference: str | None
    driver: str | None
    notes: tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def current(self) -> list[TrialRecord]:
        """The trials of the present question."""
        return [trial for trial in self.trials if trial.state != RETIRED]

    @property
    def best(self) -> ConfigurationResult | None:
        """The finished configuration with the best mean objective on the select split.

        Of a grid with nuisance knobs, among those that stand for their cells, so that no cell is
        preferred for having been tuned more often.
        """
        pool = [cell.chosen for cell in self.cells] or self.configurations
        finished = [configuration for configuration in pool if configuration.value is not None]
        return max(finished, key=lambda configuration: configuration.value, default=None)

    @property
    def cases(self) -> dict[str, CaseResult]:
        """The fits of the present question by key, each once."""
        return {case.key: case for c in self.configurations for case in c.cases}

    @property
    def fits(self) -> list[FitRecord]:
        """The records that there are of them."""
        return [case.fit for case in self.cases.values() if case.fit is not None]

    @property
    def has_masks(self) -> bool:
        """Whether any finished fit has pixel metrics."""
        return any(LOCALISATION in f.metrics for f in self.fits if f.status == FINISHED)

    @property
    def paper_metrics(self) -> list[str]:
        """The metrics of the paper's columns that there are."""
        return [DETECTION, *([LOCALISATION] if self.has_masks else [])]

    @property
    def metrics(self) -> list[str]:
        """All that cells are compared by."""
        return [*self.paper_metrics, *self.also]

    def cell_scores(self, metric: str) -> dict[str, Scores]:
        """Cell -> (category, seed) -> a metric, of the cells that have any."""
        scores = {cell.name: cell.chosen.scores(metric) for cell in self.cells}
        return {name: values for name, values in scores.items() if values}


def read_results(storage: Storage, name: str, also: tuple[str, ...] = ()) -> StudyResults:
    """Reads a study.

    Args:
        storage: holds it.
        name: its own.
        also: metrics to compare beside the paper's, as 'pixel_aupro'.

    Raises:
        LedgerError: if there is none of that name, or its document cannot be read.
        StudyError: if another version of this project wrote it, or no fit has such a metric.
    """
    folder, ledger = existing_study(storage, name), Ledger(storage)
    config, space, inputs = study_of(folder)
    trials, notes = mended_trials(config, space, inputs, folder, write=False)
    groups = {group.first.digest: group for group in outcomes(trials, len(config.cases))}
    reader = _Reader(config, inputs, ledger, groups)
    cells: tuple[CellResult, ...] = ()
    if space.is_grid:
        cells = _cells(space, reader)
        drawn = {d.config.digest(): d for cell in cells for d in cell.draws}
        configurations = tuple(drawn.values())
    else:
        varying = varying_knobs([group.first for group in groups.values()])
        configurations = tuple(
            reader.configuration(
                ", ".join(settings(group.first, varying)),
                TrainConfig.from_dict(group.first.configuration),
            )
            for group in groups.values()
        )
    results = StudyResults(
        config=config,
        space=space,
        inputs=inputs,
        document=folder.read_document(),
        trials=tuple(trials),
        configurations=configurations,
        cells=cells,
        reference=next((c.name for c in cells if space.reference in c.names), None),
        driver=_driver(folder),
        notes=(*notes, *dict.fromkeys(reader.wrong), *mixed_encoders(configurations)),
        also=tuple(f"report_{metric}" for metric in also),
    )
    _check_also(results)
    return results


def _check_also(results: StudyResults) -> None:
    names = dict.fromkeys(name for fit in results.fits for name in fit.metrics)
    known = [n for n in names if n.startswith("report_") and n not in results.paper_metrics]
    for metric in results.also:
        if metric not in known:
            others = ", ".join(n.removeprefix("report_") for n in known) or "none yet"
            raise StudyError(
                f"--also {metric.removeprefix('report_')!r}: the other metrics of the study's "
                f"finished fits are {others}"
            )


def _driver(folder: StudyFolder) -> str | None:
    holder = current_holder(folder.storage, folder.driver)
    if holder is None:
        return None
    return f"{describe(holder)}{describe_silence(silent_seconds(folder.storage, folder.driver))}"


class _Reader:
    """Joins configurations with their trials and their fits' records.

    Attributes:
        wrong: what of the ledger cannot be read, a line each.
    """

    def __init__(
        self, study: StudyConfig, inputs: Inputs, ledger: Ledger, groups: dict[str, Outcome]
    ) -> None:
        self.study, self.inputs, self.ledger, self.groups = study, inputs, ledger, groups
        self.wrong: list[str] = []

    def configuration(self, name: str, config: TrainConfig) -> ConfigurationResult:
        cases = cases_of(self.study, self.inputs, config)
        records, unreadable = self.ledger.read_all([case.key for case in cases])
        self.wrong += unreadable
        fits = {record.key: record for record in records}
        outcome = self.groups.get(config.digest())
        return ConfigurationResult(
            name=name,
            config=config,
            trials=outcome.trials if outcome else (),
            state=outcome.state if outcome else NEW,
            value=outcome.value if outcome else None,
            cases=tuple(
                CaseResult(category=c.category, seed=c.seed, key=c.key, fit=fits.get(c.key))
                for c in cases
            ),
        )


def _cells(space: Space, reader: _Reader) -> tuple[CellResult, ...]:
    groups: dict[tuple[str, ...], dict[str, TrainConfig]] = {}
    for config in space.cell_configurations().values():
        groups.setdefault(tuple(space.cell_of(config)), {})[config.digest()] = config
    titles = [space.reference if space.reference in names else names[0] for names in groups]
    draws = [
        tuple(
            reader.configuration(title + (f"{NUMBERED}{i + 1}" if i else ""), config)
            for i, config in enumerate(configs.values())
        )
        for title, configs in zip(titles, groups.values(), strict=True)
    ]
    return tuple(
        CellResult(
            name=title,
            names=names,
            chosen=best_draw(tried, reader.study.objective),
            draws=of_cell,
            tried=tried,
        )
        for title, names, of_cell, tried in zip(
            titles, groups, draws, equally_tuned(draws), strict=True
        )
    )
