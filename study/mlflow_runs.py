"""MLflow's experiment of a study: its runs are found, created, written, closed and retired."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag, SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from study.config import StudyConfig
from study.mlflow_places import experiment_id, make_database
from study.mlflow_reach import set_up_client
from study.run_content import RunContent, milliseconds, point
from study.storage import Storage

# MLflow's limits for one call, and for the lengths of what is written.
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
# Tags that a run may lose again, and the beginning of those for parameters that have changed.
PASSING_TAGS = {"error", "reused_from", "retired", "checkpoint_iteration", MLFLOW_RUN_NOTE}
CHANGED_PARAM = "param."


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


class ExperimentRuns:
    """One study's runs, in MLflow.

    Args:
        config: the study.
        storage: where the runs' files are.
        connect_seconds: how long one request to a server may take.
        rest: called after each run that was written, with the processor seconds that it took.

    Attributes:
        client: of MLflow; None while nobody knows what MLflow has.
        id: the experiment's.
        runs: (level, identity) -> run.
    """

    def __init__(
        self,
        config: StudyConfig,
        storage: Storage,
        connect_seconds: int,
        rest: Callable[[float], Any],
    ) -> None:
        set_up_client()
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(connect_seconds))
        self.config, self.storage, self.rest = config, storage, rest
        self.client: MlflowClient | None = None
        self.id = ""
        self.runs: dict[tuple[str, str], KnownRun] = {}

    def connect(self, study_id: str | None) -> None:
        """Finds the experiment, or makes it, and all of its runs.

        Args:
            study_id: of the study's document; None where it has none.
        """
        uri = self.config.mlflow_uri
        make_database(uri)
        client = MlflowClient(uri)
        self.id = experiment_id(
            client,
            uri,
            self.config.name,
            self.config.local_folder,
            study_id=study_id,
            note=self.config.question,
        )
        self.runs = {}
        token, pages = None, []
        while token or not pages:
            pages.append(client.search_runs([self.id], max_results=1000, page_token=token))
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

    def create(self, content: RunContent) -> KnownRun:
        """Creates a run that has nothing yet but its name and the tags that it is found by."""
        fixed = {
            "level": content.level,
            "identity": content.identity,
            "study": self.config.name,
            MLFLOW_SOURCE_NAME: "study/run.py",
            MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
            **({MLFLOW_PARENT_RUN_ID: content.parent} if content.parent else {}),
        }
        run = self.client.create_run(
            self.id,
            start_time=milliseconds(content.began),
            tags=fixed,
            run_name=content.name,
        )
        known = self.runs[content.level, content.identity] = _known(run)
        self.rest(0.0)
        return known

    def write(self, content: RunContent) -> int:
        """Brings one run up to date; 0 if it is."""
        started = time.thread_time()
        run, digest = self.runs.get((content.level, content.identity)), content.digest()
        if run is not None and run.tags.get("written") == digest:
            return 0
        if run is None:
            run = self.create(content)
        tags = self._log_params(run, content.params) | content.tags
        if content.parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = content.parent
        self._tag(run, tags)
        for name in [*run.tags]:
            if name not in tags and (name in PASSING_TAGS or name.startswith(CHANGED_PARAM)):
                self.client.delete_tag(run.id, name)
                del run.tags[name]
        self._log(run, content)
        copied = 0.0
        if content.status == "RUNNING":
            if run.status != "RUNNING":
                self.client.update_run(run.id, status="RUNNING")
        else:
            copying = time.thread_time()
            self._log_files(run, content.files)
            copied = time.thread_time() - copying
            ended = None if content.ended is None else milliseconds(content.ended)
            self.client.set_terminated(run.id, content.status, end_time=ended)
            # It will not grow any more; should it, MLflow ignores what it has.
            run.sent.clear()
        run.status = content.status
        # Last, so that whatever failed before is done again.
        self._tag(run, {"written": digest})
        # Other threads wait for Python, and not while this one waits for a server or copies files.
        self.rest(time.thread_time() - started - copied)
        return 1

    def retire(self, identity: tuple[str, str]) -> bool:
        """Marks a run of what the study asked before it was extended; False if it is marked."""
        run = self.runs[identity]
        if run.tags.get("retired") == "true":
            return False
        # Written anew if the study ever asks for it again.
        self._tag(run, {"retired": "true", "written": ""})
        self._kill(run)
        return True

    def close(self, identity: tuple[str, str]) -> bool:
        """Ends a run that nobody works at; False if it has ended."""
        run = self.runs[identity]
        if run.status != "RUNNING":
            return False
        self._tag(run, {"written": ""})
        self._kill(run)
        return True

    def _kill(self, run: KnownRun) -> None:
        if run.status == "RUNNING":
            self.client.set_terminated(run.id, "KILLED")
        else:  # It keeps its end.
            self.client.update_run(run.id, status="KILLED")
        run.status = "KILLED"
        self.rest(0.0)

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


def _known(run: Run) -> KnownRun:
    return KnownRun(
        id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def _parts(items: list, most: int) -> list[list]:
    return [items[start : start + most] for start in range(0, len(items), most)]
