"""What has been done: one record per fit, on the study's storage; the truth of every study.

    <storage>/ledger/<fit key>/record.json         written by the worker before it reports to Ray
    <storage>/ledger/<fit key>/checkpoint.pt       at every evaluation; the one before it stays as
                                                   checkpoint.previous.pt until the fit is finished
    <storage>/ledger/<fit key>/best_checkpoint.pt  with `--log-checkpoints best`
    <storage>/ledger/<fit key>/worst.png           pictures and curves of the report split
    <storage>/ledger/<fit key>/lease-000001.json   while a worker is at it (`study.leases`)
    <storage>/ledger/<fit key>/trial-<study>.json  the trial of a study whose first fit it is
                                                   (`study.trials`)
    <storage>/ledger/<fit key>/left-<study>.json   the record as a study left it, where another one
                                                   has gone on with the fit
    <storage>/ledger/study-<name>.json             a study's id (`study.trials`)

Ray, Optuna and MLflow can be rebuilt from this and from the trials of the study (`study.trials`).
The ledger is shared by all studies on a storage: a fit is never done twice.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from study.storage import Storage

# A fit's life: begun -> finished | stopped (by the trial scheduler) | failed.
BEGUN, FINISHED, STOPPED, FAILED = "begun", "finished", "stopped", "failed"

PICTURES = ("worst.png", "best.png", "curves.png", "curves.csv")
RECORD, CHECKPOINT, BEST_CHECKPOINT = "record.json", "checkpoint.pt", "best_checkpoint.pt"

# A temporary file that is older than this has no living writer.
TEMPORARY_SECONDS = 600.0
# Records that are read at once from an object store.
READERS = 16

Document = TypeVar("Document")


class LedgerError(ValueError):
    """A document that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """One fit: a configuration trained and evaluated on one case.

    Attributes:
        key: `study.inputs.Inputs.fit_key`.
        status: begun, finished, stopped or failed.
        study: the study that did it.
        trial: the number of its trial there.
        configuration: every knob, as `TrainConfig.to_dict` gives them.
        digest: the configuration's.
        category, seed: the case.
        select_on: the protocol that the metrics were taken with.
        inputs: digests of data, textures, weights; the method's version; images per split.
        metrics: of the last evaluation; a finished fit has 'report_...' ones too.
        report_types: of a finished fit, the report split's metrics for each type of defect against
            the normal images; see `ffcad.type_metrics`.
        history: all evaluations: iteration, stage, loss, metrics, and 'time' (epoch, seconds).
        iteration, iterations: done, and in the whole training.
        best_iteration: the evaluation whose checkpoint was kept as the best one.
        seconds: spent training and evaluating, all sittings together.
        writing_seconds: spent writing records and checkpoints to the storage.
        peak_memory_mb: of the GPU where there is one, else of the process; 10**6 bytes.
        system: samples of the worker's machine: 'time' (epoch, seconds) and figures under the
            names that MLflow's own sampler uses, without 'system/'.
        sittings: each time a worker took the fit up: 'began' (epoch), 'iteration' it stood at,
            'host', 'gpu', 'gpus' (the share of it), 'git_sha', 'git_dirty', 'study', 'trial'.
        notes: what the user should know, a line each.
        environment: git revision, versions, machine.
        error: why it failed, one line.
        began, ended: epoch, seconds.
    """

    key: str
    status: str
    study: str
    trial: int
    configuration: dict[str, Any]
    digest: str
    category: str
    seed: int
    select_on: str
    inputs: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    report_types: dict[str, dict[str, float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    iteration: int = 0
    iterations: int = 0
    best_iteration: int | None = None
    seconds: float = 0.0
    writing_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    system: list[dict[str, float]] = field(default_factory=list)
    sittings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    began: float = 0.0
    ended: float | None = None

    @property
    def work_seconds(self) -> float:
        """Spent training, evaluating and writing; waiting for a free worker is not among it."""
        return self.seconds + self.writing_seconds

    @property
    def gpu_seconds(self) -> float:
        """Of that on a GPU, times its share of one in its last sitting; a whole one where an older
        version noted none."""
        if not self.environment.get("gpu"):
            return 0.0
        noted = [sitting["gpus"] for sitting in self.sittings[-1:] if sitting.get("gpus")]
        return self.work_seconds * (noted[0] if noted else 1.0)

    def spent_by(self, study: str) -> int:
        """The iterations that a study's sittings did; a fit may be begun by one and finished by
        another. What a kill lost is not counted, nor is what nobody took up."""
        ends = [*(sitting["iteration"] for sitting in self.sittings[1:]), self.iteration]
        return sum(
            max(0, end - sitting["iteration"])
            for sitting, end in zip(self.sittings, ends, strict=False)
            if sitting["study"] == study
        )

    def was_worked_at_by(self, study: str) -> bool:
        """Whether a study ever took it up."""
        return any(sitting["study"] == study for sitting in self.sittings)

    @property
    def random_encoder(self) -> bool:
        """Whether the frozen encoder had random weights, which says little about the method."""
        return self.configuration["encoder_weights"] == "random"


def last_seen(record: FitRecord) -> float:
    """When work ended, or when a killed one last gave a sign of life; epoch, seconds."""
    return record.ended or (record.history[-1]["time"] if record.history else record.began)


class Records(Generic[Document]):
    """What workers do, each by its key, with a folder for its record and its files.

    Args:
        storage: what the driver and every worker see.
    """

    root: str
    file: str
    kind: type[Document]

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._documents = Documents(storage)

    def folder(self, key: str) -> str:
        """Where its files are."""
        return f"{self.root}/{key}"

    def read(self, key: str) -> Document | None:
        """A record; None where it was never begun.

        Raises:
            LedgerError: if the record is unreadable.
        """
        return self._documents.read(f"{self.folder(key)}/{self.file}", self.kind)

    def read_all(self, keys: list[str]) -> tuple[list[Document], list[str]]:
        """The records that are there and can be read, and a line for each that cannot."""
        records, wrong = [], []
        for key in keys:
            try:
                records.append(self.read(key))
            except LedgerError as e:
                wrong.append(str(e))
        return [r for r in records if r is not None], wrong

    def keys(self) -> list[str]:
        """The keys of all that were ever begun."""
        return self.storage.folders(self.root)

    def write(self, record: Document) -> None:
        """Replaces a record; a reader sees the old one or the new one, whole.

        One of what is worked at does not wait for the disk: after a power cut the checkpoint, which
        does, has all that it said.
        """
        name = f"{self.folder(record.key)}/{self.file}"
        # Not `dataclasses.asdict`, whose copy of a long history takes longer than writing it.
        write_document(self.storage, name, vars(record), durable=record.status != BEGUN)

    @contextlib.contextmanager
    def working_folder(self, key: str) -> Iterator[Path]:
        """A local folder for the files of what is worked at.

        On a local storage it is its own; else a temporary one that begins with the
        checkpoints that the storage has, and whose files are kept by `keep`.
        """
        if self.storage.local:
            folder = self.storage.local / self.folder(key)
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(".*.tmp"):  # of writers that were killed
                if time.time() - path.stat().st_mtime > TEMPORARY_SECONDS:
                    path.unlink(missing_ok=True)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix=f"ffcad-{key}-") as temporary:
            from ffcad.checkpoint import previous_checkpoint  # Brings torch, so late.

            folder = Path(temporary)
            for path in (folder / CHECKPOINT, previous_checkpoint(folder / CHECKPOINT)):
                with contextlib.suppress(FileNotFoundError):
                    self.storage.download(f"{self.folder(key)}/{path.name}", path)
            yield folder

    def keep(self, key: str, path: Path) -> None:
        """Puts a file of the working folder onto the storage, if it is not there already.

        A checkpoint that the storage has becomes the previous one, until the work is finished.
        """
        if self.storage.local:
            return
        from ffcad.checkpoint import previous_checkpoint

        name = f"{self.folder(key)}/{path.name}"
        previous = previous_checkpoint(path)
        if path.name == CHECKPOINT and previous.is_file():
            with contextlib.suppress(FileNotFoundError):
                self.storage.copy(name, f"{self.folder(key)}/{previous.name}")
        self.storage.upload(path, name)
        if path.name == CHECKPOINT and not previous.is_file():
            self.storage.delete(f"{self.folder(key)}/{previous.name}")

    def restore_previous(self, key: str) -> None:
        """Puts the checkpoint before the last one into its place on an object store, where the
        last one turned out to be unreadable; in a folder the next writing does so."""
        if self.storage.local:
            return
        from ffcad.checkpoint import previous_checkpoint

        previous = previous_checkpoint(Path(CHECKPOINT)).name
        with contextlib.suppress(FileNotFoundError):
            self.storage.copy(f"{self.folder(key)}/{previous}", f"{self.folder(key)}/{CHECKPOINT}")


class Ledger(Records[FitRecord]):
    """The records of all fits on a storage."""

    root, file, kind = "ledger", RECORD, FitRecord

    def documents(self, file: str, kind: type[Document]) -> list[Document]:
        """What can be read of a file that some fits have beside their records."""

        def look(key: str) -> Document | None:
            with contextlib.suppress(FileNotFoundError, LedgerError):
                return read_document(self.storage, f"{self.folder(key)}/{file}", kind)
            return None

        # An object store answers many at once as fast as one.
        with ThreadPoolExecutor(1 if self.storage.local else READERS) as readers:
            return [found for found in readers.map(look, self.keys()) if found is not None]

    def leave(self, record: FitRecord) -> None:
        """Keeps a record as its study left it, which another one replaces that takes the fit up."""
        write_document(self.storage, self._left(record.key, record.study), vars(record))

    def left(self, key: str, study: str) -> FitRecord | None:
        """A record as a study left it, before another one took the fit up; None where none was.

        Raises:
            LedgerError: if it is unreadable.
        """
        return self._documents.read(self._left(key, study), FitRecord)

    def _left(self, key: str, study: str) -> str:
        return f"{self.folder(key)}/left-{study}.json"

    def keep_best(self, key: str) -> None:
        """Keeps the present checkpoint as the best one."""
        folder = self.folder(key)
        self.storage.copy(f"{folder}/{CHECKPOINT}", f"{folder}/{BEST_CHECKPOINT}")


class Documents:
    """Reads documents that others replace; one that has not changed since is not read again."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._known: dict[str, tuple[Hashable, Any]] = {}

    def read(
        self, name: str, kind: type[Document], version: Hashable | None = None
    ) -> Document | None:
        """What `read_document` gives; None if it is not there.

        Args:
            name: of the document.
            kind: its dataclass.
            version: of the file, where a listing told it already.
        """
        version = version or self.storage.version(name)
        if version is None:
            return None
        if name not in self._known or self._known[name][0] != version:
            try:
                self._known[name] = (version, read_document(self.storage, name, kind))
            except FileNotFoundError:
                return None
        return self._known[name][1]


def write_document(
    storage: Storage, name: str, document: dict[str, Any], durable: bool = True
) -> None:
    """Writes a document so that a kill at any moment leaves the old or the new one, whole."""
    # Without indentation, because that takes Python's slow encoder; `status --json` has it.
    storage.write(name, json.dumps(document).encode(), durable=durable)


def read_document(storage: Storage, name: str, kind: type[Document]) -> Document:
    """Reads what `write_document` wrote of a dataclass.

    Raises:
        FileNotFoundError: if it is not there.
        LedgerError: if the file is no such document, with its path.
    """
    try:
        return kind(**json.loads(storage.read(name)))
    except (ValueError, TypeError) as e:
        raise LedgerError(f"{storage.uri(name)} cannot be read: {e}") from e
