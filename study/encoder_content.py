"""What MLflow's run of an encoder's making holds, as data: nothing here writes."""

from typing import Any

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from ffcad.config import TrainConfig
from study.config import StudyConfig
from study.encoder_needs import of_space
from study.encoders import CARD, EncoderRecord, EncoderStore
from study.inputs import Inputs
from study.ledger import BEGUN, FINISHED, last_seen
from study.run_content import STATUSES, RunContent, metrics_at, texts
from study.storage import Storage
from study.trials import RETIRED, TrialRecord


class EncoderContents:
    """The runs of the encoders that one study needs.

    Args:
        config: the study.
        storage: holds them.
    """

    def __init__(self, config: StudyConfig, storage: Storage) -> None:
        self.config, self.store = config, EncoderStore(storage)
        self._finished: dict[str, EncoderRecord] = {}
        # Of configurations by their digests, and of the space.
        self._keys: dict[str, str | None] = {}
        self._of_space: list[str] | None = None

    def records(
        self, trials: list[TrialRecord], document: dict[str, Any]
    ) -> tuple[list[EncoderRecord], list[str], list[str]]:
        """The cards that are there of what the study needs, the keys of all that it needs, and a
        line for each unreadable card.

        Args:
            trials: of the study.
            document: the study's, with the digests of its inputs.
        """
        given = document.get("inputs", {})
        if not given.get("makings"):
            return [], [], []
        inputs = Inputs.from_dict(given)
        used = {self._key(t, inputs) for t in trials if t.state != RETIRED} - {None}
        if self._of_space is None:
            self._of_space = list(of_space(self.config.search_space(), inputs) or ())
        keys = list(dict.fromkeys([*self._of_space, *sorted(used)]))
        # A finished one does not change, and on an object store each look is a request.
        known, wrong = self.store.read_all([key for key in keys if key not in self._finished])
        self._finished |= {r.key: r for r in known if r.status == FINISHED}
        found = {**{r.key: r for r in known}, **self._finished}
        # What another study makes is its own affair until it is finished, and used here.
        own = self.config.name
        return (
            [
                found[key]
                for key in keys
                if key in found
                and (found[key].study == own or (found[key].status == FINISHED and key in used))
            ],
            keys,
            wrong,
        )

    def content(self, record: EncoderRecord, parent: str, live: bool) -> RunContent:
        """An encoder's run.

        Args:
            record: its card.
            parent: the id of the study's run.
            live: whether a driver is at work.
        """
        status = STATUSES.get(record.status, "RUNNING" if live else "KILLED")
        if record.status == BEGUN and record.error and not live:
            status = "FAILED"
        reused = record.study != self.config.name
        tags = {
            "encoder": record.key,
            "method": record.recipe["method"],
            "teacher": record.teacher or "none",
            "corpus": record.corpus,
            "weights": record.weights or "none",
            "git_sha": record.environment.get("git_sha") or "none",
            "sittings": str(len(record.sittings)),
        }
        if record.error:
            tags["error"] = record.error
        if reused:
            tags["reused_from"] = record.study
        if record.notes:
            # Shown by MLflow as the run's description.
            tags[MLFLOW_RUN_NOTE] = "\n".join(f"- {note}" for note in record.notes)
        knobs = {**record.architecture, **record.recipe}
        return RunContent(
            level="encoder",
            identity=record.key,
            name=f"encoder: {record.need}",
            parent=parent,
            began=record.began,
            ended=last_seen(record),
            status=status,
            params=texts(knobs),
            metrics=_metrics(record, totals=status != "RUNNING"),
            tags=tags,
            files=[f"{self.store.folder(record.key)}/{CARD}"],
        )

    def _key(self, trial: TrialRecord, inputs: Inputs) -> str | None:
        if trial.digest not in self._keys:
            need = inputs.encoder_need(TrainConfig.from_dict(trial.configuration))
            self._keys[trial.digest] = need and need.key
        return self._keys[trial.digest]


def _metrics(record: EncoderRecord, totals: bool) -> list[Metric]:
    """All evaluations; at the end the finished encoder's figures, whose norms were set anew."""
    metrics = []
    for entry in record.history:
        names = [k for k, v in entry.items() if k not in ("iteration", "time") and v is not None]
        metrics += metrics_at({k: entry[k] for k in names}, entry["time"], entry["iteration"])
    if totals:
        figures = {f"final_{key}": value for key, value in record.figures.items()}
        figures |= {"seconds": record.seconds, "peak_memory_mb": record.peak_memory_mb}
        metrics += metrics_at(figures, last_seen(record), record.iteration)
    return metrics
