"""What this machine keeps of a study outside its storage; all of it may be deleted."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from ffcad.datasets.cache import default_cache, digest_of
from study.config import StudyConfig
from study.costs import Estimate
from study.inputs import Inputs
from study.ledger import LedgerError, read_document, write_document
from study.storage import Storage, StorageError


def journal_path(config: StudyConfig) -> Path:
    """Where this machine keeps Optuna's study while it is run."""
    return _path("optuna", config, "journal")


def keep_estimate(config: StudyConfig, inputs: Inputs, found: Estimate) -> None:
    """Keeps what a dry run found, which leaves the storage as it is, until the study begins.

    Args:
        config, inputs: the study, as it was asked for.
        found: what it will cost.
    """
    path = _path("estimates", config, "json")
    document = {"question": _question(config, inputs), "estimate": found.to_dict()}
    write_document(Storage(path.parent), path.name, document)


def kept_estimate(config: StudyConfig, inputs: Inputs) -> dict[str, Any] | None:
    """What the last dry run of the same study on this machine found, as `Estimate.to_dict` gives
    it; None where there was none, or it asked something else."""
    path = _path("estimates", config, "json")
    try:
        document = read_document(Storage(path.parent), path.name, dict)
    except (OSError, LedgerError, StorageError):
        return None
    return document["estimate"] if document["question"] == _question(config, inputs) else None


def _question(config: StudyConfig, inputs: Inputs) -> str:
    """A digest of what the cost of a study depends on."""
    workers = (config.cpus_per_trial, config.gpus_per_trial, config.max_concurrent)
    # What an estimate holds too, so that another version's is not taken for one.
    holds = [field.name for field in fields(Estimate)]
    asked = [config.asked(), inputs.contents(), config.num_trials, config.draws, workers]
    return digest_of([*asked, holds])


def _path(kind: str, config: StudyConfig, ending: str) -> Path:
    storage = digest_of(Storage(config.storage).where)[:8]
    return default_cache() / kind / storage / f"{config.name}.{ending}"
