"""How a frozen encoder's weights are made: the architecture, and every knob of the making."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ffcad.config import ConfigError, TrainConfig, check_knob, check_values, knob, knobs

# Raised by whoever changes the numbers that a making gives; a golden test notices.
PRETRAIN_VERSION = 2

# The words for ways to make weights; a configuration's `encoder_weights` may be one in a study.
METHODS = ("distilled", "warm_start", "supervised")

# Under which methods a knob is used.
_DISTILLED, _SUPERVISED = {"method": ("distilled",)}, {"method": ("supervised",)}
_TRAINED = {"method": ("distilled", "supervised")}

# Channels of the third level: the finest that a ratio can divide.
_CHANNELS = 256


@dataclass(frozen=True)
class EncoderArchitecture:
    """What tells the weights of one frozen encoder from another's.

    Two ratios that give every level the same global channels are one architecture, and have the
    smaller one's value here, so a study over a continuous ratio needs a bounded number of encoders.

    Attributes:
        ratio: share of the global branch.
        layers: FFCs in a residual block.
        lfu: whether the FFCs have the local Fourier unit.
    """

    ratio: float
    layers: int
    lfu: bool = False

    def __post_init__(self) -> None:
        # int(64 r) and int(128 r) follow from int(256 r).
        object.__setattr__(self, "ratio", int(_CHANNELS * self.ratio) / _CHANNELS)
        if self.ratio == 0:
            object.__setattr__(self, "lfu", False)

    @classmethod
    def of(cls, config: TrainConfig) -> "EncoderArchitecture":
        """The frozen encoder's of a configuration."""
        return cls(config.encoder_ratio, config.ffc_layers, config.local_fourier_unit)

    def __str__(self) -> str:
        lfu = ", local Fourier unit" if self.lfu else ""
        layers = f"{self.layers} layer{'s' * (self.layers != 1)}"
        return f"ratio {self.ratio}, {layers}{lfu}"

    @property
    def is_resnet18(self) -> bool:
        """Whether it is the plain ResNet-18, which needs no making."""
        return self.ratio == 0 and self.layers == 2


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The recipe of an encoder's making.

    Raises:
        ConfigError: if a value is of the wrong type or out of bounds.
    """

    method: str = knob(
        "distilled",
        "features of a teacher as targets; the teacher's kernels without any training; or class "
        "labels of an ImageFolder data set",
        choices=METHODS,
    )
    initial: str = knob(
        "warm_start",
        "what distillation starts from: the teacher's kernels where they have a place, or random",
        choices=("warm_start", "random"),
        active_if=_DISTILLED,
    )
    image_size: int = knob(128, "side of the square crops, pixels; best that of the fits", low=32)
    iterations: int = knob(2000, "at most this many", low=1, active_if=_TRAINED)
    batch_size: int = knob(16, "crops per iteration", low=2)
    learning_rate: float = knob(
        2e-3, "peak rate of AdamW in distillation", low=0, open_low=True, active_if=_DISTILLED
    )
    supervised_learning_rate: float = knob(
        0.1,
        "peak rate of SGD at a batch of 256, in proportion for others (ImageNet recipe)",
        low=0,
        open_low=True,
        active_if=_SUPERVISED,
    )
    weight_decay: float = knob(1e-4, "of either optimizer", low=0, active_if=_TRAINED)
    warmup: float = knob(
        0.05,
        "share of the iterations in which the rate rises; then it falls by a cosine",
        low=0,
        high=1,
        open_high=True,
        active_if=_TRAINED,
    )
    cosine_weight: float = knob(
        1.0,
        "weight of the cosine distance of the channel vectors",
        low=0,
        active_if=_DISTILLED,
    )
    l2_weight: float = knob(
        1.0,
        "weight of the squared difference over the teacher's variance",
        low=0,
        active_if=_DISTILLED,
    )
    crop_min: float = knob(
        0.25, "least area of a random crop, as a share of the image", low=0, high=1, open_low=True
    )
    horizontal_flip: bool = knob(True, "crops are mirrored left-right half of the time")
    brightness: float = knob(
        0.3,
        "crops are multiplied by up to 1 plus or minus this, and shifted by half of it",
        low=0,
        high=1,
        open_high=True,
    )
    held_out: float = knob(
        0.1,
        "share of the corpus that progress is measured on, at most 256 images (10,000 with labels)",
        low=0,
        high=0.5,
        open_low=True,
    )
    patience: int = knob(
        4,
        "evaluations without a better held-out loss after which it ends, in the second half of "
        "the iterations",
        low=1,
        active_if=_TRAINED,
    )
    calibration_batches: int = knob(
        16, "batches that the norms' statistics are taken from at the end", low=1
    )
    # The weights of the best evaluation are kept, so this can change them.
    evaluate_every: int = knob(
        100, "iterations between evaluations and checkpoints", low=1, active_if=_TRAINED
    )
    seed: int = knob(0, "of initial weights and crops", low=0)
    precision: str = knob(
        "float32",
        "of the autocast region",
        choices=("float32", "bfloat16", "float16"),
        active_if=_TRAINED,
    )

    # How it is run: recorded, not hashed.
    device: str = knob("auto", "'auto', 'cpu', 'cuda' or 'cuda:N'", numerical=False)
    loader_workers: int = knob(0, "processes that read images", low=0, numerical=False)

    def __post_init__(self) -> None:
        check_values(self)
        if self.method == "distilled" and self.cosine_weight == self.l2_weight == 0:
            raise ConfigError(
                "cosine_weight and l2_weight are both 0; at least one must be more than 0"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PretrainConfig":
        """Builds a recipe from knob names and values.

        Raises:
            ConfigError: if a name is no knob (with the nearest name), or a value is not allowed.
        """
        for key in values:
            check_knob(key, cls)
        return cls(**values)

    @property
    def starts_warm(self) -> bool:
        """Whether the teacher's kernels are where it starts from."""
        warm = self.method == "distilled" and self.initial == "warm_start"
        return warm or self.method == "warm_start"

    def to_dict(self) -> dict[str, Any]:
        """All knobs, as JSON types."""
        return dataclasses.asdict(self)

    def used(self) -> dict[str, Any]:
        """The knobs that can change the weights and are used."""
        return {
            name: getattr(self, name)
            for name, f in sorted(knobs(type(self)).items())
            if f.metadata["numerical"]
            and all(getattr(self, k) in v for k, v in f.metadata["active_if"].items())
        }

    def identity(self) -> dict[str, Any]:
        """Those of `used` that differ from the default.

        As in `TrainConfig.identity`, a new knob leaves old keys as they were; a default that
        changes raises `PRETRAIN_VERSION`.
        """
        known = knobs(type(self))
        return {name: v for name, v in self.used().items() if v != known[name].default}


def encoder_key(
    recipe: PretrainConfig,
    architecture: EncoderArchitecture,
    teacher_digest: str | None,
    corpus_digest: str,
) -> str:
    """Sixteen hexadecimal digits that name an encoder on whatever storage and machine.

    Args:
        recipe: of the making.
        architecture: of the encoder.
        teacher_digest: names the teacher's weights; None where there is no teacher.
        corpus_digest: names the images, and their labels in a supervised making.
    """
    made_of: dict[str, Any] = {"recipe": recipe.identity(), "corpus": corpus_digest}
    if architecture.is_resnet18 and recipe.starts_warm:
        # It is the teacher, whatever the recipe and the images, and whatever changes in makings.
        made_of = {"version": 1}
    parts = {
        "architecture": dataclasses.asdict(architecture),
        "teacher": teacher_digest,
        "version": PRETRAIN_VERSION,
        **made_of,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
