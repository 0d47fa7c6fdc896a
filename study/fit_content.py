"""What MLflow's run of a fit holds."""

import json

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE

from study.config import StudyConfig
from study.ledger import (
    BEGUN,
    BEST_CHECKPOINT,
    CHECKPOINT,
    FINISHED,
    PICTURES,
    STOPPED,
    FitRecord,
    Ledger,
    last_seen,
)
from study.run_content import STATUSES, RunContent, encoder, metrics_at, since, texts
from study.wording import splits_explained

SPLITS = ("train", "select", "report")
# MLflow's limit for the digest of a data set.
DIGEST_LENGTH = 36


class FitContentBuilder:
    """Makes the contents of the runs of one study's fits.

    Args:
        config: the study.
        ledger: of its fits.
    """

    def __init__(self, config: StudyConfig, ledger: Ledger) -> None:
        self.config, self.ledger = config, ledger

    def fit(self, record: FitRecord, parent: str, trial: int, live: bool) -> RunContent:
        """A fit's run.

        Args:
            record: the fit's.
            parent: the id of its configuration's run.
            trial: the number of that configuration's first trial.
            live: whether somebody works at it if it has only begun.
        """
        reused = record.study != self.config.name
        status = STATUSES.get(record.status, "RUNNING" if live else "KILLED")
        if record.status == BEGUN and record.error and not live:
            status = "FAILED"
        checkpoint, tags = self._checkpoint(record, reused)
        files = [*checkpoint, *(self._name(record, name) for name in PICTURES)]
        # Pictures of one that is not finished are another study's, which finished it afterwards.
        own_files = record.status == FINISHED and not reused
        environment = record.environment
        return RunContent(
            level="fit",
            identity=record.key,
            # In this order, because MLflow's list cuts long names.
            name=f"{record.category}-seed{record.seed} trial-{trial:03d}",
            parent=parent,
            began=record.began,
            ended=last_seen(record),
            status=status,
            params=texts(record.configuration),
            metrics=_fit_metrics(record, reused, totals=status != "RUNNING"),
            tags={
                "fit_key": record.key,
                "configuration": record.digest,
                "category": record.category,
                "seed": str(record.seed),
                "select_on": record.select_on,
                "encoder": encoder(record.configuration, [record]),
                # Of the weights that were really used.
                "encoder_digest": record.inputs.get("encoder") or "none",
                "stopped_early": json.dumps(record.status == STOPPED),
                **texts({name: environment.get(name) for name in ("git_sha", "git_dirty")}),
                "sittings": str(len(record.sittings)),
                **tags,
                **({"error": record.error} if record.error else {}),
                **({"reused_from": record.study} if reused else {}),
                # Shown by MLflow as the run's description.
                MLFLOW_RUN_NOTE: _description(record),
            },
            datasets=_datasets(record, self.config),
            documents={"config.json": json.dumps(record.configuration, indent=2)},
            files=files if own_files else [],
        )

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


def _fit_metrics(record: FitRecord, reused: bool, totals: bool) -> list[Metric]:
    """The points of a fit's metrics; of a fit of another study only the last ones.

    Args:
        record: the fit's.
        reused: whether another study did it.
        totals: whether to add what has grown until the fit ended.
    """
    history = record.history[-1:] if reused else record.history
    metrics = []
    for entry in history:
        figures = {
            key: value
            for key, value in entry.items()
            if key == "loss" or key.startswith(("select_", "report_"))
        }
        metrics += metrics_at(figures, entry["time"], entry["iteration"])
    if totals and history:
        figures = {k: getattr(record, k) for k in ("seconds", "writing_seconds", "peak_memory_mb")}
        metrics += metrics_at(figures, last_seen(record), record.iteration)
    # Seconds as steps: samples are thinned out in a long fit, and their numbers change with that.
    for sample in [] if reused else record.system:
        figures = {f"system/{name}": value for name, value in sample.items() if name != "time"}
        metrics += metrics_at(figures, sample["time"], since(record.began, sample["time"]))
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


def _description(record: FitRecord) -> str:
    """What one should know who sees a fit's run first, and what is special about it."""
    lines = [
        f"The configuration of the run above, trained on {record.category} with seed "
        f"{record.seed}. The steps of its metrics are iterations.",
        splits_explained(record.select_on),
        "`worst.png` and `best.png` show the report split's cases with their anomaly maps.",
        *(f"- {note}" for note in record.notes),
    ]
    return "\n\n".join(lines)
