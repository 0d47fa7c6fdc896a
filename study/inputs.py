"""What goes into a study's fits: images, textures, weights, and their digests."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffcad.config import TrainConfig
from ffcad.datasets import load_textures
from ffcad.encoder_weights import load_encoder_weights, source_digest
from ffcad.model import FrozenEncoder
from ffcad.pretrain_config import METHODS, EncoderArchitecture, PretrainConfig
from ffcad.training import METHOD_VERSION
from study.config import IMAGE_OBJECTIVE, MASK_OBJECTIVE, StudyConfig, StudyError
from study.data import load_data
from study.encoder_sources import describe_makings
from study.encoders import EncoderNeed, EncoderStore
from study.storage import Storage
from study.trials import Case

if TYPE_CHECKING:  # Workers need no Optuna, which a space brings.
    from study.spaces import Space

# The knobs that the frozen encoder's architecture depends on.
ENCODER_KNOBS = ["ffc_layers", "global_ratio", "ffc_encoder", "local_fourier_unit"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Digests of what goes into a fit besides its configuration and its case.

    Attributes:
        data: 'category@image_size' -> digest of what is trained, selected and reported on.
        textures: image size -> digest of the anomaly source images; empty without any.
        weights: `encoder_weights` value -> digest of the file's content, or the word itself.
        method_version: `ffcad.training.METHOD_VERSION`.
        makings: of encoders that the study makes; see `describe_makings`.
    """

    data: dict[str, str]
    textures: dict[str, str]
    weights: dict[str, str]
    method_version: int
    makings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Inputs":
        """What `dataclasses.asdict` gave, in this version or an earlier one.

        Raises:
            StudyError: if another version wrote it.
        """
        unknown = sorted(set(document) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise StudyError(
                "the digests of the study's inputs were written by another version of this "
                f"project, which knows {', '.join(unknown)}; use that version"
            )
        try:
            return cls(**document)
        except TypeError as e:
            raise StudyError(f"the digests of the study's inputs cannot be read: {e}") from e

    def contents(self) -> dict[str, Any]:
        """What two sittings of a study must agree on: the digests, not where the weights lie."""
        makings = {
            method: {**making, "recipe": PretrainConfig.from_dict(making["recipe"]).used()}
            for method, making in self.makings.items()
        }
        weights = sorted(set(self.weights.values()))
        return {**dataclasses.asdict(self), "weights": weights, "makings": makings}

    def encoder_need(self, config: TrainConfig) -> EncoderNeed | None:
        """The encoder that a configuration has made for it; None if its weights are there."""
        making = self.makings.get(config.encoder_weights)
        if making is None:
            return None
        recipe = PretrainConfig.from_dict(making["recipe"])
        architecture = EncoderArchitecture.of(config)
        return EncoderNeed(recipe, architecture, making["teacher"], making["corpus"])

    def weights_of(self, config: TrainConfig) -> str:
        """What names a configuration's encoder: the key of one that is made, a file's digest, or
        the word itself."""
        need = self.encoder_need(config)
        return self.weights[config.encoder_weights] if need is None else need.key

    def fit_key(self, config: TrainConfig, category: str, seed: int) -> str:
        """Sixteen hexadecimal digits that name a fit on whatever storage and machine.

        The path of the encoder's weights counts for nothing, their content does.
        """
        identity = config.identity()
        identity.pop("encoder_weights", None)
        parts = {
            "configuration": identity,
            "data": self.data[f"{category}@{config.image_size}"],
            "textures": self.textures.get(str(config.image_size)),
            "weights": self.weights_of(config),
            "category": category,
            "seed": seed,
            "method_version": self.method_version,
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare(config: StudyConfig, space: "Space") -> tuple[StudyConfig, Inputs, list[str]]:
    """Loads everything that the study will need once, and takes its digests.

    Returns:
        The study with its objective chosen, the digests, and what the user should know of the data.

    Raises:
        StudyError: if the objective needs masks and a category has none.
        DataError: if images or textures cannot be used.
        WeightsError: if weights cannot be read or do not belong to an architecture of the space.
        CorpusError: if the images that encoders are to be made from cannot be used.
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
        weights={
            source: source if source in METHODS else source_digest(source)
            for source in space.values_of("encoder_weights")
        },
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
    # Last, because it may have to be downloaded.
    makings, more = describe_makings(config, space, EncoderStore(Storage(config.storage)))
    inputs = dataclasses.replace(inputs, makings=makings)
    return dataclasses.replace(config, objective=objective), inputs, [*notes, *more]


def cases_of(config: StudyConfig, inputs: Inputs, configuration: TrainConfig) -> tuple[Case, ...]:
    """The cases of a configuration, with the keys of its fits."""
    return tuple(
        Case(category, seed, inputs.fit_key(configuration, category, seed))
        for category, seed in config.cases
    )


def check_weights(space: "Space") -> None:
    """Loads each weights file into each architecture that the space can draw.

    Raises:
        WeightsError: if one does not fit.
    """
    tried = set()
    for config in space.corners([*ENCODER_KNOBS, "encoder_weights"]):
        architecture = (config.ffc_layers, config.encoder_ratio, config.local_fourier_unit)
        made = config.encoder_weights in ("random", *METHODS)
        if made or (architecture, config.encoder_weights) in tried:
            continue
        tried.add((architecture, config.encoder_weights))
        load_encoder_weights(FrozenEncoder(config), config.encoder_weights)
