"""The paper's own numbers, to be shown beside a study's.

Source: Zhao, Zhou: Introducing Fast Fourier Convolutions into Anomaly Detection, Sensors 2025,
25(16), 5196 (CC BY 4.0), Tables 2-16; `paper_numbers.csv` has the rows and columns of FFC-AD. One
seed, chosen and reported on the test split, no spread given.
"""

import csv
import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ffcad.config import TrainConfig

SOURCE = (
    "Zhao & Zhou, Sensors 2025, 25(16), 5196 (CC BY 4.0): one seed, chosen and reported on the "
    "test split"
)
# What tells the rows of Tables 12-16 apart, and the loss, which is one in all of them (Eq. 2) and
# another in the closest published design. Other knobs, the learning rate among them, are not given.
VARIED = (
    "ffc_layers",
    "global_ratio",
    "ffc_encoder",
    "ffc_autoencoder",
    "hsas",
    "hsas_probability",
    "optimizer",
    "reconstruction_loss",
)
# Those of them that say how a network is trained: where all cells have the same one, and another
# than the paper, the paper's rows still ask what the cells ask.
TRAINING = ("optimizer", "reconstruction_loss")
ABLATIONS = ("12", "13", "14", "15", "16")
# Tables 2-9 give one metric each, per category.
CATEGORY_TABLES = ("2", "3", "4", "5", "6", "7", "8", "9")
AVERAGE = "average"
COUNTS = ("parameters_millions", "macs_billions")


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables.

    Attributes:
        table: its number.
        dataset: mvtec or visa.
        name: of the row; in Tables 2-9 a category.
        knobs: what it sets differently from the paper's default.
        values: metric -> share in [0, 1]; parameters in millions, multiply-accumulates in billions.
    """

    table: str
    dataset: str
    name: str
    knobs: dict[str, object]
    values: dict[str, float]

    def is_of(self, config: TrainConfig) -> bool:
        """Whether a configuration has the row's values in the knobs that the paper varies."""
        return _identity(TrainConfig.from_dict(self.knobs)) == _identity(config)


@functools.cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All rows, in the order of the tables."""
    with files("study").joinpath("paper_numbers.csv").open(encoding="utf-8") as f:
        lines = list(csv.DictReader(line for line in f if not line.startswith("#")))
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for line in lines:
        row = (line["table"], line["dataset"], line["row"], line["knobs"])
        scale = 1 if line["metric"] in COUNTS else 100
        # As it was printed, without what the division leaves in the last digits.
        found.setdefault(row, {})[line["metric"]] = round(float(line["value"]) / scale, 6)
    return tuple(
        PaperRow(table, dataset, name, _knobs(text), values)
        for (table, dataset, name, text), values in found.items()
    )


def table_rows(*tables: str) -> list[PaperRow]:
    """The rows of some tables."""
    return [row for row in paper_rows() if row.table in tables]


def ablation_row(config: TrainConfig) -> PaperRow | None:
    """The row of Tables 12-16 that a configuration is, in the knobs that they vary; None if none.

    The default is a row of all of them, with the same values.
    """
    return next((row for row in table_rows(*ABLATIONS) if row.is_of(config)), None)


def other_training(configs: Sequence[TrainConfig]) -> dict[str, Any]:
    """How several configurations are all trained, where it is otherwise than the paper's default:
    knob -> value. Empty for a single one: alone it is the paper's row, or none."""
    if len(configs) < 2:
        return {}
    values = {name: {getattr(config, name) for config in configs} for name in TRAINING}
    common = {name: found.pop() for name, found in values.items() if len(found) == 1}
    return {k: v for k, v in common.items() if v != getattr(TrainConfig(), k)}


def as_trained_in_the_paper(config: TrainConfig, other: Iterable[str]) -> TrainConfig:
    """A configuration with the paper's default in knobs that `other_training` names."""
    return dataclasses.replace(config, **{name: getattr(TrainConfig(), name) for name in other})


def is_default(config: TrainConfig) -> bool:
    """Whether a configuration is the paper's default in the knobs that the paper varies."""
    return _identity(config) == _identity(TrainConfig())


def _identity(config: TrainConfig) -> str:
    plain = config.canonical()
    return TrainConfig(**{name: getattr(plain, name) for name in VARIED}).digest()


def _knobs(text: str) -> dict[str, object]:
    """'hsas=2d;hsas_probability=0.1' -> values; what is no JSON is a word."""
    knobs = {}
    for part in filter(None, text.split(";")):
        name, _, value = part.partition("=")
        try:
            knobs[name] = json.loads(value)
        except json.JSONDecodeError:
            knobs[name] = value
    return knobs
