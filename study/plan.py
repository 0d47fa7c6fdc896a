"""What a study still has to do, from what is on its storage; before Ray starts."""

import dataclasses
import warnings
from dataclasses import dataclass

from optuna.trial import FixedTrial

from ffcad.config import ConfigError, TrainConfig
from study.config import StudyConfig
from study.inputs import Inputs, cases_of
from study.ledger import BEGUN, FAILED, FINISHED, STOPPED, FitRecord, Ledger
from study.spaces import Space
from study.trials import RETIRED, Case, StudyFolder, TrialRecord, new_trial


@dataclass(frozen=True)
class Plan:
    """A study's trials by what is left of them.

    Attributes:
        trials: of earlier sittings, and all of a grid, by number; those that a question before this
            one had are among them.
        wanted: distinct configurations asked for; None for a grid, whose trials are all there.
        notes: what had to be mended, a line each.
    """

    trials: list[TrialRecord]
    wanted: int | None
    notes: tuple[str, ...] = ()

    @property
    def current(self) -> list[TrialRecord]:
        """The trials of the present question."""
        return [record for record in self.trials if record.state != RETIRED]

    @property
    def begun(self) -> int:
        """Trials that are not decided."""
        return sum(not record.decided for record in self.trials)

    @property
    def new(self) -> int:
        """Configurations still to be drawn."""
        return max(0, (self.wanted or 0) - len(self.current))

    @property
    def left(self) -> int:
        """Trials for Tune."""
        return self.begun + self.new

    @property
    def total(self) -> int:
        """Trials when all is done."""
        return len(self.current) + self.new

    def describe(self, config: StudyConfig) -> str:
        """One line, for the console."""
        parts = [
            f"{sum(record.state == state for record in self.trials)} {state}"
            for state in (FINISHED, STOPPED, FAILED, RETIRED)
            if any(record.state == state for record in self.trials)
        ]
        cases = f"{len(config.cases)} case{'s' * (len(config.cases) != 1)}"
        if self.wanted is None:
            cells = len({record.digest for record in self.current})
            parts += [f"{self.begun} to do"]
            return f"{cells} cells x {cases} = {self.total} fits: {', '.join(parts)}"
        parts += [f"{self.begun} begun"] * (self.begun > 0) + [f"{self.new} new"]
        return f"{self.total} configurations x {cases}: {', '.join(parts)}"


def make_plan(
    config: StudyConfig, space: Space, inputs: Inputs, folder: StudyFolder, ledger: Ledger
) -> Plan:
    """Reads what is done, mends what can be mended, and adds a grid's trials.

    A trial whose document cannot be read is rebuilt from its fits. A finished one that has a fit
    without a sound record is gone on with, which finishes it from the fit's checkpoint.

    Args:
        config: the study.
        space: its search space.
        inputs: digests of what goes into its fits.
        folder: its documents.
        ledger: of its fits.
    """
    trials, unreadable = folder.read_trials()
    notes = [
        f"{why}; {what}"
        for why, what in _rebuild(config, space, inputs, ledger, trials, unreadable)
    ]
    trials = [_with_weights_here(record.tried_again(), space, inputs) for record in trials]
    for i, record in enumerate(trials):
        if record.state == FINISHED:
            fits, wrong = ledger.read_all([case.key for case in record.cases])
            if wrong or sum(fit.status == FINISHED for fit in fits) < len(record.cases):
                why = wrong[0] if wrong else "a fit's record is missing"
                notes.append(f"{why}; trial {record.number} is gone on with")
                trials[i] = reopened(record, record.cases)
    if space.is_grid:
        trials += _missing_cells(config, space, inputs, trials)
    trials.sort(key=lambda record: record.number)
    return Plan(trials, None if space.is_grid else config.num_trials, tuple(notes))


def _with_weights_here(record: TrialRecord, space: Space, inputs: Inputs) -> TrialRecord:
    """The trial with the file of the encoder's weights where it is now, if it has moved."""
    weights = space.fixed.get("encoder_weights")
    if record.state == RETIRED or weights is None:
        return record
    if record.configuration["encoder_weights"] in inputs.weights:
        return record
    configuration = TrainConfig.from_dict({**record.configuration, "encoder_weights": weights})
    return dataclasses.replace(
        record, configuration=configuration.to_dict(), digest=configuration.digest()
    )


def reopened(record: TrialRecord, cases: tuple[Case, ...]) -> TrialRecord:
    """A trial that is to be gone through again; its finished fits are taken as they are."""
    return dataclasses.replace(
        record, state=BEGUN, cases=cases, intermediate={}, value=None, error=None, ended=None
    )


