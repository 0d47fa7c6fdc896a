"""Ledger -> MLflow, by one writer: a thread of the driver, or `python -m study sync` afterwards.

    experiment                      the study
      run  level=study              the study: question, counts, best objective, results.csv
        run  level=encoder          an encoder that it needs: agreement over iterations, card
        run  level=configuration    a configuration: mean, deviation and worst over its cases
          run  level=fit            a fit: parameters, metrics over iterations, data, system
                                    metrics, checkpoint, pictures

Every run is found by its tags before it is created, and carries a digest of what was written into
it, so writing twice changes nothing and a stopped server costs nothing but delay. What a run
holds is said in `study/run_content.py`; here runs are found, created, written, closed and retired.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from study.config import StudyConfig
from study.encoder_content import EncoderContents
from study.ledger import FINISHED, FitRecord, Ledger, LedgerError
from study.run_content import ContentBuilder, RunContent, milliseconds, point, table_row
from study.storage import Storage
from study.trials import Outcome, StudyFolder, TrialRecord, outcomes

# MLflow's limits for one call, and for the lengths of what is written.
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
# Tags that a run may lose again, and the beginning of those for parameters that have changed.
PASSING_TAGS = {"error", "reused_from", "retired", "checkpoint_iteration", MLFLOW_RUN_NOTE}
CHANGED_PARAM = "param."

logger = logging.getLogger(__name__)


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
        rest: called after each run that was written, with the seconds that it took.
    """

    def __init__(
        self,
        config: StudyConfig,
        connect_seconds: int = 30,
        rest: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        # A server that is down is asked again at the next round, not in the middle of this one; and
        # a request to create a run, sent again because its answer was lost, would create two.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(connect_seconds))
        self.config, self.rest = config, rest
        self.storage = Storage(config.storage)
        self.ledger = Ledger(self.storage)
        self.folder = StudyFolder(self.storage, config.name)
        self.builder = ContentBuilder(config, self.ledger)
        self.encoders = EncoderContents(config, self.storage)
        self.client: MlflowClient | None = None
        self.experiment = ""
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
            self._create(self.builder.study(trials, groups, self._rows, live))
        written, encoders = self._write_encoders(trials, self.runs[study].id, live)
        owners: dict[str, str] = {}
        for group in groups:
            for case in group.cases:
                # A fit has one run, even where two configurations differ in nothing that counts.
                owners.setdefault(case.key, group.first.digest)
        written += sum(self._write_outcome(group, owners, live) for group in groups)
        expected = {("configuration", group.first.digest) for group in groups}
        expected |= {("fit", key) for key in owners} | encoders
        if not unreadable:
            written += self._retire(self.runs.keys() - expected - {study})
        if not live:
            written += self._close(self.runs.keys() - {study})
        sources = (*trials, live, *self._rows.values())
        if not self._is_same(study, sources):
            written += self._write(self.builder.study(trials, groups, self._rows, live))
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
            self.builder.document = self.folder.read_document()
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

    def _write_encoders(
        self, trials: list[TrialRecord], parent: str, live: bool
    ) -> tuple[int, set[tuple[str, str]]]:
        """Writes the encoders that the study needs; how many were written, and all of them."""
        records, wrong = self.encoders.records(trials, self.builder.document)
        self._say(wrong)
        written = 0
        for record in records:
            identity, sources = ("encoder", record.key), (record, live)
            if not self._is_same(identity, sources):
                written += self._write(self.encoders.content(record, parent, live))
                self._sources[identity] = sources
        return written, {("encoder", record.key) for record in records}

    def _write_outcome(self, outcome: Outcome, owners: dict[str, str], live: bool) -> int:
        """Writes a configuration and its fits."""
        digest = outcome.first.digest
        if live and digest in self._settled:
            return 0
        records = self._records(outcome)
        identity, sources = ("configuration", digest), (*outcome.trials, *records, live)
        written = 0
        if not self._is_same(identity, sources):
            parent = self.runs["study", self.config.name].id
            content = self.builder.configuration(outcome, records, parent, live)
            written += self._write(content)
            self._rows[digest] = table_row(outcome, content)
            self._sources[identity] = sources
        decided = {case.key: trial.decided for trial in outcome.trials for case in trial.cases}
        for record in records:
            if owners[record.key] != digest:
                continue
            fit, of_fit = ("fit", record.key), (record, decided[record.key], live)
            if not self._is_same(fit, of_fit):
                at_work = live and not decided[record.key]
                written += self._write(self.builder.fit(record, self.runs[identity].id, at_work))
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
        started = time.perf_counter()
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
            ended = None if content.ended is None else milliseconds(content.ended)
            self.client.set_terminated(run.id, content.status, end_time=ended)
            # It will not grow any more; should it, MLflow ignores what it has.
            run.sent.clear()
        run.status = content.status
        # Last, so that whatever failed before is done again.
        self._tag(run, {"written": digest})
        self.rest(time.perf_counter() - started)
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
            start_time=milliseconds(content.began),
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
        new = [metric for metric in content.metrics if point(metric) not in run.sent]
        for part in _parts(new, MOST_METRICS):
            self.client.log_batch(run.id, metrics=part)
            run.sent |= {point(metric) for metric in part}
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


def _known(run: Run) -> KnownRun:
    return KnownRun(
        id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def _parts(items: list, most: int) -> list[list]:
    return [items[start : start + most] for start in range(0, len(items), most)]
