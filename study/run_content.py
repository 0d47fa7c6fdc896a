"""What a run of MLflow should hold, as data: nothing here writes.

A content is made of the study's own documents (`study/study_content.py`) and of the ledger's
records (`study/fit_content.py`). Whatever changes in it changes its digest, by which
`study/mlflow_runs.py` knows what is to be written.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import DatasetInput, Metric

from study.ledger import FAILED, FINISHED, STOPPED, FitRecord

STATUSES = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
# Raised when what is written into a run changes, so that old runs are completed.
LAYOUT = 5


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """What a run of MLflow should hold.

    Attributes:
        level, identity: what it is found by.
        name: shown to the user.
        parent: the id of the run above it.
        began, ended: epoch, seconds; None if it has not ended or nobody knows when.
        status: MLflow's.
        params: name -> value, as text.
        metrics: all points.
        tags: those that may change; level, identity and study are written at the beginning.
        datasets: its inputs.
        documents: file name -> text, written as soon as they are there.
        files: names on the storage, written when the run has ended.
    """

    level: str
    identity: str
    name: str
    parent: str | None
    began: float
    ended: float | None
    status: str
    params: dict[str, str]
    metrics: list[Metric]
    tags: dict[str, str]
    datasets: list[DatasetInput] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with whatever is written anew."""
        whole = [
            LAYOUT,
            [self.parent, self.ended, self.status, self.params, self.tags],
            [point(m) for m in self.metrics],
            [d.to_dictionary() for d in self.datasets],
            [self.documents, self.files],
        ]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def point(metric: Metric) -> tuple[str, float, int, int]:
    """What tells a point of a metric from all others of its run."""
    return metric.key, metric.value, metric.timestamp, metric.step


def milliseconds(seconds: float) -> int:
    """A time as MLflow counts it."""
    return int(seconds * 1000)


def metrics_at(figures: dict[str, float], when: float, step: int) -> list[Metric]:
    """One point of each figure.

    Args:
        figures: name -> value.
        when: epoch, seconds.
        step: MLflow's.
    """
    return [Metric(key, value, milliseconds(when), step) for key, value in figures.items()]


def since(began: float, when: float) -> int:
    """Whole seconds; a fit of another study may be older than the trial that takes it."""
    return max(0, int(when - began))


def encoder(configuration: dict[str, Any], records: list[FitRecord]) -> str:
    """The digest of the encoder's weights, or the word for them; their file where none is known."""
    known = [r.inputs["weights"] for r in records if r.inputs.get("weights")]
    return known[0] if known else Path(configuration["encoder_weights"]).name


def texts(values: dict[str, Any]) -> dict[str, str]:
    """Parameters or tags as MLflow takes them: texts as they are, the rest as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
