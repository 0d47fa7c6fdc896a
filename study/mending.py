"""A study's trials made whole again from the ledger.

Trials have documents of their own, but the ledger tells them too: each fit's record has the number
of its trial, and the last one of a trial how that ended. So the folder of the trials may be lost.
"""

import dataclasses
from collections.abc import Iterable

from ffcad.config import ConfigError, TrainConfig
from study.config import StudyConfig
from study.inputs import Inputs, cases_of
from study.ledger import FitRecord, Ledger
from study.question import cell_cases, drawn_again, extended
from study.spaces import Space
from study.trials import RETIRED, Case, StudyFolder, TrialRecord, new_trial


def mended_trials(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    folder: StudyFolder,
    ledger: Ledger,
    write: bool = True,
    extending: bool = False,
) -> tuple[list[TrialRecord], list[str]]:
    """All trials of a study, those whose documents are broken or missing rebuilt from their fits.

    The ledger, which all studies on a storage share, is read only where something is missing:
    where a number is, or where nobody has counted the trials yet.

    Args:
        config, space, inputs: the study.
        folder: its documents.
        ledger: of its fits.
        write: whether what is mended is written down; only the holder of the study's lease may.
        extending: whether the trials do not follow the question yet, which nobody has noted.

    Returns:
        The trials by number, and what had to be mended, a line each.
    """
    document = folder.read_document() if folder.exists() else {}
    trials, unreadable = folder.read_trials()
    # Only somebody who may not write sees that.
    if extending or document.get("extending"):
        trials = extended(trials, config, space, inputs)
    there, lost = {record.number for record in trials}, set(document.get("lost", []))
    count = max([document.get("trials", 0), *(n + 1 for n in there | unreadable.keys())])
    uncounted = "trials" not in document
    unbegun = set(document.get("unbegun", []))
    if space.is_grid and not uncounted:
        # A trial is written before it is counted, and a kill may come in between.
        unbegun |= set(range(document["trials"], count))
    unbegun -= there | unreadable.keys()
    missing = set(range(count)) - there - lost - unbegun
    rebuilt, gone = [], []
    if missing or uncounted:
        told = _told_by_ledger(ledger, config.name)
        wanted = sorted(missing | (told.keys() - there - lost if uncounted else set()))
        rebuilder = Rebuilder(config, space, inputs, ledger, trials)
        for number in wanted:
            record = rebuilder.rebuilt(number, told.get(number, []), number < count)
            if record is not None:
                rebuilt.append(record)
            elif number not in unreadable:
                gone.append(number)
    trials = sorted([*trials, *rebuilt], key=lambda record: record.number)
    count = max([count, *(record.number + 1 for record in trials)])
    if write:
        for record in rebuilt:
            folder.write_trial(record)
        kept = {
            "trials": count,
            "unbegun": sorted(unbegun),
            "lost": sorted(lost | {n for n in gone if n < count}),
        }
        before = [document.get("trials"), document.get("unbegun", []), document.get("lost", [])]
        if document and before != list(kept.values()):
            folder.write_document({**document, **kept})
    # Of a grid that was interrupted, cells that nobody began have neither a document nor a fit.
    gone = [] if space.is_grid else [n for n in gone if n < count]
    return trials, _notes(rebuilt, gone, unreadable)


def _notes(rebuilt: list[TrialRecord], gone: list[int], unreadable: dict[int, str]) -> list[str]:
    numbers = {record.number for record in rebuilt}
    notes = [
        f"{why}; it was rebuilt from its fits"
        if number in numbers
        else f"{why}; it had no fit of its own yet and is left out"
        for number, why in unreadable.items()
    ]
    if missing := sorted(numbers - unreadable.keys()):
        notes.append(
            f"the documents of {_listed(missing)} were missing; rebuilt from the ledger's fits"
        )
    if gone:
        notes.append(
            f"the documents of {_listed(gone)} are missing, and the ledger has no fits of theirs; "
            "left out"
        )
    return notes


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 6:
        return f"{len(numbers)} trials"
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _told_by_ledger(ledger: Ledger, study: str) -> dict[int, list[FitRecord]]:
    """Of each trial of a study that the ledger knows, its fits; those first that are still its
    own, and not another study's that has gone on with them."""
    told: dict[int, list[FitRecord]] = {}
    fits = ledger.worked_at_by(study)
    for fit in fits:
        if fit.study == study:
            told.setdefault(fit.trial, []).append(fit)
    for fit in fits:
        for sitting in fit.sittings:
            number = sitting.get("trial")
            if sitting["study"] != study or number is None:
                continue
            if fit not in told.setdefault(number, []):
                told[number].append(fit)
    return told


