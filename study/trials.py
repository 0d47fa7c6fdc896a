"""A study's own documents: its question, and its trials. With the ledger they are all of its state.

<storage>/studies/<name>/study.json            the StudyConfig and the digests of its inputs
<storage>/studies/<name>/trials/0007.json      one trial: its configuration, cases, outcome
<storage>/studies/<name>/optuna.journal        copy of the driver's Optuna study, to look at
<storage>/studies/<name>/driver/lease-....json held by the driver that runs it
<storage>/studies/<name>/driver.log            what Ray, Optuna and MLflow said
<storage>/ledger/study-<name>.json             the study's id, which its runs in MLflow are found by

Beside a trial's first fit the ledger has a copy of the trial, so that it alone tells the study.
"""

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from ffcad.config import TrainConfig
from study.ledger import BEGUN, Documents, Ledger, LedgerError, read_document, write_document
from study.storage import Storage

# A trial of an earlier question, left behind when the study was extended to another one.
RETIRED = "retired"
# What a study's document says of how its trials are kept, and not of what it asks or found.
BOOKKEEPING = ("trials", "unbegun", "lost", "extending")


@dataclass(frozen=True)
class Case:
    """A (category, seed) of a trial, and the key of the fit there."""

    category: str
    seed: int
    key: str


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One configuration of a study, with the cases it is fitted on.

    Attributes:
        number: 0, 1, ... in the order in which configurations were suggested.
        state: begun, finished, stopped, failed, or retired when the study was extended to another
            question.
        drawn: searched knob -> value, the inactive ones left out.
        configuration: every knob.
        digest: the configuration's.
        cases: in the order in which they are walked.
        intermediate: rung -> objective there.
        value: the objective over all cases, of a finished trial.
        budget, spent: iterations of all its cases' fits, and those of them that this study did.
        error: why it failed, one line.
        machine_failed: whether its workers failed, not its configuration: the next sitting tries
            again.
        gpus: the share of a GPU that it has since it ran out of memory; None with the study's own.
        began, ended: epoch, seconds.
    """

    number: int
    state: str
    drawn: dict[str, Any]
    configuration: dict[str, Any]
    digest: str
    cases: tuple[Case, ...]
    intermediate: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    budget: int = 0
    spent: int = 0
    error: str | None = None
    machine_failed: bool = False
    gpus: float | None = None
    began: float = field(default_factory=time.time)
    ended: float | None = None

    def __post_init__(self) -> None:
        # JSON has neither tuples nor integers as keys.
        cases = tuple(c if isinstance(c, Case) else Case(**c) for c in self.cases)
        object.__setattr__(self, "cases", cases)
        intermediate = {int(rung): value for rung, value in self.intermediate.items()}
        object.__setattr__(self, "intermediate", intermediate)

    def tried_again(self) -> "TrialRecord":
        """The trial as a new sitting takes it up: begun again where the machine failed it."""
        if not self.machine_failed or self.state == RETIRED:
            return self
        return dataclasses.replace(self, state=BEGUN, error=None, machine_failed=False, ended=None)

    @property
    def decided(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state != BEGUN


@dataclass(frozen=True, kw_only=True)
class TrialCopy:
    """A trial as the ledger has it.

    Attributes:
        trial: the record.
        objective: whose values it has.
        written: epoch, seconds.
    """

    trial: TrialRecord
    objective: str | None
    written: float

    def __post_init__(self) -> None:
        if not isinstance(self.trial, TrialRecord):  # As JSON has it.
            object.__setattr__(self, "trial", TrialRecord(**self.trial))


class StudyFolder:
    """A study's documents on its storage.

    Args:
        storage: holds all studies.
        name: the study's.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.path = f"studies/{name}"
        self.driver = f"{self.path}/driver"
        self.journal = f"{self.path}/optuna.journal"
        self.log = f"{self.path}/driver.log"
        self._ledger, self._copy = Ledger(storage), f"trial-{name}.json"
        self._identity = f"{Ledger.root}/study-{name}.json"
        self._documents = Documents(storage)
        self._counted: set[int] = set()

    def exists(self) -> bool:
        """Whether the study was ever started."""
        return self.storage.version(f"{self.path}/study.json") is not None

    def read_document(self) -> dict[str, Any]:
        """The study's document.

        'study' is the StudyConfig and 'inputs' the Inputs, as dictionaries; 'id' tells it from a
        study of the same name on another storage; 'trials' the number of
        trials, 'unbegun' the numbers below it of a grid's that no sitting has begun, 'lost' those
        of trials that cannot be rebuilt; 'extended' when and how the
        question was changed, 'extending' while not all trials follow that yet, 'former_seeds' those
        of all questions so far but the last; 'exhausted' is there when the search space held no
        further configuration; 'plan' is what the study was thought to cost
        (`study.costs.Estimate`), where that was known.

        Raises:
            LedgerError: if it is unreadable.
        """
        name = f"{self.path}/study.json"
        try:
            document = read_document(self.storage, name, dict)
            if lacking := [k for k in ("study", "inputs") if not isinstance(document.get(k), dict)]:
                where = self.storage.uri(name)
                raise LedgerError(f"{where} cannot be read: it has no {lacking[0]!r}")
            return document
        except LedgerError as e:
            raise LedgerError(
                f"{e}; remove it and give the study's own command, with all its flags and --study "
                f"{self.name}"
            ) from e

    def study_id(self) -> str | None:
        """The id of the study of this name, whose document may be lost; None where the ledger does
        not have it."""
        with contextlib.suppress(FileNotFoundError, LedgerError):
            return read_document(self.storage, self._identity, dict).get("id")
        return None

    def keep_study_id(self, study_id: str) -> None:
        """Keeps the study's id in the ledger, which outlives the study's own documents."""
        write_document(self.storage, self._identity, {"id": study_id})

    def write_document(self, document: dict[str, Any]) -> None:
        """Replaces the study's document."""
        write_document(self.storage, f"{self.path}/study.json", document)

    def trials(self) -> list[TrialRecord]:
        """The trials that can be read, by number."""
        return self.read_trials()[0]

    def read_trials(self) -> tuple[list[TrialRecord], dict[int, str]]:
        """All trials by number, and of those that cannot be read number -> why."""
        records, unreadable = [], {}
        for name, version in self.storage.files(f"{self.path}/trials").items():
            number = name.rpartition("/")[2].removesuffix(".json")
            if not number.isdecimal():
                continue
            try:
                records.append(self._documents.read(name, TrialRecord, version))
            except LedgerError as e:
                unreadable[int(number)] = str(e)
        found = sorted((r for r in records if r is not None), key=lambda record: record.number)
        return found, unreadable

    def write_trial(self, record: TrialRecord, objective: str | None = None) -> None:
        """Replaces a trial's document, and its copy in the ledger before that.

        Args:
            record: the trial's.
            objective: whose values it has; None where it has none yet.
        """
        copy = TrialCopy(trial=record, objective=objective, written=time.time())
        place = f"{self._ledger.folder(record.cases[0].key)}/{self._copy}"
        # One that is not decided holds nothing that its fits do not.
        write_document(self.storage, place, dataclasses.asdict(copy), durable=record.decided)
        name = f"{self.path}/trials/{record.number:04d}.json"
        write_document(self.storage, name, dataclasses.asdict(record))

    def copies(self) -> dict[int, TrialCopy]:
        """The study's trials as the ledger has them, by number: looks beside every fit."""
        copies = self._ledger.documents(self._copy, TrialCopy)
        # A trial whose cases have changed may have left an older one beside another fit.
        return {copy.trial.number: copy for copy in sorted(copies, key=lambda c: c.written)}

    def counted(self) -> int:
        """How many trials the study ever had, those that are lost among them."""
        return self.read_document().get("trials", 0) if self.exists() else 0

    def unbegun(self) -> set[int]:
        """The numbers below `counted` of a grid's trials that no sitting has begun."""
        return set(self.read_document().get("unbegun", [])) if self.exists() else set()

    def count_trial(self, number: int) -> None:
        """Keeps in the study's document that there is a trial of this number, so that one whose
        own document is lost is missed. A grid's are not begun in the order of their numbers: those
        that are passed over are kept too, and nobody misses them."""
        if number in self._counted or not self.exists():
            return
        try:
            document = self.read_document()
        except LedgerError:
            return  # The next sitting says so, and what to do.
        self._counted.add(number)
        count = document.get("trials", 0)
        unbegun = set(document.get("unbegun", [])) | set(range(count, number))
        if number >= count or number in unbegun:
            kept = {"trials": max(count, number + 1), "unbegun": sorted(unbegun - {number})}
            self.write_document({**document, **kept})


