"""What has been done: one record per fit, on the study's storage; the truth of every study.

    <storage>/ledger/<fit key>/record.json     written by the worker, before it reports to Ray
    <storage>/ledger/<fit key>/checkpoint.pt   written by the training, at every evaluation
    <storage>/ledger/<fit key>/worst.png       the worst cases of the report split; also best.png

Ray, Optuna and MLflow can be rebuilt from this and from the trials of the study (`study.trials`).
The ledger is shared by all studies on a storage: a fit is never done twice.
"""

import dataclasses
import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffcad.config import TrainConfig

# A fit's life: begun -> finished | stopped (by the trial scheduler) | failed.
BEGUN, FINISHED, STOPPED, FAILED = "begun", "finished", "stopped", "failed"


class LedgerError(ValueError):
    """A document that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Digests of what goes into a fit besides its configuration and its case.

    Attributes:
        data: 'category@image_size' -> digest of what is trained, selected and reported on.
        textures: image size -> digest of the anomaly source images; empty without any.
        weights: `encoder_weights` value -> digest of the file's content, or the word itself.
        method_version: `ffcad.training.METHOD_VERSION`.
    """

    data: dict[str, str]
    textures: dict[str, str]
    weights: dict[str, str]
    method_version: int

    def contents(self) -> dict[str, Any]:
        """What two sittings of a study must agree on: the digests, not where the weights lie."""
        return {**dataclasses.asdict(self), "weights": sorted(set(self.weights.values()))}

    def fit_key(self, config: TrainConfig, category: str, seed: int) -> str:
        """Sixteen hexadecimal digits that name a fit on whatever storage and machine.

        The path of the encoder's weights counts for nothing, their content does.
        """
        identity = config.identity()
        identity.pop("encoder_weights", None)
        parts = {
            "configuration": identity,
            "data": self.data[f"{category}@{config.image_size}"],
            "textures": self.textures.get(str(config.image_size)),
            "weights": self.weights[config.encoder_weights],
            "category": category,
            "seed": seed,
            "method_version": self.method_version,
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """One fit: a configuration trained and evaluated on one case.

    Attributes:
        key: `Inputs.fit_key`.
        status: begun, finished, stopped or failed.
        study: the study that did it.
        configuration: every knob, as `TrainConfig.to_dict` gives them.
        digest: the configuration's.
        category, seed: the case.
        select_on: the protocol that the metrics were taken with.
        metrics: of the last evaluation; a finished fit has 'report_...' ones too.
        history: all evaluations: iteration, stage, loss, metrics, and 'time' (epoch, seconds).
        iteration, iterations: done, and in the whole training.
        seconds: spent training and evaluating, all sittings together.
        peak_memory_mb: of the GPU where there is one, else of the process.
        environment: git revision, versions, machine.
        error: why it failed, one line.
        began, ended: epoch, seconds.
    """

    key: str
    status: str
    study: str
    configuration: dict[str, Any]
    digest: str
    category: str
    seed: int
    select_on: str
    inputs: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    iteration: int = 0
    iterations: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    began: float = 0.0
    ended: float | None = None

    @property
    def random_encoder(self) -> bool:
        """Whether the frozen encoder had random weights, which says little about the method."""
        return self.configuration["encoder_weights"] == "random"


class Ledger:
    """The records of all fits on a storage.

    Args:
        storage: a folder that the driver and every worker see under this path.
    """

    def __init__(self, storage: Path) -> None:
        self.folder = Path(storage) / "ledger"
        self._documents = Documents()

    def fit_folder(self, key: str) -> Path:
        """Where a fit's files are."""
        return self.folder / key

    def checkpoint(self, key: str) -> Path:
        """Where a fit's training state is."""
        return self.fit_folder(key) / "checkpoint.pt"

    def pictures(self, key: str) -> dict[str, Path]:
        """Where a fit's sheets of the worst and of the best cases are."""
        return {name: self.fit_folder(key) / f"{name}.png" for name in ("worst", "best")}

    def read(self, key: str) -> FitRecord | None:
        """A fit's record; None where it was never begun.

        Raises:
            LedgerError: if the record is unreadable.
        """
        path = self.fit_folder(key) / "record.json"
        return self._documents.read(path, FitRecord) if path.is_file() else None

    def write(self, record: FitRecord) -> None:
        """Replaces a fit's record; a reader sees the old one or the new one, whole."""
        folder = self.fit_folder(record.key)
        write_json(folder / "record.json", dataclasses.asdict(record))


class Documents:
    """Reads documents that others replace; one that has not changed since is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], Any]] = {}

    def read(self, path: Path, kind: type) -> Any:
        """What `read_document` gives."""
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if path not in self._known or self._known[path][0] != version:
            self._known[path] = (version, read_document(path, kind))
        return self._known[path][1]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a document so that a kill at any moment leaves the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not only the process: two threads, or two machines with the same process number, may write.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            json.dump(document, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_document(path: Path, kind: type) -> Any:
    """Reads what `write_json` wrote of a dataclass.

    Raises:
        LedgerError: if the file is no such document, with its path.
    """
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as e:
        raise LedgerError(f"{path} cannot be read: {e}; remove it to have it done again") from e