class Rebuilder:
    """Makes trials from their fits.

    Args:
        config, space, inputs: the study.
        ledger: of its fits.
        trials: that are there.
    """

    def __init__(
        self,
        config: StudyConfig,
        space: Space,
        inputs: Inputs,
        ledger: Ledger,
        trials: Iterable[TrialRecord],
    ) -> None:
        self.config, self.space, self.inputs, self.ledger = config, space, inputs, ledger
        self._known = {self._identity(r) for r in trials if r.state != RETIRED}
        self._cells = {case.key for _, case in cell_cases(config, space, inputs)}

    def rebuilt(self, number: int, fits: list[FitRecord], numbered: bool) -> TrialRecord | None:
        """A trial as its fits tell it; None where there are none.

        Args:
            number: the trial's.
            fits: of it.
            numbered: whether the study certainly had that trial. Of one that it need not have had,
                because a study of this name was begun anew, only what the present question asks
                for counts.
        """
        for fit in fits:
            record = self._asked(number, fit)
            if record is not None and self._identity(record) not in self._known:
                self._known.add(self._identity(record))
                own = [f for f in fits if (f.study, f.trial) == (self.config.name, number)]
                return _as_it_ended(record, own, self.config.objective)
        if not fits or not numbered:
            return None
        first = fits[0]
        return TrialRecord(
            number=number,
            state=RETIRED,
            drawn={},
            configuration=first.configuration,
            digest=first.digest,
            cases=tuple(Case(f.category, f.seed, f.key) for f in fits),
            began=first.began,
        )

    def _asked(self, number: int, fit: FitRecord) -> TrialRecord | None:
        """The begun trial that a fit was done for; None if the present question has none such."""
        values, weights = fit.configuration, self.space.fixed.get("encoder_weights")
        if values["encoder_weights"] not in self.inputs.weights and weights is not None:
            values = {**values, "encoder_weights": weights}
        try:
            configuration = TrainConfig.from_dict(values)
            cases = cases_of(self.config, self.inputs, configuration)
        except (ConfigError, KeyError):  # KeyError: an image size or weights of another question
            return None
        if self.space.is_grid:
            cases = tuple(case for case in cases if case.key in self._cells)
            cases = tuple(case for case in cases if case.key == fit.key)
        if fit.key not in {case.key for case in cases}:
            return None
        drawn = self.space.parameters(configuration)
        record = new_trial(number, drawn, configuration, cases)
        if not self.space.is_grid:
            again = drawn_again(self.space, record)
            if again is None or again.digest() != record.digest:
                return None
        return dataclasses.replace(record, began=fit.began)

    def _identity(self, record: TrialRecord) -> str:
        """What no two trials of a question have in common."""
        return record.cases[0].key if self.space.is_grid else record.digest


def _as_it_ended(record: TrialRecord, fits: list[FitRecord], objective: str | None) -> TrialRecord:
    """The trial with the outcome that the driver wrote into one of its fits, if it did."""
    told = [fit.trial_outcome for fit in fits if fit.trial_outcome]
    if not told:
        return record
    last = dict(max(told, key=lambda outcome: outcome["ended"]))
    # A study that was extended since, by cases or to another objective, goes through it again.
    asked = {"objective": objective, "cases": [case.key for case in record.cases]}
    if asked != {name: last.pop(name, None) for name in asked}:
        return record
    return dataclasses.replace(record, **last)