def new_trial(
    number: int, drawn: dict[str, Any], config: TrainConfig, cases: tuple[Case, ...]
) -> TrialRecord:
    """The record of a trial that begins."""
    return TrialRecord(
        number=number,
        state=BEGUN,
        drawn=drawn,
        configuration=config.to_dict(),
        digest=config.digest(),
        cases=cases,
        budget=config.iterations * len(cases),
    )


def reopened(record: TrialRecord, cases: tuple[Case, ...]) -> TrialRecord:
    """A trial that is to be gone through again; its finished fits are taken as they are."""
    blank = {"intermediate": {}, "value": None, "error": None, "ended": None}
    return dataclasses.replace(record, state=BEGUN, cases=cases, machine_failed=False, **blank)


def study_names(storage: Storage) -> list[str]:
    """The studies on a storage."""
    return [name for name in storage.folders("studies") if StudyFolder(storage, name).exists()]


def existing_study(storage: Storage, name: str) -> StudyFolder:
    """The folder of a study that was started.

    Raises:
        LedgerError: if it never was, with the names of those that were.
    """
    folder = StudyFolder(storage, name)
    if not folder.exists():
        names = study_names(storage)
        known = f"there are {', '.join(names)}" if names else "there is none yet"
        raise LedgerError(f"no study {name!r} in {storage.where}; {known}")
    return folder
