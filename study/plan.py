"""What a study still has to do, from what is on its storage; before Ray starts."""

import dataclasses
from dataclasses import dataclass

from ffcad.config import TrainConfig
from study.config import StudyConfig
from study.encoders import NOT_MADE, EncoderStore, finished_keys
from study.inputs import Inputs
from study.ledger import FAILED, FINISHED, STOPPED, Ledger
from study.mending import mended_trials
from study.question import cell_cases
from study.spaces import Space
from study.trials import RETIRED, StudyFolder, TrialRecord, new_trial, reopened


@dataclass(frozen=True)
class Plan:
    """A study's trials by what is left of them.

    Attributes:
        trials: of earlier sittings, and all of a grid, by number; those that a question before this
            one had are among them.
        wanted: distinct configurations asked for; None for a grid, whose trials are all there.
        notes: what had to be mended, a line each.
        counted: trials that the study ever had, those that are lost among them.
    """

    trials: list[TrialRecord]
    wanted: int | None
    notes: tuple[str, ...] = ()
    counted: int = 0

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
            named = f"{len({record.digest for record in self.current})} "
            named += f"configurations of {len(config.cells)} cells" if config.nuisance else "cells"
            parts += [f"{self.begun} to do"]
            return f"{named} x {cases} = {self.total} fits: {', '.join(parts)}"
        parts += [f"{self.begun} begun"] * (self.begun > 0) + [f"{self.new} new"]
        return f"{self.total} configurations x {cases}: {', '.join(parts)}"


def make_plan(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    folder: StudyFolder,
    ledger: Ledger,
    *,
    write: bool = True,
    extending: bool = False,
) -> Plan:
    """Reads what is done, mends what can be mended, and adds a grid's trials.

    A trial whose document is missing or cannot be read is rebuilt from its copy in the ledger. A
    finished one that has a fit without a sound record is gone on with, which finishes it from the
    fit's checkpoint.

    Args:
        config: the study.
        space: its search space.
        inputs: digests of what goes into its fits.
        folder: its documents.
        ledger: of its fits.
        write: whether what is mended is written down.
        extending: whether the trials do not follow the question yet.
    """
    trials, notes = mended_trials(config, space, inputs, folder, write=write, extending=extending)
    counted = folder.counted()
    trials = [_with_weights_here(record.tried_again(), space, inputs) for record in trials]
    trials = [_with_encoder_now(record, inputs, EncoderStore(ledger.storage)) for record in trials]
    for i, record in enumerate(trials):
        if record.state == FINISHED:
            fits, wrong = ledger.read_all([case.key for case in record.cases])
            if wrong or sum(fit.status == FINISHED for fit in fits) < len(record.cases):
                why = wrong[0] if wrong else "a fit's record is missing"
                notes.append(f"{why}; trial {record.number} is gone on with")
                trials[i] = reopened(record, record.cases)
    if space.is_grid:
        trials += _missing_cells(config, space, inputs, trials, counted)
    trials.sort(key=lambda record: record.number)
    return Plan(trials, None if space.is_grid else config.num_trials, tuple(notes), counted)


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


def _with_encoder_now(record: TrialRecord, inputs: Inputs, store: EncoderStore) -> TrialRecord:
    """The trial, to be gone through again if it failed for an encoder that there is by now."""
    if record.state != FAILED or NOT_MADE not in (record.error or ""):
        return record
    need = inputs.encoder_need(TrainConfig.from_dict(record.configuration))
    if need is None or not finished_keys(store, [need.key]):
        return record
    return reopened(record, record.cases)


def _missing_cells(
    config: StudyConfig, space: Space, inputs: Inputs, trials: list[TrialRecord], counted: int
) -> list[TrialRecord]:
    """A grid's trials that are not there yet: one for each cell on each case."""
    known = {case.key for r in trials if r.state != RETIRED for case in r.cases}
    number = max([counted - 1, *(record.number for record in trials)])
    missing = []
    for configuration, case in cell_cases(config, space, inputs):
        if case.key not in known:
            number += 1
            drawn = space.parameters(configuration)
            missing.append(new_trial(number, drawn, configuration, (case,)))
    return missing
