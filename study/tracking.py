"""Ledger -> MLflow, by one writer: a thread of the driver, or `python -m study sync` afterwards.

    experiment                      the study
      run  level=study              the study: question, counts, best objective, results.csv,
                                  report (`python -m study report`)
        run  level=encoder          an encoder that it needs: agreement over iterations, card
        run  level=configuration    a configuration: mean, deviation and worst over its cases
          run  level=fit            a fit: parameters, metrics over iterations, data, system
                                    metrics, checkpoint, pictures

Every run is found by its tags before it is created, and carries a digest of what was written into
it, so writing twice changes nothing and a stopped server costs nothing but delay. What a run
holds is said in `study/study_content.py` and `study/fit_content.py`, how it is written in
`study/mlflow_runs.py`; here is said which runs there are, and which of them changed.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from study.config import StudyConfig
from study.encoder_content import EncoderContents
from study.fit_content import FitContentBuilder
from study.ledger import FitRecord, Ledger, LedgerError
from study.mlflow_runs import ExperimentRuns
from study.outcomes import Outcome, outcomes
from study.own_fits import OwnFits
from study.run_content import RunContent
from study.storage import Storage
from study.study_content import StudyContentBuilder
from study.trials import StudyFolder, TrialRecord

logger = logging.getLogger(__name__)


class Mirror:
    """Writes one study's records into MLflow.

    Args:
        config: the study.
        connect_seconds: how long one request to a server may take.
        rest: called after each run that was written, with the processor seconds that it took; what
            it raises ends the writing.
    """

    def __init__(
        self,
        config: StudyConfig,
        connect_seconds: int = 30,
        rest: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        self.config = config
        storage = Storage(config.storage)
        self.ledger = Ledger(storage)
        self.folder = StudyFolder(storage, config.name)
        self.builder = StudyContentBuilder(config)
        self.fit_builder = FitContentBuilder(config, self.ledger)
        self.encoders = EncoderContents(config, storage)
        self.experiment = ExperimentRuns(config, storage, connect_seconds, rest)
        self.fits = OwnFits(self.ledger, config.name, self._say)
        # Of each run the records that it was last written from, and of each configuration what was
        # written; configurations of which a driver expects nothing more.
        self._sources: dict[tuple[str, str], tuple] = {}
        self._contents: dict[str, RunContent] = {}
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
            if self.experiment.client is None:
                self._connect()
            return self._sync(live)
        except Exception:
            # Nobody knows what was still written, or whether it is the same server that comes back.
            self.experiment.client = None
            raise

    def keep_report(self, folder: Path, files: list[Path]) -> None:
        """Copies a report's files, which are below a folder, to the study's run; those of an
        earlier report are replaced."""
        self.sync(live=False)  # The run may not be there yet.
        run = self.experiment.runs["study", self.config.name]
        for file in files:
            place = ("report", *file.parent.relative_to(folder).parts)
            self.experiment.client.log_artifact(run.id, str(file), "/".join(place))

    def _connect(self) -> None:
        """Finds what MLflow has of the study; all of it is compared anew."""
        try:
            self.builder.document = self.folder.read_document()
        except LedgerError as e:
            self._say([str(e)])
        self._sources, self._settled = {}, set()
        self.experiment.connect(self.builder.document.get("id") or self.folder.study_id())

    def _sync(self, live: bool) -> int:
        trials, unreadable = self.folder.read_trials()
        self._say(unreadable.values())
        groups = outcomes(trials, len(self.config.cases))
        study = ("study", self.config.name)
        runs = self.experiment.runs
        if study not in runs:
            self.experiment.create(self.builder.study(trials, groups, self._contents, live))
        written, encoders = self._write_encoders(trials, runs[study].id, live)
        open_groups = [g for g in groups if not (live and g.first.digest in self._settled)]
        records = [self.fits.records(group) for group in open_groups]
        owners = self._owners(groups)
        for group, of_group in zip(open_groups, records, strict=True):
            written += self._write_outcome(group, of_group, owners, live)
        expected = {("configuration", group.first.digest) for group in groups}
        passed_over = self.fits.passed_over
        expected |= {("fit", key) for key, by in owners.items() if key not in passed_over[by]}
        expected |= encoders
        if not unreadable:
            written += self._retire(runs.keys() - expected - {study})
        if not live:
            # What an earlier driver left running and no readable record speaks of.
            written += sum(self.experiment.close(i) for i in runs.keys() - {study})
        sources = (*trials, live, *self._contents.values())
        if not self._is_same(study, sources):
            written += self.experiment.write(
                self.builder.study(trials, groups, self._contents, live)
            )
            self._sources[study] = sources
        return written

    def _write_encoders(
        self, trials: list[TrialRecord], parent: str, live: bool
    ) -> tuple[int, set[tuple[str, str]]]:
        """Writes the encoders that the study needs; how many were written, and all of them, those
        too whose cards cannot be read or are no more."""
        records, keys, wrong = self.encoders.records(trials, self.builder.document)
        self._say(wrong)
        written = 0
        for record in records:
            identity, sources = ("encoder", record.key), (record, live)
            if not self._is_same(identity, sources):
                written += self.experiment.write(self.encoders.content(record, parent, live))
                self._sources[identity] = sources
        return written, {("encoder", key) for key in keys}

    def _owners(self, groups: list[Outcome]) -> dict[str, str]:
        """Fit -> the configuration whose run it is below. It has one run, even where two differ in
        nothing that counts: below the first one that came to it."""
        passed_over, owners = self.fits.passed_over, {}
        for group in groups:
            digest = group.first.digest
            for case in group.cases:
                owner = owners.setdefault(case.key, digest)
                if case.key in passed_over[owner] and case.key not in passed_over[digest]:
                    owners[case.key] = digest
        return owners

    def _write_outcome(
        self, outcome: Outcome, records: list[FitRecord], owners: dict[str, str], live: bool
    ) -> int:
        """Writes a configuration and its fits."""
        digest = outcome.first.digest
        identity, sources = ("configuration", digest), (*outcome.trials, *records, live)
        written = 0
        if not self._is_same(identity, sources):
            parent = self.experiment.runs["study", self.config.name].id
            content = self.builder.configuration(outcome, records, parent, live)
            written += self.experiment.write(content)
            self._contents[digest] = content
            self._sources[identity] = sources
        decided = {case.key: trial.decided for trial in outcome.trials for case in trial.cases}
        for record in records:
            if owners[record.key] != digest:
                continue
            fit, of_fit = ("fit", record.key), (record, decided[record.key], live)
            if not self._is_same(fit, of_fit):
                at_work = live and not decided[record.key]
                parent = self.experiment.runs[identity].id
                content = self.fit_builder.fit(record, parent, outcome.first.number, at_work)
                written += self.experiment.write(content)
                self._sources[fit] = of_fit
        complete = len(outcome.cases) >= len(self.config.cases)
        if complete and all(trial.decided for trial in outcome.trials):
            self._settled.add(digest)
        return written

    def _retire(self, left_behind: Iterable[tuple[str, str]]) -> int:
        """Marks runs of what is no part of the study: it was asked before the study was extended to
        another question, or it was finished by others and no trial came to it."""
        written = 0
        for identity in left_behind:
            if self.experiment.retire(identity):
                self._sources.pop(identity, None)
                written += 1
        return written

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
