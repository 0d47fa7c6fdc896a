"""What MLflow's runs of a study and of its configurations hold."""

import csv
import io
import json
import time
from collections.abc import Iterable
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from optuna.distributions import json_to_distribution

from study.config import StudyConfig
from study.ledger import FAILED, FINISHED, STOPPED, FitRecord, last_seen
from study.outcomes import Outcome
from study.run_content import STATUSES, RunContent, encoder, metrics_at, since, texts
from study.trials import BOOKKEEPING, TrialRecord
from study.wording import caveats, cell_names, settings, splits_explained, varying_knobs

# The tag of all runs that says which code made their numbers.
GIT_SHA = "git_sha"


class StudyContentBuilder:
    """Makes the contents of the runs of one study and of its configurations.

    Args:
        config: the study.

    Attributes:
        document: the study's document as it was last read; empty if it never was.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.document: dict[str, Any] = {}

    def study(
        self,
        trials: list[TrialRecord],
        groups: list[Outcome],
        contents: dict[str, RunContent],
        live: bool,
    ) -> RunContent:
        """The study's run.

        Args:
            trials: all that can be read.
            groups: the configurations that they make.
            contents: a configuration's digest -> what its run holds.
            live: whether a driver is at work.
        """
        began = min((t.began for t in trials), default=time.time())
        extended = self._extended()
        seen = [t.ended or t.began for t in trials]
        when = max([*seen, *extended], default=began)
        current = [t for group in groups for t in group.trials]
        decided = [t for t in current if t.decided]
        figures = _counts(decided, groups) if decided or extended else {}
        asked = {k: v for k, v in self.document.items() if k not in BOOKKEEPING}
        documents = {"study.json": json.dumps(asked, indent=2)} if asked else {}
        known = [(g, contents[g.first.digest]) for g in groups if g.first.digest in contents]
        if groups:
            documents["results.csv"] = _table([_row(g, c) for g, c in known])
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
            params=_asked(self.config),
            # Seconds as steps: after an extension fewer trials are decided than before, and what
            # MLflow shows of a metric is its latest step.
            metrics=metrics_at(figures, when, since(began, when)),
            tags={
                "question": self.config.question,
                "select_on": self.config.select_on,
                "extended": str(len(extended)),
                **_revisions(sha for _, c in known for sha in c.tags.get(GIT_SHA, "").split(",")),
                MLFLOW_RUN_NOTE: self._description(groups),
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
        metrics = metrics_at(_aggregates(finished), when, since(first.began, when))
        if outcome.value is not None:
            when = max(trial.ended for trial in trials)
            value = metrics_at({"objective": outcome.value}, when, since(first.began, when))
            metrics = value + metrics  # MLflow's comparison shows the one that was written first.
        cell = self._cells.get(first.digest)
        errors = [trial.error for trial in trials if trial.error]
        return RunContent(
            level="configuration",
            identity=first.digest,
            name=f"trial-{first.number:03d}{f' {cell}' if cell else ''}",
            parent=parent,
            began=first.began,
            ended=max([*(t.ended or t.began for t in trials), *(last_seen(r) for r in records)]),
            status=STATUSES.get(outcome.state, "RUNNING" if live else "KILLED"),
            params=texts(first.configuration),
            metrics=metrics,
            tags={
                "configuration": first.digest,
                "trials": ",".join(str(trial.number) for trial in trials),
                "select_on": self.config.select_on,
                "encoder": encoder(first.configuration, records),
                "stopped_early": json.dumps(outcome.state == STOPPED),
                **_revisions(record.environment.get(GIT_SHA) for record in records),
                **({"cell": cell} if cell else {}),
                MLFLOW_RUN_NOTE: self._configuration_note(outcome),
                **({"error": errors[0]} if errors else {}),
            },
        )

    @cached_property
    def _cells(self) -> dict[str, str]:
        return cell_names(self.config)

    def _configuration_note(self, outcome: Outcome) -> str:
        """What MLflow shows beside a configuration's figures."""
        said = ", ".join(settings(outcome.first, list(outcome.first.drawn)))
        n = len(outcome.cases)
        over = f"Over {n} case{'s' * (n > 1)}, a run each below this one: `_mean`, `_std` (standard"
        lines = [said, f"{over} deviation) and `_worst` of each metric."]
        return "\n\n".join([*lines, splits_explained(self.config.select_on)])

    def _description(self, groups: list[Outcome]) -> str:
        """What MLflow shows beside a study's figures: question, answer so far, limits."""
        lines = [f"**{self.config.question}**"]
        finished = [group for group in groups if group.state == FINISHED]
        if finished:
            best = max(finished, key=lambda group: group.value)
            varying = varying_knobs([group.first for group in groups])
            said = self._cells.get(best.first.digest) or ", ".join(settings(best.first, varying))
            lines.append(
                f"Best of {len(finished)} finished: trial {best.first.number} with "
                f"{self.config.objective} {best.value:.4f} ({said})."
            )
        trials = [trial for group in groups for trial in group.trials]
        lines.append(
            " ".join([*caveats(self.config, trials), splits_explained(self.config.select_on)])
        )
        return "\n\n".join(lines)

    @cached_property
    def _wanted_trials(self) -> int:
        """How many trials make the study complete; a grid has one for each cell on each case."""
        if not self.config.cells:
            return self.config.num_trials
        return len(self.config.search_space().distinct_cells()) * len(self.config.cases)

    def _extended(self) -> list[float]:
        """When the study was extended to another question."""
        return [step["when"] for step in self.document.get("extended", [])]


def _asked(config: StudyConfig) -> dict[str, str]:
    """What a study asks, as a run's parameters: of what is searched one for each knob."""
    asked = config.asked()
    searched = {
        f"{group}.{name}": repr(json_to_distribution(text))
        for group in ("search", "nuisance")
        for name, text in asked.pop(group, {}).items()
    }
    fixed = {f"fixed.{name}": value for name, value in asked.pop("fixed").items()}
    return texts(searched | fixed | asked)


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


def _aggregates(finished: list[FitRecord]) -> dict[str, float]:
    """Mean, deviation and worst over the finished cases, of the metrics that all of them have."""
    if not finished:
        return {}
    figures: dict[str, float] = {}
    for key in sorted(set.intersection(*(set(r.metrics) for r in finished))):
        values = [r.metrics[key] for r in finished]
        figures[f"{key}_mean"] = fmean(values)
        figures[f"{key}_worst"] = min(values)
        if len(values) > 1:
            figures[f"{key}_std"] = stdev(values)
    return {**figures, "cases": len(finished)}


def _revisions(shas: Iterable[str | None]) -> dict[str, str]:
    """The tag of the git revisions that made a run's fits; none where nobody knows one."""
    known = dict.fromkeys(sha for sha in shas if sha)
    return {GIT_SHA: ",".join(known)} if known else {}


def _row(outcome: Outcome, content: RunContent) -> dict[str, Any]:
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