def extended(
    trials: list[TrialRecord], config: StudyConfig, space: Space, inputs: Inputs
) -> list[TrialRecord]:
    """The trials of a study as its changed question sees them.

    Those that are points of the new space are gone through again with the new cases, which costs
    nothing where their fits are finished; the others are retired.
    """
    if space.is_grid:
        cells = {case.key: config for config, case in _cell_cases(config, space, inputs)}
        return [_extended_cell(record, space, cells) for record in trials]
    seen, result = set(), []
    for record in trials:
        configuration = _drawn_again(space, record)
        if configuration is None or configuration.digest() in seen:
            result.append(dataclasses.replace(record, state=RETIRED))
            continue
        seen.add(configuration.digest())
        cases = cases_of(config, inputs, configuration)
        same = reopened(record, cases)
        result.append(
            dataclasses.replace(
                same,
                configuration=configuration.to_dict(),
                digest=configuration.digest(),
                budget=configuration.iterations * len(cases),
            )
        )
    return result


def _extended_cell(record: TrialRecord, space: Space, cells: dict[str, TrainConfig]) -> TrialRecord:
    """A grid's trial in the changed grid, whose fits' keys and configurations are given."""
    (case,) = record.cases[:1]
    if len(record.cases) > 1 or case.key not in cells:
        return dataclasses.replace(record, state=RETIRED)
    configuration = cells[case.key]
    return dataclasses.replace(
        reopened(record, record.cases),
        drawn=space.parameters(configuration),
        configuration=configuration.to_dict(),
        digest=configuration.digest(),
    )


def _drawn_again(space: Space, record: TrialRecord) -> TrainConfig | None:
    """The configuration of a trial in another space; None if that cannot draw it."""
    try:
        with warnings.catch_warnings():
            # Of a value that is out of range Optuna only warns.
            warnings.simplefilter("error", UserWarning)
            configuration = space.draw(FixedTrial(record.drawn))
    except (ConfigError, UserWarning, ValueError):  # ValueError: a knob that was not drawn
        return None
    return configuration if space.parameters(configuration) == record.drawn else None


def _rebuild(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    ledger: Ledger,
    trials: list[TrialRecord],
    unreadable: dict[int, str],
) -> list[tuple[str, str]]:
    """Adds the trials whose documents cannot be read, as far as their fits tell them."""
    if not unreadable:
        return []
    fits, _ = ledger.read_all(ledger.keys())
    told = []
    for number, why in unreadable.items():
        fit = next((f for f in fits if f.study == config.name and f.trial == number), None)
        if fit is None:
            told.append((why, "it had no fit of its own yet and is left out"))
            continue
        trials.append(_trial_of(config, space, inputs, fit))
        told.append((why, "it was rebuilt from its fits"))
    return told


def _trial_of(config: StudyConfig, space: Space, inputs: Inputs, fit: FitRecord) -> TrialRecord:
    """The trial that a fit was done for, begun again."""
    values, weights = fit.configuration, space.fixed.get("encoder_weights")
    if values["encoder_weights"] not in inputs.weights and weights is not None:
        values = {**values, "encoder_weights": weights}
    configuration = TrainConfig.from_dict(values)
    cases = cases_of(config, inputs, configuration)
    if space.is_grid:
        cases = tuple(case for case in cases if case.key == fit.key)
    return new_trial(fit.trial, space.parameters(configuration), configuration, cases)


def _missing_cells(
    config: StudyConfig, space: Space, inputs: Inputs, trials: list[TrialRecord]
) -> list[TrialRecord]:
    """A grid's trials that are not there yet: one for each cell on each case."""
    known = {case.key for r in trials if r.state != RETIRED for case in r.cases}
    number = max((record.number for record in trials), default=-1)
    missing = []
    for configuration, case in _cell_cases(config, space, inputs):
        if case.key not in known:
            number += 1
            drawn = space.parameters(configuration)
            missing.append(new_trial(number, drawn, configuration, (case,)))
    return missing


def _cell_cases(
    config: StudyConfig, space: Space, inputs: Inputs
) -> list[tuple[TrainConfig, Case]]:
    """A grid's fits in their order: one case after the other, all cells of each, so that whatever
    is done first can be compared."""
    cells = [(c, cases_of(config, inputs, c)) for _, c in space.distinct_cells()]
    return [(c, cases[i]) for i in range(len(config.cases)) for c, cases in cells]
