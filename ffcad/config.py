"""Every knob of a training: its name, default, bounds and meaning, in one place.

A `TrainConfig` is a configuration in the study's sense: one point of the search space, everything
but the category and the seed. Knobs that cannot change what is learned (device, number of loader
workers, evaluation interval) are marked `numerical=False`: they are recorded and not hashed.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConfigError(ValueError):
    """A knob that does not exist or has a value that is not allowed."""


def knob(
    default: Any,
    help: str,
    *,
    choices: tuple | None = None,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
    numerical: bool = True,
    active_if: dict[str, tuple] | None = None,
) -> Any:
    """A documented, bounded field of `TrainConfig`.

    Args:
        default: the value where none is given; its type is the knob's type.
        help: what it does, with unit and source.
        choices: the values allowed, for a knob that is one of a few.
        low, high: bounds, inclusive unless `open_low`, `open_high`.
        optional: whether None ("off") is allowed.
        numerical: whether it can change the trained weights or the metrics.
        active_if: other knobs' values under which this one is used at all; elsewhere it does not
            belong to the configuration's identity, and a search does not draw it.
    """
    kind = type(default) if default is not None else float
    return field(
        default=default,
        metadata=dict(
            help=help,
            kind=kind,
            choices=choices,
            low=low,
            high=high,
            open_low=open_low,
            open_high=open_high,
            optional=optional,
            numerical=numerical,
            active_if=active_if or {},
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One configuration of FFC-AD; the defaults are the paper's where it gives them.

    Raises:
        ConfigError: if a value is of the wrong type or out of bounds.
    """

    # The network (section 3.2, 3.3; Tables 12-14).
    image_size: int = knob(256, "side of the square that images are resized to, pixels", low=32)
    ffc_layers: int = knob(2, "convolutions in sequence in a residual block", choices=(1, 2, 3))
    global_ratio: float = knob(
        0.5, "share of the channels in the global branch", low=0, high=1, open_high=True
    )
    ffc_encoder: bool = knob(True, "FFC in the frozen encoder; else global_ratio is 0 there")
    ffc_autoencoder: bool = knob(True, "FFC in the autoencoder; else global_ratio is 0 there")
    local_fourier_unit: bool = knob(False, "the FFC paper's second, quarter-image Fourier unit")
    autoencoder_channels: int = knob(
        64, "channels of the autoencoder's first stage, doubled in each further one", low=16
    )
    head_channels: int = knob(256, "channels inside the segmentation head", low=8)
    encoder_weights: str = knob(
        "random",
        "weights of the frozen encoder: 'random', 'torchvision', or the path of a weights file; in "
        "a study also 'distilled', 'warm_start' or 'supervised', which it makes (docs/method.md)",
    )

    # Hidden Space Anomaly Simulation (section 3.4, Algorithm 1; Table 15).
    hsas: str = knob("2d", "what is dropped in the hidden space", choices=("none", "1d", "2d"))
    hsas_probability: float = knob(
        0.1, "probability of a drop", low=0, high=1, active_if={"hsas": ("1d", "2d")}
    )

    # Simulated anomalies (DRAEM) and augmentation of the normal images.
    anomaly_probability: float = knob(
        0.5, "share of the training images that get an anomaly (DRAEM: 0.5)", low=0, high=1
    )
    perlin_max_exponent: int = knob(
        6, "Perlin cells per axis are 2**e with e drawn below this (DRAEM: 6)", low=1, high=8
    )
    perlin_threshold: float = knob(
        0.5, "noise above it is anomalous (DRAEM: 0.5)", low=0, high=1, open_high=True
    )
    opacity_min: float = knob(
        0.2, "least opacity of the blended texture; the greatest is 1 (DRAEM: 0.2)", low=0, high=1
    )
    rotation_degrees: float = knob(
        0.0, "training images are rotated by up to this, either way", low=0, high=180
    )
    horizontal_flip: bool = knob(False, "training images are mirrored left-right half of the time")
    vertical_flip: bool = knob(False, "training images are mirrored top-bottom half of the time")

    # Objectives (Eq. 2; the head's are DeSTSeg's).
    reconstruction_loss: str = knob(
        "l2", "squared L2 of the features (Eq. 2) or cosine distance", choices=("l2", "cosine")
    )
    head_encoder_input: str = knob(
        "anomalous",
        "what the frozen encoder sees while the head trains: Figure 1 or section 3.2",
        choices=("anomalous", "normal"),
    )
    focal_gamma: float = knob(4.0, "focusing exponent of the focal loss (DeSTSeg: 4)", low=0)
    l1_weight: float = knob(1.0, "weight of the L1 loss beside the focal loss", low=0)
    image_score_pixels: int = knob(
        1, "the image score is the mean of this many highest pixels; 1 is the maximum", low=1
    )

    # Optimisation (section 4.3; Table 16).
    autoencoder_iterations: int = knob(10_000, "iterations of stage one", low=0)
    head_iterations: int = knob(10_000, "iterations of stage two", low=0)
    batch_size: int = knob(8, "images per iteration", low=2)
    optimizer: str = knob("sgd", "optimizer of both stages", choices=("sgd", "adamw"))
    sgd_learning_rate: float = knob(
        0.4,
        "stage one's rate (DeSTSeg: 0.4)",
        low=0,
        open_low=True,
        active_if={"optimizer": ("sgd",)},
    )
    adamw_learning_rate: float = knob(
        1e-3, "stage one's rate", low=0, open_low=True, active_if={"optimizer": ("adamw",)}
    )
    head_learning_rate_factor: float = knob(
        0.1, "stage two's rate over stage one's", low=0, open_low=True
    )
    momentum: float = knob(
        0.9, "of SGD", low=0, high=1, open_high=True, active_if={"optimizer": ("sgd",)}
    )
    weight_decay: float = knob(1e-4, "of either optimizer", low=0)
    lr_schedule: str = knob("constant", "the rate over each stage", choices=("constant", "cosine"))
    gradient_clip: float | None = knob(
        None,
        "greatest L2 norm of the gradient; None leaves it",
        low=0,
        open_low=True,
        optional=True,
    )
    precision: str = knob(
        "float32", "of the autocast region", choices=("float32", "bfloat16", "float16")
    )
    channels_last: bool = knob(False, "channels-last memory format")
    compile: bool = knob(False, "compile the networks with torch.compile")

    # How it is run: recorded, not hashed.
    device: str = knob("auto", "'auto', 'cpu', 'cuda' or 'cuda:N'", numerical=False)
    loader_workers: int = knob(0, "processes that read batches", low=0, numerical=False)
    evaluate_every: int = knob(
        500, "iterations between evaluations and checkpoints", low=1, numerical=False
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.autoencoder_iterations + self.head_iterations == 0:
            raise ConfigError(
                "autoencoder_iterations and head_iterations are both 0; at least one must be 1 or "
                "more"
            )
        if self.image_score_pixels > self.image_size**2:
            raise ConfigError(
                f"image_score_pixels must be at most image_size squared ({self.image_size**2}) but "
                f"got {self.image_score_pixels}"
            )

        for channels in (
            *((64,) if self.encoder_ratio else ()),
            *((self.autoencoder_channels,) if self.autoencoder_ratio else ()),
        ):
            self._check_global_branch(channels)

    def _check_global_branch(self, channels: int) -> None:
        """Every stage's global branch must be wide enough for its half-width inner part."""
        for width in (channels * m for m in (1, 2, 4, 8)):
            width_g = int(width * self.global_ratio)
            if width_g < 2:
                raise ConfigError(
                    f"global_ratio must be 0, or at least {2 / channels:g} where a stage has "
                    f"{channels} channels, but got {self.global_ratio!r}"
                )
            if self.local_fourier_unit and width_g // 2 % 4:
                raise ConfigError(
                    "local_fourier_unit needs global branches whose half is divisible by 4 but "
                    f"global_ratio {self.global_ratio!r} of {width} channels gives {width_g}"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Builds a configuration from knob names and values.

        Raises:
            ConfigError: if a name is no knob (with the nearest name), or a value is not allowed.
        """
        for key in values:
            check_knob(key)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All knobs, as JSON types."""
        return dataclasses.asdict(self)

    def is_active(self, name: str) -> bool:
        """Whether the knob `name` is used, given the others."""
        conditions = knobs()[name].metadata["active_if"]
        return all(getattr(self, key) in allowed for key, allowed in conditions.items())

    def canonical(self) -> "TrainConfig":
        """The same training in its plainest words: switches that nothing hangs on are at default.

        Without a global branch on either side there is nothing for the FFC knobs to say, and HSAS
        that never drops is none.
        """
        plain: dict[str, Any] = {}
        if not (self.encoder_ratio or self.autoencoder_ratio):
            plain |= {"global_ratio": 0.0}
            for name in ("ffc_encoder", "ffc_autoencoder", "local_fourier_unit"):
                plain[name] = knobs()[name].default
        if self.hsas_probability == 0:
            plain["hsas"] = "none"
        return dataclasses.replace(self, **plain)

    def identity(self) -> dict[str, Any]:
        """The knobs that can change the result and differ from the default, sorted by name.

        Defaults are left out, so a new knob whose default keeps the old behaviour leaves every old
        configuration's digest as it was; the numbers of a changed default change the method's
        version instead (`ffcad.training.METHOD_VERSION`).
        """
        plain = self.canonical()
        return {
            f.name: getattr(plain, f.name)
            for f in sorted(dataclasses.fields(self), key=lambda f: f.name)
            if f.metadata["numerical"]
            and plain.is_active(f.name)
            and getattr(plain, f.name) != f.default
        }

    def digest(self) -> str:
        """Twelve hexadecimal digits that name this configuration."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: "TrainConfig") -> dict[str, tuple[Any, Any]]:
        """Knobs whose values differ: name -> (this, other)."""
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in knobs()
            if getattr(self, name) != getattr(other, name)
        }

    @property
    def iterations(self) -> int:
        """Iterations of both stages together."""
        return self.autoencoder_iterations + self.head_iterations

    @property
    def learning_rate(self) -> float:
        """Stage one's learning rate for the chosen optimizer."""
        return getattr(self, f"{self.optimizer}_learning_rate")

    @property
    def encoder_ratio(self) -> float:
        """Global ratio of the frozen encoder."""
        return self.global_ratio if self.ffc_encoder else 0.0

    @property
    def autoencoder_ratio(self) -> float:
        """Global ratio of the autoencoder."""
        return self.global_ratio if self.ffc_autoencoder else 0.0


@functools.cache
def knobs(kind: type | None = None) -> Mapping[str, dataclasses.Field]:
    """The knobs of a configuration's class, `TrainConfig` unless another is given, by name."""
    return MappingProxyType({f.name: f for f in dataclasses.fields(kind or TrainConfig)})


def check_knob(name: str, kind: type = TrainConfig) -> None:
    """Raises ConfigError, with the nearest name, where `name` is no knob of the class."""
    known = knobs(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; knobs are {', '.join(known)}"
        raise ConfigError(f"unknown knob {name!r}{hint}")


def check_values(config: Any) -> None:
    """Checks every knob of a configuration that is being made, and makes whole floats of integers.

    Raises:
        ConfigError: if a value is of the wrong type or out of bounds.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        _check(f, value)
        if f.metadata["kind"] is float and type(value) is int:
            # JSON, search spaces and people write 1 for 1.0; both must have one digest.
            object.__setattr__(config, f.name, float(value))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise ConfigError(
            f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N' but got {config.device!r}"
        )


def _check(f: dataclasses.Field, value: Any) -> None:
    meta = f.metadata
    if value is None and meta["optional"]:
        return
    kind = meta["kind"]
    good_type = type(value) is kind or (kind is float and type(value) is int)
    if not good_type:
        raise ConfigError(
            f"{f.name} must be {kind.__name__}{' or None' if meta['optional'] else ''} but got "
            f"{value!r} ({type(value).__name__})"
        )
    if meta["choices"] and value not in meta["choices"]:
        allowed = ", ".join(repr(c) for c in meta["choices"])
        raise ConfigError(f"{f.name} must be one of {allowed} but got {value!r}")
    if kind not in (int, float):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{f.name} must be finite but got {value!r}")
    low, high = meta["low"], meta["high"]
    if low is not None and (value < low or (meta["open_low"] and value == low)):
        raise ConfigError(
            f"{f.name} must be {'more than' if meta['open_low'] else 'at least'} {low} but got "
            f"{value!r}"
        )
    if high is not None and (value > high or (meta["open_high"] and value == high)):
        raise ConfigError(
            f"{f.name} must be {'less than' if meta['open_high'] else 'at most'} {high} but got "
            f"{value!r}"
        )
