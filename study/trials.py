"""A study's own documents: its question, and its trials. With the ledger they are all of its state.

<storage>/studies/<name>/study.json        the StudyConfig and the digests of its inputs
<storage>/studies/<name>/trials/0007.json  one trial: its configuration, cases, outcome
<storage>/studies/<name>/driver.lock       held by the driver that runs it
<storage>/studies/<name>/driver.log        what Ray, Optuna and MLflow said
"""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.ledger import BEGUN, Documents, LedgerError, read_document, write_json


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
        state: begun, finished, stopped or failed.
        drawn: searched knob -> value, the inactive ones left out.
        configuration: every knob.
        digest: the configuration's.
        cases: in the order in which they are walked.
        intermediate: rung -> objective there.
        value: the objective over all cases, of a finished trial.
        error: why it failed, one line.
        machine_failed: whether its workers failed, not its configuration: the next sitting tries
            again.
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
    error: str | None = None
    machine_failed: bool = False
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
        if not self.machine_failed:
            return self
        return dataclasses.replace(self, state=BEGUN, error=None, machine_failed=False, ended=None)

    @property
    def decided(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state != BEGUN


class StudyFolder:
    """A study's documents on its storage.

    Args:
        storage: the folder that holds all studies.
        name: the study's.
    """

    def __init__(self, storage: Path, name: str) -> None:
        self.path = Path(storage) / "studies" / name
        self.lock = self.path / "driver.lock"
        self.log = self.path / "driver.log"
        self._documents = Documents()

    def exists(self) -> bool:
        """Whether the study was ever started."""
        return (self.path / "study.json").is_file()

    def read_document(self) -> dict[str, Any]:
        """The study's document: {'study': StudyConfig as a dict, 'inputs': Inputs as a dict}.

        Raises:
            LedgerError: if it is unreadable.
        """
        return read_document(self.path / "study.json", dict)

    def write_document(self, document: dict[str, Any]) -> None:
        """Replaces the study's document."""
        write_json(self.path / "study.json", document)

    def trials(self) -> list[TrialRecord]:
        """All trials by number.

        Raises:
            LedgerError: if one is unreadable.
        """
        paths = (self.path / "trials").glob("[0-9]*.json")
        records = [self._documents.read(path, TrialRecord) for path in paths]
        return sorted(records, key=lambda record: record.number)

    def write_trial(self, record: TrialRecord) -> None:
        """Replaces a trial's document."""
        path = self.path / "trials" / f"{record.number:04d}.json"
        write_json(path, dataclasses.asdict(record))


def study_names(storage: Path) -> list[str]:
    """The studies on a storage."""
    return sorted(p.parent.name for p in (Path(storage) / "studies").glob("*/study.json"))


def existing_study(storage: Path, name: str) -> StudyFolder:
    """The folder of a study that was started.

    Raises:
        LedgerError: if it never was, with the names of those that were.
    """
    folder = StudyFolder(storage, name)
    if not folder.exists():
        names = study_names(storage)
        known = f"there are {', '.join(names)}" if names else "there is none yet"
        raise LedgerError(f"no study {name!r} in {storage}; {known}")
    return folder
