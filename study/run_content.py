"""What MLflow's runs of a study hold, as data: nothing here writes.

A run's content is made of the study's own documents and of the ledger's records. Whatever changes
in it changes its digest, by which `study/tracking.py` knows what is to be written.
"""

import csv
import hashlib
import io
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE

from study.config import StudyConfig
from study.ledger import (
    BEGUN,
    BEST_CHECKPOINT,
    CHECKPOINT,
    FAILED,
    FINISHED,
    PICTURES,
    STOPPED,
    FitRecord,
    Ledger,
)
from study.trials import Outcome, TrialRecord

STATUSES = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
SPLITS = ("train", "select", "report")
# MLflow's limit for the digest of a data set.
DIGEST_LENGTH = 36
# Raised when what is written into a run changes, so that old runs are completed.
LAYOUT = 2


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


class ContentBuilder:
    """Makes the contents of one study's runs.

    Args:
        config: the study.
        ledger: of its fits.

    Attributes:
        document: the study's document as it was last read; empty if it never was.
    """

    def __init__(self, config: StudyConfig, ledger: Ledger) -> None:
        self.config, self.ledger = config, ledger
        self.document: dict[str, Any] = {}

    def study(
        self,
        trials: list[TrialRecord],
        groups: list[Outcome],
        rows: dict[str, dict[str, Any]],
        live: bool,
    ) -> RunContent:
        """The study's run.

        Args:
            trials: all that can be read.
            groups: the configurations that they make.
            rows: a configuration's digest -> its line of the table, as `table_row` makes it.
            live: whether a driver is at work.
        """
        began = min((t.began for t in trials), default=time.time())
        extended = self._extended()
        seen = [t.ended or t.began for t in trials]
        when = max([*seen, *extended], default=began)
        current = [t for group in groups for t in group.trials]
        decided = [t for t in current if t.decided]
        figures = _counts(decided, groups) if decided or extended else {}
        documents = {"study.json": json.dumps(self.document, indent=2)} if self.document else {}
        if groups:
            known = [rows[g.first.digest] for g in groups if g.first.digest in rows]
            documents["results.csv"] = _table(known)
        enough = len(current) >= self._wanted_trials or self.document.get("exhausted", False)
        done = len(decided) == len(current) and enough
        return RunContent(
            level="study",
            identity=self.config.name,
            name=self.config.name,
            parent=None,
            began=began,
            ended=max(seen, default=None),
            status="RUNNING" if live else "FINISHED" if done else "KILLED",
            params={k: _text(v) for k, v in self.config.asked().items()},
            # Seconds as steps: after an extension fewer trials are decided than before, and what
            # MLflow shows of a metric is its latest step.
            metrics=[_metric(k, v, when, _since(began, when)) for k, v in figures.items()],
            tags={
                "question": self.config.question,
                "select_on": self.config.select_on,
                "extended": str(len(extended)),
            },
            documents=documents,
        )

    def configuration(
        self, outcome: Outcome, records: list[FitRecord], parent: str, live: bool
    ) -> RunContent:
        """A configuration's run.

        Args:
            outcome: what the study knows of it.
            records: its fits'.
            parent: the id of the study's run.
            live: whether a driver is at work.
        """
        trials, first = outcome.trials, outcome.first
        finished = [r for r in records if r.status == FINISHED]
        # After an extension the same fits may be averaged differently.
        when = max([first.began, *self._extended(), *(r.ended for r in finished)])
        metrics = [
            _metric(key, value, when, _since(first.began, when))
            for key, value in _aggregates(finished).items()
        ]
        if outcome.value is not None:
            when = max(trial.ended for trial in trials)
            metrics.append(_metric("objective", outcome.value, when, _since(first.began, when)))
        errors = [trial.error for trial in trials if trial.error]
        return RunContent(
            level="configuration",
            identity=first.digest,
            name=f"trial-{first.number:03d}",
            parent=parent,
            began=first.began,
            ended=max([*(t.ended or t.began for t in trials), *(_last_seen(r) for r in records)]),
            status=STATUSES.get(outcome.state, "RUNNING" if live else "KILLED"),
            params={k: _text(v) for k, v in first.configuration.items()},
            metrics=metrics,
            tags={
                "configuration": first.digest,
                "trials": ",".join(str(trial.number) for trial in trials),
                "select_on": self.config.select_on,
                "encoder": _encoder(first.configuration, records),
                "stopped_early": _text(outcome.state == STOPPED),
                **({"error": errors[0]} if errors else {}),
            },
        )

    def fit(self, record: FitRecord, parent: str, live: bool) -> RunContent:
        """A fit's run.

        Args:
            record: the fit's.
            parent: the id of its configuration's run.
            live: whether somebody works at it if it has only begun.
        """
        reused = record.study != self.config.name
        status = STATUSES.get(record.status, "RUNNING" if live else "KILLED")
        if record.status == BEGUN and record.error and not live:
            status = "FAILED"
        checkpoint, tags = self._checkpoint(record, reused)
        files = [self._name(record, name) for name in PICTURES]
        environment = record.environment
        return RunContent(
            level="fit",
            identity=record.key,
            name=f"{record.category}-seed{record.seed}",
            parent=parent,
            began=record.began,
            ended=_last_seen(record),
            status=status,
            params={k: _text(v) for k, v in record.configuration.items()},
            metrics=_fit_metrics(record, reused, totals=status != "RUNNING"),
            tags={
                "fit_key": record.key,
                "configuration": record.digest,
                "category": record.category,
                "seed": str(record.seed),
                "select_on": record.select_on,
                "encoder": _encoder(record.configuration, [record]),
                "stopped_early": _text(record.status == STOPPED),
                "git_sha": _text(environment.get("git_sha")),
                "git_dirty": _text(environment.get("git_dirty")),
                "sittings": str(len(record.sittings)),
                **tags,
                **({"error": record.error} if record.error else {}),
                **({"reused_from": record.study} if reused else {}),
                # Shown by MLflow as the run's description.
                **({MLFLOW_RUN_NOTE: _bullets(record.notes)} if record.notes else {}),
            },
            datasets=_datasets(record, self.config),
            documents={"config.json": json.dumps(record.configuration, indent=2)},
            files=[] if reused else [*checkpoint, *files],
        )

    @cached_property
    def _wanted_trials(self) -> int:
        """How many trials make the study complete; a grid has one for each cell on each case."""
        if not self.config.cells:
            return self.config.num_trials
        return len(self.config.search_space().distinct_cells()) * len(self.config.cases)

    def _extended(self) -> list[float]:
        """When the study was extended to another question."""
        return [step["when"] for step in self.document.get("extended", [])]

    def _checkpoint(self, record: FitRecord, reused: bool) -> tuple[list[str], dict[str, str]]:
        """The checkpoint that is copied into MLflow, and the tags that tell which one it is."""
        wanted = self.config.log_checkpoints
        if record.status == FINISHED and not reused and wanted != "none":
            last = ("last", CHECKPOINT, record.iteration)
            best = ("best", BEST_CHECKPOINT, record.best_iteration)
            for which, file, iteration in [best, last] if wanted == "best" else [last]:
                name = self._name(record, file)
                if iteration is not None and self.ledger.storage.version(name) is not None:
                    return [name], {"checkpoint": which, "checkpoint_iteration": str(iteration)}
        return [], {"checkpoint": "none"}

    def _name(self, record: FitRecord, file: str) -> str:
        return f"{self.ledger.folder(record.key)}/{file}"


