"""A study's trials made whole again from the ledger.

Trials have documents of their own, but the ledger has a copy of each. So the folder of the trials
may be lost.
"""

import dataclasses

from study.config import StudyConfig
from study.inputs import Inputs
from study.question import extended
from study.spaces import Space
from study.trials import RETIRED, StudyFolder, TrialCopy, TrialRecord


def mended_trials(
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    folder: StudyFolder,
    write: bool = True,
    extending: bool = False,
) -> tuple[list[TrialRecord], list[str]]:
    """All trials of a study, those whose documents are broken or missing rebuilt from their copies.

    The ledger, which all studies on a storage share, is read only where something is missing:
    where a number is, or where nobody has counted the trials yet.

    Args:
        config, space, inputs: the study.
        folder: its documents.
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
    missing = set(range(count)) - there - lost
    uncounted = "trials" not in document
    rebuilt: list[TrialRecord] = []
    if missing or uncounted:
        copies = folder.copies()
        wanted = missing | (copies.keys() - there - lost if uncounted else set())
        found = [copies[number] for number in sorted(wanted & copies.keys())]
        rebuilt = _rebuilt(found, trials, config, space, inputs)
        # Of a number that the study need not have had, because a study of this name was begun anew,
        # only what the present question asks for counts.
        rebuilt = [
            record
            for record in rebuilt
            if record.number < count
            or (record.state != RETIRED and {*record.cases} & {*copies[record.number].trial.cases})
        ]
    gone = sorted(missing - unreadable.keys() - {record.number for record in rebuilt})
    trials = sorted([*trials, *rebuilt], key=lambda record: record.number)
    count = max([count, *(record.number + 1 for record in trials)])
    if write:
        for record in rebuilt:
            folder.write_trial(record, config.objective)
        if document and (gone or document.get("trials") != count):
            kept = {"trials": count, "lost": sorted(lost | set(gone))}
            folder.write_document({**document, **kept})
    # Of a grid that was interrupted, cells that nobody began have no document at all.
    return trials, _notes(rebuilt, [] if space.is_grid else gone, unreadable)


def _notes(rebuilt: list[TrialRecord], gone: list[int], unreadable: dict[int, str]) -> list[str]:
    numbers = {record.number for record in rebuilt}
    notes = [
        f"{why}; it was rebuilt from the ledger"
        if number in numbers
        else f"{why}; the ledger has no copy of it, and it is left out"
        for number, why in unreadable.items()
    ]
    if missing := sorted(numbers - unreadable.keys()):
        notes.append(f"the documents of {_listed(missing)} were missing; rebuilt from the ledger")
    if gone:
        notes.append(f"the documents of {_listed(gone)} are missing, in the ledger too; left out")
    return notes


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 6:
        return f"{len(numbers)} trials"
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _rebuilt(
    copies: list[TrialCopy],
    trials: list[TrialRecord],
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
) -> list[TrialRecord]:
    """The trials that copies are of, as the present question sees them.

    Args:
        copies: by number.
        trials: that are there.
        config, space, inputs: the study.
    """

    def identity(record: TrialRecord) -> str:
        """What no two trials of a question have in common."""
        return record.cases[0].key if space.is_grid else str(sorted(record.drawn.items()))

    known = {identity(record) for record in trials if record.state != RETIRED}
    result = []
    asked = extended([copy.trial for copy in copies], config, space, inputs)
    for copy, record in zip(copies, asked, strict=True):
        unchanged = (record.cases, config.objective) == (copy.trial.cases, copy.objective)
        if record.state != RETIRED and identity(record) in known:
            record = dataclasses.replace(record, state=RETIRED)
        elif record.state != RETIRED and unchanged:
            record = copy.trial
        result.append(record)
    return result
