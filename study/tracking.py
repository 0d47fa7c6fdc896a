"""Ledger -> MLflow, by one writer: a thread of the driver, or `python -m study sync` afterwards.

    experiment                      the study
      run  level=study              the study: question, counts, best objective, results.csv
        run  level=configuration    a configuration: mean, deviation and worst over its cases
          run  level=fit            a fit: parameters, metrics over iterations, data, system
                                    metrics, checkpoint, pictures

Every run is found by its tags before it is created, and carries a digest of what was written into
it, so writing twice changes nothing and a stopped server costs nothing but delay.
"""

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)

from ffcad.config import TrainConfig
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
    LedgerError,
)
from study.storage import Storage
from study.trials import Outcome, StudyFolder, TrialRecord, outcomes

STATUSES = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
SPLITS = ("train", "select", "report")
# MLflow's limits for one call, and for the lengths of what is written.
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 6000, 5000, 36
# Tags that a run may lose again, and the beginning of those for parameters that have changed.
PASSING_TAGS = {"error", "reused_from", "retired", "checkpoint_iteration", MLFLOW_RUN_NOTE}
CHANGED_PARAM = "param."
# Raised when what is written into a run changes, so that old runs are completed.
LAYOUT = 2

logger = logging.getLogger(__name__)


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
        """Sixteen hexadecimal digits of all of it."""
        whole = [
            LAYOUT,
            [self.parent, self.ended, self.status, self.params, self.tags],
            [_point(m) for m in self.metrics],
            [d.to_dictionary() for d in self.datasets],
            [self.documents, self.files],
        ]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(kw_only=True)
class KnownRun:
    """A run as MLflow has it, as far as this process knows.

    Attributes:
        id: MLflow's.
        status: MLflow's.
        params, tags: name -> value.
        sent: points, data sets and documents that this process has written.
    """

    id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    sent: set[tuple] = field(default_factory=set)