def _counts(decided: list[TrialRecord], groups: list[Outcome]) -> dict[str, float]:
    """A study's metrics: what became of its decided trials, and its best objective."""
    figures: dict[str, float] = {
        f"{state}_trials": sum(t.state == state for t in decided)
        for state in (FINISHED, STOPPED, FAILED)
    }
    figures["budget_iterations"] = sum(t.budget for t in decided)
    figures["spent_iterations"] = sum(t.spent for t in decided)
    values = [group.value for group in groups if group.value is not None]
    if values:
        figures["best_objective"] = max(values)
    return figures


def _fit_metrics(record: FitRecord, reused: bool, totals: bool) -> list[Metric]:
    """The points of a fit's metrics; of a fit of another study only the last ones.

    Args:
        record: the fit's.
        reused: whether another study did it.
        totals: whether to add what has grown until the fit ended.
    """
    history = record.history[-1:] if reused else record.history
    metrics = [
        _metric(key, value, entry["time"], entry["iteration"])
        for entry in history
        for key, value in entry.items()
        if key == "loss" or key.startswith(("select_", "report_"))
    ]
    if totals and history:
        for key in ("seconds", "writing_seconds", "peak_memory_mb"):
            value = getattr(record, key)
            metrics.append(_metric(key, value, _last_seen(record), record.iteration))
    # Seconds as steps: samples are thinned out in a long fit, and their numbers change with that.
    metrics += [
        _metric(f"system/{name}", value, sample["time"], _since(record.began, sample["time"]))
        for sample in ([] if reused else record.system)
        for name, value in sample.items()
        if name != "time"
    ]
    return metrics


