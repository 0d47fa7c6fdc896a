"""Ledger -> MLflow, by one writer: a thread of the driver, or `python -m study sync` afterwards.

    experiment                      the study
      run  level=study              the study: question, number of trials, best objective
        run  level=configuration    a trial: mean, deviation and worst of its cases
          run  level=fit            a fit: parameters, metrics over iterations, checkpoint, pictures

Every run is found by its tags before it is created, and carries a digest of what was written into
it, so writing twice changes nothing and a stopped server costs nothing but delay.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from study.config import StudyConfig
from study.ledger import FAILED, FINISHED, STOPPED, FitRecord, Ledger
from study.trials import StudyFolder, TrialRecord

STATUSES = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
# MLflow's limits for one call of log_batch.
MOST_METRICS, MOST_PARAMS = 1000, 100
# Raised when what is written into a run changes, so that old runs are completed.
LAYOUT = 1


class Mirror:
    """Writes one study's records into MLflow.

    Args:
        config: the study.
        connect_seconds: how long one request to a server may take.
    """

    def __init__(self, config: StudyConfig, connect_seconds: int = 10) -> None:
        # A server that is down is asked again at the next round, not in the middle of this one.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(connect_seconds))
        self.config = config
        self.ledger = Ledger(Path(config.storage))
        self.folder = StudyFolder(Path(config.storage), config.name)
        self.client: MlflowClient | None = None
        self.experiment = ""
        self.runs: dict[tuple[str, str], tuple[str, str]] = {}
        self.settled: set[int] = set()

    def sync(self, live: bool) -> int:
        """Writes what MLflow does not have yet.

        Args:
            live: whether a driver is at work; else what has begun is marked as killed.

        Returns:
            The number of runs that were written to.
        """
        if self.client is None:
            self._connect()
        trials = self.folder.trials()
        written = self._write_study(trials, live)
        parent = self.runs["study", self.config.name][0]
        for trial in trials:
            if trial.number not in self.settled:
                written += self._write_trial(trial, parent, live)
                if trial.decided:
                    self.settled.add(trial.number)
        return written

    def _connect(self) -> None:
        uri = self.config.mlflow_uri
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(self.config.name)
        if found is None:
            server = uri.startswith(("http:", "https:", "databricks"))
            artifacts = (Path(self.config.storage).resolve() / "mlartifacts").as_uri()
            self.experiment = client.create_experiment(
                self.config.name, artifact_location=None if server else artifacts
            )
        else:
            self.experiment = found.experiment_id
        token = None
        while True:
            page = client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                identity = (tags.get("level", ""), tags.get("identity", ""))
                self.runs[identity] = (run.info.run_id, tags.get("written", ""))
            token = page.token
            if not token:
                break
        self.client = client

    def _write_study(self, trials: list[TrialRecord], live: bool) -> int:
        decided = [t for t in trials if t.decided]
        values = [t.value for t in trials if t.state == FINISHED]
        metrics = []
        if values:
            when = max(t.ended for t in decided)
            metrics = [
                _metric("best_objective", max(values), when, len(decided)),
                _metric("finished_trials", len(values), when, len(decided)),
            ]
        done = len(decided) == len(trials) and len(trials) >= self.config.num_trials
        status = "RUNNING" if live else "FINISHED" if done else "KILLED"
        started = (self.folder.path / "study.json").stat().st_mtime
        return self._write(
            ("study", self.config.name),
            name=self.config.name,
            parent=None,
            began=min((t.began for t in trials), default=started),
            ended=max((t.ended or t.began for t in trials), default=started),
            status=status,
            params={k: _text(v) for k, v in self.config.asked().items()},
            metrics=metrics,
            tags={"question": self.config.question},
            log_files=lambda run: self._log_files(run, [self.folder.path / "study.json"]),
        )

    def _write_trial(self, trial: TrialRecord, parent: str, live: bool) -> int:
        known = [self.ledger.read(case.key) for case in trial.cases]
        # What another study began is its own affair until it is finished.
        records = [r for r in known if r and (r.study == self.config.name or r.status == FINISHED)]
        finished = [r for r in records if r.status == FINISHED]
        metrics = _aggregates(finished)
        if trial.value is not None:
            metrics.append(_metric("objective", trial.value, trial.ended, len(finished)))
        written = self._write(
            ("configuration", trial.digest),
            name=f"trial-{trial.number:03d}",
            parent=parent,
            began=trial.began,
            ended=trial.ended or max((_last_seen(r) for r in records), default=trial.began),
            status=STATUSES.get(trial.state, "RUNNING" if live else "KILLED"),
            params={k: _text(v) for k, v in trial.configuration.items()},
            metrics=metrics,
            tags={
                "configuration": trial.digest,
                "select_on": self.config.select_on,
                "encoder": _encoder(trial.configuration),
                "stopped_early": _text(trial.state == STOPPED),
                **({"error": trial.error} if trial.error else {}),
            },
        )
        own = self.runs["configuration", trial.digest][0]
        return written + sum(self._write_fit(r, own, live) for r in records)

    def _write_fit(self, record: FitRecord, parent: str, live: bool) -> int:
        reused = record.study != self.config.name
        history = record.history[-1:] if reused else record.history
        metrics = [
            _metric(key, value, entry["time"], entry["iteration"])
            for entry in history
            for key, value in entry.items()
            if key == "loss" or key.startswith(("select_", "report_"))
        ]
        if history:
            when, step = history[-1]["time"], record.iteration
            metrics.append(_metric("seconds", record.seconds, when, step))
            metrics.append(_metric("peak_memory_mb", record.peak_memory_mb, when, step))
        return self._write(
            ("fit", record.key),
            name=f"{record.category}-seed{record.seed}",
            parent=parent,
            began=record.began,
            ended=_last_seen(record),
            status=STATUSES.get(record.status, "RUNNING" if live else "KILLED"),
            params={k: _text(v) for k, v in record.configuration.items()},
            metrics=metrics,
            tags={
                "fit_key": record.key,
                "configuration": record.digest,
                "category": record.category,
                "seed": str(record.seed),
                "select_on": record.select_on,
                "encoder": _encoder(record.configuration),
                "stopped_early": _text(record.status == STOPPED),
                "git_sha": _text(record.environment.get("git_sha")),
                "git_dirty": _text(record.environment.get("git_dirty")),
                **({"error": record.error} if record.error else {}),
                **({"reused_from": record.study} if reused else {}),
            },
            log_files=lambda run: self._log_fit(run, record, reused),
        )

    def _log_fit(self, run: str, record: FitRecord, reused: bool) -> None:
        self.client.log_dict(run, record.configuration, "config.json")
        paths = [] if reused else list(self.ledger.pictures(record.key).values())
        if record.status == FINISHED and not reused and self.config.log_checkpoints == "last":
            paths.append(self.ledger.checkpoint(record.key))
        self._log_files(run, paths)

    def _log_files(self, run: str, paths: list[Path]) -> None:
        for path in paths:
            if path.is_file():
                self.client.log_artifact(run, str(path))

    def _write(
        self,
        identity: tuple[str, str],
        *,
        name: str,
        parent: str | None,
        began: float,
        ended: float,
        status: str,
        params: dict[str, str],
        metrics: list[Metric],
        tags: dict[str, str],
        log_files: Callable[[str], None] | None = None,
    ) -> int:
        """Brings one run up to date; 0 if it is."""
        points = [(m.key, m.value, m.timestamp, m.step) for m in metrics]
        whole = [LAYOUT, status, params, tags, points, ended]
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        run, written = self.runs.get(identity, ("", ""))
        if written == digest:
            return 0
        if not run:
            fixed = {"level": identity[0], "identity": identity[1], "study": self.config.name}
            if parent is not None:
                fixed[MLFLOW_PARENT_RUN_ID] = parent
            run = self.client.create_run(
                self.experiment, start_time=_milliseconds(began), tags=fixed, run_name=name
            ).info.run_id
            self.runs[identity] = (run, "")
        self._log(run, params, metrics, tags)
        if status == "RUNNING":
            self.client.update_run(run, status=status)
        else:
            if log_files is not None:
                log_files(run)
            self.client.set_terminated(run, status, end_time=_milliseconds(ended))
        # Last, so that whatever failed before is done again.
        self.client.set_tag(run, "written", digest)
        self.runs[identity] = (run, digest)
        return 1

    def _log(
        self, run: str, params: dict[str, str], metrics: list[Metric], tags: dict[str, str]
    ) -> None:
        self.client.log_batch(
            run,
            params=[Param(k, v) for k, v in list(params.items())[:MOST_PARAMS]],
            tags=[RunTag(k, v[:5000]) for k, v in tags.items()],
        )
        for start in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])


def _aggregates(finished: list[FitRecord]) -> list[Metric]:
    """Mean, deviation and worst over the finished cases, of the metrics that all of them have."""
    if not finished:
        return []
    when, n = max(r.ended for r in finished), len(finished)
    metrics = [_metric("cases", n, when, n)]
    for key in sorted(set.intersection(*(set(r.metrics) for r in finished))):
        values = [r.metrics[key] for r in finished]
        metrics.append(_metric(f"{key}_mean", fmean(values), when, n))
        metrics.append(_metric(f"{key}_worst", min(values), when, n))
        if n > 1:
            metrics.append(_metric(f"{key}_std", stdev(values), when, n))
    return metrics


def _last_seen(record: FitRecord) -> float:
    """When a fit ended, or when a killed one last gave a sign of life."""
    return record.ended or (record.history[-1]["time"] if record.history else record.began)


def _metric(key: str, value: float, when: float, step: int) -> Metric:
    return Metric(key, value, _milliseconds(when), step)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _encoder(configuration: dict[str, Any]) -> str:
    return Path(configuration["encoder_weights"]).name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
