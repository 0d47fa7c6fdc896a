"""What a study still has to do, and what goes into its fits; all of it before Ray starts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, load_category, load_textures
from ffcad.encoder_weights import load_encoder_weights, source_digest
from ffcad.model import FrozenEncoder
from ffcad.training import METHOD_VERSION
from study.config import IMAGE_OBJECTIVE, MASK_OBJECTIVE, StudyConfig, StudyError
from study.ledger import FAILED, FINISHED, STOPPED, Inputs
from study.spaces import Space
from study.trials import Case, TrialRecord

# The knobs that the frozen encoder's architecture depends on.
ENCODER_KNOBS = ["ffc_layers", "global_ratio", "ffc_encoder", "local_fourier_unit"]


@dataclass(frozen=True)
class Plan:
    """A study's trials by what is left of them.

    Attributes:
        trials: of earlier sittings, by number.
        wanted: distinct configurations asked for.
    """

    trials: list[TrialRecord]
    wanted: int

    @property
    def begun(self) -> int:
        """Trials that go on."""
        return sum(not record.decided for record in self.trials)

    @property
    def new(self) -> int:
        """Configurations still to be drawn."""
        return max(0, self.wanted - len(self.trials))

    @property
    def left(self) -> int:
        """Trials for Tune."""
        return self.begun + self.new

    def describe(self, cases: int) -> str:
        """One line, for the console."""
        parts = [
            f"{sum(record.state == state for record in self.trials)} {state}"
            for state in (FINISHED, STOPPED, FAILED)
            if any(record.state == state for record in self.trials)
        ]
        parts += [f"{self.begun} begun"] * (self.begun > 0) + [f"{self.new} new"]
        total = len(self.trials) + self.new
        return f"{total} configurations x {cases} case{'s' * (cases != 1)}: {', '.join(parts)}"


def prepare(config: StudyConfig, space: Space) -> tuple[StudyConfig, Inputs, list[str]]:
    """Loads everything that the study will need once, and takes its digests.

    Returns:
        The study with its objective chosen, the digests, and what the user should know of the data.

    Raises:
        StudyError: if the objective needs masks and a category has none.
        DataError: if images or textures cannot be used.
        WeightsError: if weights cannot be read or do not belong to an architecture of the space.
    """
    sizes = sorted(set(space.values_of("image_size")))
    data = {
        (category, size): load_data(config, category, size)
        for size in sizes
        for category in config.categories
    }
    inputs = Inputs(
        data={f"{category}@{size}": d.digest for (category, size), d in data.items()},
        textures={
            str(size): load_textures(Path(config.textures), size).digest
            for size in sizes
            if config.textures
        },
        weights={source: source_digest(source) for source in space.values_of("encoder_weights")},
        method_version=METHOD_VERSION,
    )
    check_weights(space)
    maskless = sorted({category for (category, _), d in data.items() if d.select.masks is None})
    objective = config.objective or (IMAGE_OBJECTIVE if maskless else MASK_OBJECTIVE)
    if maskless and "_pixel_" in objective:
        raise StudyError(
            f"{maskless[0]} has no masks, so there is no {objective}; give --objective "
            f"{IMAGE_OBJECTIVE}"
        )
    notes = [
        f"{category}: {note}"
        for (category, size), d in data.items()
        for note in d.notes
        if size == sizes[0]
    ]
    return dataclasses.replace(config, objective=objective), inputs, notes


def load_data(config: StudyConfig, category: str, image_size: int) -> CategoryData:
    """A category by the study's protocol, as the driver and every worker load it."""
    return load_category(
        config.data,
        None if config.data_root is None else Path(config.data_root),
        category,
        image_size,
        select_on=config.select_on,
        holdout=config.holdout,
        allow_duplicates=config.allow_duplicates,
    )


def cases_of(config: StudyConfig, inputs: Inputs, configuration: TrainConfig) -> tuple[Case, ...]:
    """The cases of a configuration, with the keys of its fits."""
    return tuple(
        Case(category, seed, inputs.fit_key(configuration, category, seed))
        for category, seed in config.cases
    )


def check_weights(space: Space) -> None:
    """Loads each weights file into each architecture that the space can draw.

    Raises:
        WeightsError: if one does not fit.
    """
    tried = set()
    for config in space.corners([*ENCODER_KNOBS, "encoder_weights"]):
        architecture = (config.ffc_layers, config.encoder_ratio, config.local_fourier_unit)
        if config.encoder_weights == "random" or (architecture, config.encoder_weights) in tried:
            continue
        tried.add((architecture, config.encoder_weights))
        load_encoder_weights(FrozenEncoder(config), config.encoder_weights)