def _datasets(record: FitRecord, config: StudyConfig) -> list[DatasetInput]:
    """A fit's data as MLflow shows it; nothing until the worker has counted its images."""
    images, digest = record.inputs.get("images"), record.inputs.get("data")
    if not images or not digest:
        return []
    size = record.configuration["image_size"]
    if config.data_root is None:
        kind, source = "code", {"tags": {"layout": config.data}}
    else:
        kind, source = "local", {"uri": config.data_root, "layout": config.data}
    return [
        DatasetInput(
            Dataset(
                # One data set for each split, because a run has each only once in MLflow.
                name=f"{config.data}/{record.category}@{size}/{split}",
                digest=digest[:DIGEST_LENGTH],
                source_type=kind,
                source=json.dumps(source),
                profile=json.dumps({"num_images": images[split], "protocol": record.select_on}),
            ),
            [InputTag(MLFLOW_DATASET_CONTEXT, split)],
        )
        for split in SPLITS
    ]


def _aggregates(finished: list[FitRecord]) -> dict[str, float]:
    """Mean, deviation and worst over the finished cases, of the metrics that all of them have."""
    if not finished:
        return {}
    figures: dict[str, float] = {"cases": len(finished)}
    for key in sorted(set.intersection(*(set(r.metrics) for r in finished))):
        values = [r.metrics[key] for r in finished]
        figures[f"{key}_mean"] = fmean(values)
        figures[f"{key}_worst"] = min(values)
        if len(values) > 1:
            figures[f"{key}_std"] = stdev(values)
    return figures


def table_row(outcome: Outcome, content: RunContent) -> dict[str, Any]:
    """A configuration's line of the study's table: column -> value.

    Args:
        outcome: what the study knows of it.
        content: of its run.
    """
    return {
        "configuration": outcome.first.digest,
        "trial": outcome.first.number,
        "state": outcome.state,
        **outcome.first.drawn,
        **{metric.key: metric.value for metric in content.metrics},
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Comma-separated values; a row has nothing in the columns that it does not know."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _last_seen(record: FitRecord) -> float:
    """When a fit ended, or when a killed one last gave a sign of life."""
    return record.ended or (record.history[-1]["time"] if record.history else record.began)


def _metric(key: str, value: float, when: float, step: int) -> Metric:
    return Metric(key, value, milliseconds(when), step)


def point(metric: Metric) -> tuple[str, float, int, int]:
    """What tells a point of a metric from all others of its run."""
    return metric.key, metric.value, metric.timestamp, metric.step


def _since(began: float, when: float) -> int:
    """Whole seconds; a fit of another study may be older than the trial that takes it."""
    return max(0, int(when - began))


def milliseconds(seconds: float) -> int:
    """A time as MLflow counts it."""
    return int(seconds * 1000)


def _encoder(configuration: dict[str, Any], records: list[FitRecord]) -> str:
    """The digest of the encoder's weights, or the word for them; their file where none is known."""
    known = [r.inputs["weights"] for r in records if r.inputs.get("weights")]
    return known[0] if known else Path(configuration["encoder_weights"]).name


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
