"""What a study is: its question, its cases, its budget, and how it is run."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffcad.config import knobs
from ffcad.datasets import DATA_LAYOUTS, HOLDOUTS, PROTOCOLS
from study.default_places import FOLDER, local_folder, mlflow_file
from study.storage import Storage

if TYPE_CHECKING:  # Workers need no Optuna, which a space brings.
    from study.spaces import Space

LOG_CHECKPOINTS = ("last", "best", "none")
# As GPUs of a trial: the share that the space's largest configuration finds room in.
AUTO = "auto"
# What the paper's ablations call "Loc." (pixel AP) and "Det." (image AUROC): localisation is the
# harder one and tells configurations apart when detection is near its ceiling.
MASK_OBJECTIVE, IMAGE_OBJECTIVE = "select_pixel_ap", "select_image_auroc"
OBJECTIVES = (
    MASK_OBJECTIVE,
    IMAGE_OBJECTIVE,
    "select_image_ap",
    "select_pixel_auroc",
    "select_pixel_aupro",
    "select_pixel_f1_max",
)
# The longest name of a study, and what is added to it by the one that confirms its best.
LONGEST_NAME, CONFIRMING = 100, "-confirm"


class StudyError(ValueError):
    """A study that cannot be run as it was asked for; the message is the user's one line."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study: one question, one data set with its cases, one budget.

    Attributes:
        space: the search space's name.
        question: the first line of its lab card.
        search: knob -> distribution, as Optuna's JSON.
        fixed: knob -> value.
        cells: of a grid: name -> knob -> value; empty for a search.
        reference: the cell that the others are compared with; None takes a grid's first one.
        tables: the paper's, that ask the same.
        nuisance: of a grid: knob tuned within each cell -> distribution, as Optuna's JSON.
        draws: of a grid: configurations per cell, those of earlier sittings counted.
        data: the layout on disk.
        categories: of the data set.
        seeds: each category is fitted once with each.
        select_on, holdout: the protocol.
        objective: the metric that configurations are chosen by, of the select split; None takes
            pixel AP where every category has masks, else image AUROC.
        early_stopping: whether a search's weak trials are stopped.
        sampler_seed: of Optuna's sampler.
        data_root: where the data set is; None for the synthetic one.
        textures: folder of the anomaly source images.
        teacher: ResNet-18 that encoders are made from: 'torchvision', or a file.
        corpus: folders of the images that encoders are made from; empty takes the study's own
            normal training images.
        recipe: knobs of `PretrainConfig` that are not at their defaults; the method is what a
            configuration's `encoder_weights` says.
        allow_duplicates: whether an image may be in two splits.
        name: the study's; from a digest of the question where none was given.
        storage: folder or URI of ledger and studies.
        tracking_uri: MLflow's; None takes a SQLite file on the storage, or, where that is no
            folder, in `runs`.
        num_trials: of a search: distinct configurations, those of earlier sittings counted.
        confirm: fresh seeds on which the best configuration and the default are fitted when the
            study is done; 0 for none.
        retries: how often a trial whose worker died is tried again; lost machines do not count.
        cpus_per_trial, gpus_per_trial, max_concurrent: what runs at once; None asks the machine,
            'auto' measures the memory of a fit and takes a share of a GPU.
        log_checkpoints: which checkpoint of each fit is copied into MLflow: its last one, the one
            of its best evaluation in stage two, or none.

    Raises:
        StudyError: if a value is not allowed.
    """

    space: str
    question: str
    search: dict[str, str]
    fixed: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    reference: str | None = None
    tables: tuple[str, ...] = ()
    nuisance: dict[str, str] = field(default_factory=dict)
    draws: int = 1
    data: str = "synthetic"
    categories: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    select_on: str = "holdout"
    holdout: str = "halves"
    objective: str | None = None
    early_stopping: bool = True
    sampler_seed: int = 0
    data_root: str | None = None
    textures: str | None = None
    teacher: str = "torchvision"
    corpus: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    allow_duplicates: bool = False
    name: str = ""
    storage: str = FOLDER
    tracking_uri: str | None = None
    num_trials: int = 6
    confirm: int = 0
    cpus_per_trial: int = 1
    gpus_per_trial: float | str | None = None
    max_concurrent: int | None = None
    log_checkpoints: str = "last"
    retries: int = 2

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "corpus", tuple(self.corpus))
        object.__setattr__(self, "tables", tuple(self.tables))
        _one_of("--data", self.data, DATA_LAYOUTS)
        _one_of("--select-on", self.select_on, PROTOCOLS)
        _one_of("--holdout", self.holdout, HOLDOUTS)
        if self.objective is not None:
            _one_of("--objective", self.objective, OBJECTIVES)
        _one_of("--log-checkpoints", self.log_checkpoints, LOG_CHECKPOINTS)
        for flag, values in (("--categories", self.categories), ("--seeds", self.seeds)):
            if not values:
                raise StudyError(f"{flag} is empty; give at least one")
            if len(set(values)) < len(values):
                raise StudyError(f"{flag} names one twice: {','.join(map(str, values))}")
        if min(self.seeds) < 0:
            raise StudyError(f"--seeds must be 0 or more but got {min(self.seeds)}")
        _at_least("--num-trials", self.num_trials, 1)
        _at_least("--confirm", self.confirm, 0)
        if self.confirm and self.cells and not self.nuisance:
            raise StudyError(
                "--confirm is for a search or for NUISANCE, where the best of many is chosen; in "
                "this grid nothing is, so give more --seeds"
            )
        _at_least("--retries", self.retries, 0)
        _at_least("--cpus-per-trial", self.cpus_per_trial, 1)
        if self.max_concurrent is not None:
            _at_least("--max-concurrent", self.max_concurrent, 1)
        if self.gpus_per_trial not in (None, AUTO):
            _at_least("--gpus-per-trial", self.gpus_per_trial, 0)
            if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
                raise StudyError(
                    f"--gpus-per-trial above 1 must be a whole number but got {self.gpus_per_trial}"
                )
        if not self.name:
            sources = [self.data_root, self.textures, self.fixed.get("encoder_weights")]
            making = [self.teacher, self.corpus, self.recipe]
            # Left out at their defaults, so that older studies keep their names.
            sources += [making] * (making != ["torchvision", (), {}])
            text = json.dumps([self.asked(), sources], sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            object.__setattr__(self, "name", f"{self.space}-{self.data}-{digest[:6]}")
        longest = LONGEST_NAME - (len(CONFIRMING) if self.confirm else 0)
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{longest - 1}}}", self.name):
            why = f" (with --confirm, whose study adds {CONFIRMING!r})" if self.confirm else ""
            raise StudyError(
                f"--study must be 1 to {longest} letters, digits, dots, dashes or underscores, a "
                f"letter or digit first{why}, but got {self.name!r}"
            )

    @property
    def cases(self) -> list[tuple[str, int]]:
        """(category, seed) in the order in which every trial walks them."""
        return [(category, seed) for seed in self.seeds for category in self.categories]

    @property
    def local_folder(self) -> Path:
        """Where this machine keeps what does not belong on an object store: MLflow's SQLite."""
        return local_folder(Storage(self.storage))

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow is."""
        return self.tracking_uri or mlflow_file(self.local_folder)

    def search_space(self) -> "Space":
        """The space to draw from."""
        from optuna.distributions import json_to_distribution

        from study.spaces import checked

        return checked(
            self.space,
            self.question,
            {name: json_to_distribution(text) for name, text in self.search.items()},
            self.fixed,
            cells=self.cells,
            reference=self.reference,
            tables=self.tables,
            nuisance={name: json_to_distribution(text) for name, text in self.nuisance.items()},
            draws=self.draws,
        )

    def asked(self) -> dict[str, Any]:
        """What makes this study the one that it is: two studies of one name must agree on it.

        Budget, resources and paths may differ between sittings; what the paths hold is compared by
        the digests of the inputs.
        """
        names = knobs()
        fixed = {
            k: v
            for k, v in self.fixed.items()
            if names[k].metadata["numerical"] and k != "encoder_weights"
        }
        # Left out where there is none, so that older studies are the ones that they were.
        nuisance = {"nuisance": dict(sorted(self.nuisance.items()))} if self.nuisance else {}
        stops = self.early_stopping and not self.cells
        # Where a search over one case looks at its trials; no number of a fit depends on it.
        every = self.fixed.get("evaluate_every", names["evaluate_every"].default)
        usual = every == names["evaluate_every"].default
        rungs = {} if usual or not stops or len(self.cases) > 1 else {"evaluate_every": every}
        return {
            **nuisance,
            **rungs,
            "search": dict(sorted(self.search.items())),
            "fixed": dict(sorted(fixed.items())),
            "cells": self.cells,
            "data": self.data,
            "categories": list(self.categories),
            "seeds": list(self.seeds),
            "select_on": self.select_on,
            "holdout": self.holdout,
            "objective": self.objective,
            "early_stopping": stops,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "StudyConfig":
        """What `to_dict` gave, in this version or an earlier one.

        Raises:
            StudyError: if another version wrote it.
        """
        unknown = sorted(set(document) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise StudyError(
                f"study {document.get('name')!r} was written by another version of this project, "
                f"which knows {', '.join(unknown)}; use that version"
            )
        try:
            return cls(**document)
        except TypeError as e:
            raise StudyError(f"study {document.get('name')!r} cannot be read: {e}") from e

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return dataclasses.asdict(self)


def space_fields(space: "Space") -> dict[str, Any]:
    """The fields of a StudyConfig that come from its search space."""
    from optuna.distributions import distribution_to_json

    return {
        "space": space.name,
        "question": space.question,
        "search": {name: distribution_to_json(d) for name, d in space.search.items()},
        "fixed": space.fixed,
        "cells": space.cells,
        "reference": space.reference,
        "tables": space.tables,
        "nuisance": {name: distribution_to_json(d) for name, d in space.nuisance.items()},
        "draws": space.draws,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two documents, one line each; nested ones by their keys."""
    lines = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [f"{key}.{line}" for line in differences(a, b)]
        elif a != b:
            lines.append(f"{key} was {a!r} and is now {b!r}")
    return lines


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StudyError(f"{flag} must be one of {', '.join(allowed)} but got {value!r}")


def _at_least(flag: str, value: float, least: int) -> None:
    if not (math.isfinite(value) and value >= least):
        raise StudyError(f"{flag} must be {least} or more but got {value}")