class Mirror:
    """Writes one study's records into MLflow.

    Args:
        config: the study.
        connect_seconds: how long one request to a server may take.
    """

    def __init__(self, config: StudyConfig, connect_seconds: int = 30) -> None:
        # A server that is down is asked again at the next round, not in the middle of this one; and
        # a request to create a run, sent again because its answer was lost, would create two.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(connect_seconds))
        self.config = config
        self.storage = Storage(config.storage)
        self.ledger = Ledger(self.storage)
        self.folder = StudyFolder(self.storage, config.name)
        self.client: MlflowClient | None = None
        self.experiment = ""
        self.document: dict[str, Any] = {}
        self.runs: dict[tuple[str, str], KnownRun] = {}
        self._finished: dict[str, FitRecord] = {}
        # Of each run the records that it was last written from, and of each configuration a row of
        # the table; configurations of which a driver expects nothing more.
        self._sources: dict[tuple[str, str], tuple] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._settled: set[str] = set()
        self._said: set[str] = set()

    def sync(self, live: bool) -> int:
        """Writes what MLflow does not have yet.

        Args:
            live: whether a driver is at work; else what has begun is marked as killed.

        Returns:
            The number of runs that were written to.
        """
        try:
            if self.client is None:
                self._connect()
            return self._sync(live)
        except Exception:
            # Nobody knows what was still written, or whether it is the same server that comes back.
            self.client = None
            raise

    def _sync(self, live: bool) -> int:
        trials, unreadable = self.folder.read_trials()
        self._say(unreadable.values())
        groups = outcomes(trials, len(self.config.cases))
        study = ("study", self.config.name)
        if study not in self.runs:
            self._create(self._study(trials, groups, live))
        owners: dict[str, str] = {}
        for group in groups:
            for case in group.cases:
                # A fit has one run, even where two configurations differ in nothing that counts.
                owners.setdefault(case.key, group.first.digest)
        written = sum(self._write_outcome(group, owners, live) for group in groups)
        expected = {("configuration", group.first.digest) for group in groups}
        expected |= {("fit", key) for key in owners}
        if not unreadable:
            written += self._retire(self.runs.keys() - expected - {study})
        if not live:
            written += self._close(self.runs.keys() - {study})
        sources = (*trials, live, *self._rows.values())
        if not self._is_same(study, sources):
            written += self._write(self._study(trials, groups, live))
            self._sources[study] = sources
        return written

    def _connect(self) -> None:
        """Finds the experiment, or makes it, and all of its runs."""
        uri = self.config.mlflow_uri
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(self.config.name)
        if found is None:
            server = uri.startswith(("http:", "https:", "databricks"))
            artifacts = (self.config.local_folder / "mlartifacts").resolve().as_uri()
            self.experiment = client.create_experiment(
                self.config.name, artifact_location=None if server else artifacts
            )
        else:
            self.experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self.experiment)
        try:
            self.document = self.folder.read_document()
        except LedgerError as e:
            self._say([str(e)])
        self.runs, self._sources, self._settled = {}, {}, set()
        token, pages = None, []
        while token or not pages:
            pages.append(client.search_runs([self.experiment], max_results=1000, page_token=token))
            token = pages[-1].token
        runs = [run for page in pages for run in page if "identity" in run.data.tags]
        for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
            identity = (run.data.tags["level"], run.data.tags["identity"])
            if identity in self.runs:
                # Created by a request that was given up, and carried out all the same.
                client.delete_run(run.info.run_id)
            else:
                self.runs[identity] = _known(run)
        self.client = client

    def _write_outcome(self, outcome: Outcome, owners: dict[str, str], live: bool) -> int:
        """Writes a configuration and its fits."""
        digest = outcome.first.digest
        if live and digest in self._settled:
            return 0
        records = self._records(outcome)
        identity, sources = ("configuration", digest), (*outcome.trials, *records, live)
        written = 0
        if not self._is_same(identity, sources):
            content = self._configuration(outcome, records, live)
            written += self._write(content)
            self._rows[digest] = _row(outcome, content)
            self._sources[identity] = sources
        decided = {case.key: trial.decided for trial in outcome.trials for case in trial.cases}
        for record in records:
            if owners[record.key] != digest:
                continue
            fit, of_fit = ("fit", record.key), (record, decided[record.key], live)
            if not self._is_same(fit, of_fit):
                written += self._write(
                    self._fit(record, self.runs[identity].id, live and not decided[record.key])
                )
                self._sources[fit] = of_fit
        complete = len(outcome.cases) >= len(self.config.cases)
        if complete and all(trial.decided for trial in outcome.trials):
            self._settled.add(digest)
        return written

    def _records(self, outcome: Outcome) -> list[FitRecord]:
        """The records of a configuration's fits, as far as they concern this study."""
        keys = [case.key for case in outcome.cases]
        # A finished fit never changes, and on an object store each look is a request.
        known, wrong = self.ledger.read_all([key for key in keys if key not in self._finished])
        self._say(wrong)
        self._finished |= {record.key: record for record in known if record.status == FINISHED}
        # What another study began is its own affair until it is finished.
        begun = {r.key: r for r in known if r.study == self.config.name}
        found = (self._finished.get(key) or begun.get(key) for key in keys)
        return [record for record in found if record is not None]

    def _study(self, trials: list[TrialRecord], groups: list[Outcome], live: bool) -> RunContent:
        began = min((t.began for t in trials), default=time.time())
        extended = self._extended()
        seen = [t.ended or t.began for t in trials]
        when = max([*seen, *extended], default=began)
        current = [t for group in groups for t in group.trials]
        decided = [t for t in current if t.decided]
        figures = {
            f"{state}_trials": sum(t.state == state for t in decided)
            for state in (FINISHED, STOPPED, FAILED)
        }
        figures["budget_iterations"] = sum(t.budget for t in decided)
        figures["spent_iterations"] = sum(t.spent for t in decided)
        values = [group.value for group in groups if group.value is not None]
        if values:
            figures["best_objective"] = max(values)
        documents = {"study.json": json.dumps(self.document, indent=2)} if self.document else {}
        if groups:
            documents["results.csv"] = _table(
                [self._rows[g.first.digest] for g in groups if g.first.digest in self._rows]
            )
        done = len(decided) == len(current) and len(groups) >= self._wanted()
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
            metrics=[_metric(k, v, when, _since(began, when)) for k, v in figures.items()]
            if decided or extended
            else [],
            tags={
                "question": self.config.question,
                "select_on": self.config.select_on,
                "extended": str(len(extended)),
            },
            documents=documents,
        )

    def _extended(self) -> list[float]:
        """When the study was extended to another question."""
        return [step["when"] for step in self.document.get("extended", [])]

    def _wanted(self) -> int:
        """How many configurations make the study complete."""
        config = self.config
        if not config.cells:
            return config.num_trials
        cells = (TrainConfig.from_dict({**config.fixed, **v}) for v in config.cells.values())
        return len({cell.digest() for cell in cells})

    def _configuration(self, outcome: Outcome, records: list[FitRecord], live: bool) -> RunContent:
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
            parent=self.runs["study", self.config.name].id,
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

    def _fit(self, record: FitRecord, parent: str, live: bool) -> RunContent:
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

    def _checkpoint(self, record: FitRecord, reused: bool) -> tuple[list[str], dict[str, str]]:
        """The checkpoint that is copied into MLflow, and the tags that tell which one it is."""
        wanted = self.config.log_checkpoints
        if record.status == FINISHED and not reused and wanted != "none":
            last = ("last", CHECKPOINT, record.iteration)
            best = ("best", BEST_CHECKPOINT, record.best_iteration)
            for which, file, iteration in [best, last] if wanted == "best" else [last]:
                name = self._name(record, file)
                if iteration is not None and self.storage.version(name) is not None:
                    return [name], {"checkpoint": which, "checkpoint_iteration": str(iteration)}
        return [], {"checkpoint": "none"}

    def _name(self, record: FitRecord, file: str) -> str:
        return f"{self.ledger.folder(record.key)}/{file}"

    def _retire(self, left_behind: Iterable[tuple[str, str]]) -> int:
        """Marks runs of what the study asked before it was extended to another question."""
        written = 0
        for identity in left_behind:
            run = self.runs[identity]
            if run.tags.get("retired") != "true":
                # Written anew if the study ever asks for it again.
                self._tag(run, {"retired": "true", "written": ""})
                self._kill(run)
                self._sources.pop(identity, None)
                written += 1
        return written

    def _close(self, identities: Iterable[tuple[str, str]]) -> int:
        """Ends what an earlier driver left running and no readable record speaks of."""
        written = 0
        for identity in identities:
            run = self.runs[identity]
            if run.status == "RUNNING":
                self._tag(run, {"written": ""})
                self._kill(run)
                written += 1
        return written

    def _kill(self, run: KnownRun) -> None:
        if run.status == "RUNNING":
            self.client.set_terminated(run.id, "KILLED")
        else:  # It keeps its end.
            self.client.update_run(run.id, status="KILLED")
        run.status = "KILLED"

    def _write(self, content: RunContent) -> int:
        """Brings one run up to date; 0 if it is."""
        run, digest = self.runs.get((content.level, content.identity)), content.digest()
        if run is not None and run.tags.get("written") == digest:
            return 0
        if run is None:
            run = self._create(content)
        tags = self._log_params(run, content.params) | content.tags
        if content.parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = content.parent
        self._tag(run, tags)
        for name in [*run.tags]:
            if name not in tags and (name in PASSING_TAGS or name.startswith(CHANGED_PARAM)):
                self.client.delete_tag(run.id, name)
                del run.tags[name]
        self._log(run, content)
        if content.status == "RUNNING":
            if run.status != "RUNNING":
                self.client.update_run(run.id, status="RUNNING")
        else:
            self._log_files(run, content.files)
            ended = None if content.ended is None else _milliseconds(content.ended)
            self.client.set_terminated(run.id, content.status, end_time=ended)
            # It will not grow any more; should it, MLflow ignores what it has.
            run.sent.clear()
        run.status = content.status
        # Last, so that whatever failed before is done again.
        self._tag(run, {"written": digest})
        return 1

    def _create(self, content: RunContent) -> KnownRun:
        fixed = {
            "level": content.level,
            "identity": content.identity,
            "study": self.config.name,
            **({MLFLOW_PARENT_RUN_ID: content.parent} if content.parent else {}),
        }
        run = self.client.create_run(
            self.experiment,
            start_time=_milliseconds(content.began),
            tags=fixed,
            run_name=content.name,
        )
        known = self.runs[content.level, content.identity] = _known(run)
        return known

    def _log_params(self, run: KnownRun, params: dict[str, str]) -> dict[str, str]:
        """Writes new parameters; those that MLflow has with another value come back as tags."""
        cut = {name: value[:PARAM_LENGTH] for name, value in params.items()}
        new = [Param(name, value) for name, value in cut.items() if name not in run.params]
        for part in _parts(new, MOST_PARAMS):
            self.client.log_batch(run.id, params=part)
            run.params |= {param.key: param.value for param in part}
        return {
            f"{CHANGED_PARAM}{name}": value
            for name, value in cut.items()
            if run.params[name] != value
        }

    def _tag(self, run: KnownRun, tags: dict[str, str]) -> None:
        cut = {name: value[:TAG_LENGTH] for name, value in tags.items()}
        new = [RunTag(name, value) for name, value in cut.items() if run.tags.get(name) != value]
        for part in _parts(new, MOST_TAGS):
            self.client.log_batch(run.id, tags=part)
            run.tags |= {tag.key: tag.value for tag in part}

    def _log(self, run: KnownRun, content: RunContent) -> None:
        """Writes what this process has not written yet; MLflow ignores a point that it has."""
        new = [metric for metric in content.metrics if _point(metric) not in run.sent]
        for part in _parts(new, MOST_METRICS):
            self.client.log_batch(run.id, metrics=part)
            run.sent |= {_point(metric) for metric in part}
        inputs = [d for d in content.datasets if (d.dataset.name, d.dataset.digest) not in run.sent]
        if inputs:
            self.client.log_inputs(run.id, inputs)
            run.sent |= {(d.dataset.name, d.dataset.digest) for d in inputs}
        for document in content.documents.items():
            if document not in run.sent:
                self.client.log_text(run.id, document[1], document[0])
                run.sent.add(document)

    def _log_files(self, run: KnownRun, names: list[str]) -> None:
        for name in names:
            # A fit is finished without its pictures too.
            with contextlib.suppress(FileNotFoundError), self.storage.at_hand(name) as path:
                self.client.log_artifact(run.id, str(path))

    def _is_same(self, identity: tuple[str, str], sources: tuple) -> bool:
        """Whether a run was last written from these very objects."""
        old = self._sources.get(identity, ())
        return len(old) == len(sources) and all(a is b for a, b in zip(old, sources, strict=True))

    def _say(self, lines: Iterable[str]) -> None:
        """Logs what cannot be read, once."""
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                logger.warning("%s; it is left out of MLflow", line)


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


def _row(outcome: Outcome, content: RunContent) -> dict[str, Any]:
    """A configuration's line of the table."""
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


def _known(run: Run) -> KnownRun:
    return KnownRun(
        id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def _last_seen(record: FitRecord) -> float:
    """When a fit ended, or when a killed one last gave a sign of life."""
    return record.ended or (record.history[-1]["time"] if record.history else record.began)


def _parts(items: list, most: int) -> list[list]:
    return [items[start : start + most] for start in range(0, len(items), most)]


def _metric(key: str, value: float, when: float, step: int) -> Metric:
    return Metric(key, value, _milliseconds(when), step)


def _point(metric: Metric) -> tuple[str, float, int, int]:
    return metric.key, metric.value, metric.timestamp, metric.step


def _since(began: float, when: float) -> int:
    """Whole seconds; a fit of another study may be older than the trial that takes it."""
    return max(0, int(when - began))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _encoder(configuration: dict[str, Any], records: list[FitRecord]) -> str:
    """The digest of the encoder's weights, or the word for them; their file where none is known."""
    known = [r.inputs["weights"] for r in records if r.inputs.get("weights")]
    return known[0] if known else Path(configuration["encoder_weights"]).name


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
