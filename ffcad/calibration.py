"""From scores to verdicts: thresholds of a trained detector, by one of two rules.

`best_f1` needs labelled images that the model was not trained on; `false_alarms` needs held-out
normal images alone. Both are pure functions of scores and maps.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcad.metrics import MetricError, image_f1_max, pixel_f1_max

BEST_F1, FALSE_ALARM_RATE = "best_f1", "false_alarm_rate"
RULES = (BEST_F1, FALSE_ALARM_RATE)


class CalibrationError(ValueError):
    """Scores that no threshold can be set from, or a calibration that does not make sense."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a detector's figures become verdicts.

    Attributes:
        image_threshold: an image whose score is at least this is defective.
        pixel_threshold: values of the anomaly map that are at least this belong to a region; None
            where no masks were known.
        rule: `BEST_F1` or `FALSE_ALARM_RATE`.
        false_alarm_rate: the one that was asked for, with `FALSE_ALARM_RATE`; else None.
        normal_images, defective_images: how many it was set on; no defective ones are needed with
            `FALSE_ALARM_RATE`.
        normal_scores: of the normal ones, ascending: what drift is measured against.

    Raises:
        CalibrationError: if a value does not make sense.
    """

    image_threshold: float
    pixel_threshold: float | None
    rule: str
    false_alarm_rate: float | None
    normal_images: int
    defective_images: int
    normal_scores: tuple[float, ...]

    def __post_init__(self) -> None:
        thresholds = [self.image_threshold]
        if self.pixel_threshold is not None:
            thresholds.append(self.pixel_threshold)
        if not all(_is_number(value) for value in (*thresholds, *self.normal_scores)):
            raise CalibrationError("thresholds and normal scores must be finite numbers")
        if self.rule not in RULES:
            raise CalibrationError(f"rule must be one of {', '.join(RULES)} but got {self.rule!r}")
        rate = self.false_alarm_rate
        if (self.rule == FALSE_ALARM_RATE) != (rate is not None) or (
            rate is not None and not (_is_number(rate) and 0 < rate < 1)
        ):
            raise CalibrationError(
                f"false_alarm_rate must be more than 0 and less than 1 with rule "
                f"{FALSE_ALARM_RATE!r}, and None with the other, but got {rate!r}"
            )
        if self.normal_images != len(self.normal_scores) or self.normal_images < 1:
            raise CalibrationError(
                f"normal_scores must hold one score for each of the {self.normal_images} normal "
                f"images, at least one, but holds {len(self.normal_scores)}"
            )
        if list(self.normal_scores) != sorted(self.normal_scores):
            raise CalibrationError("normal_scores must ascend")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**dataclasses.asdict(self), "normal_scores": list(self.normal_scores)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """What `to_dict` gave.

        Raises:
            CalibrationError: if a name is missing or unknown, or a value does not make sense.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise CalibrationError(f"a calibration has {', '.join(sorted(names))} but got {got}")
        if not isinstance(values["normal_scores"], list):
            raise CalibrationError("normal_scores must be a list")
        return cls(**{**values, "normal_scores": tuple(values["normal_scores"])})


def best_f1(scores: Any, labels: Any, maps: Any, masks: Any | None) -> Calibration:
    """Thresholds of the greatest F1, of images and of pixels.

    Each lies midway between the lowest value that is to be called defective and the next one
    below, so that the last digits of another machine do not turn a verdict.

    Args:
        scores: (N,) anomaly scores of images that the model was not trained on.
        labels: (N,) bool, True where defective; both classes are there.
        maps: (N, H, W) anomaly maps; not read where `masks` is None.
        masks: (N, H, W) bool, True where defective; None where no ground truth exists.

    Raises:
        CalibrationError: if a class is missing, shapes differ, or a value is not finite.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    try:
        found = image_f1_max(scores, labels).threshold
        pixel = None if masks is None else _midway(maps, pixel_f1_max(maps, masks).threshold)
    except MetricError as e:
        raise CalibrationError(f"best F1: {e}") from e
    normal = np.sort(scores[~labels.astype(bool)])
    return Calibration(
        image_threshold=_midway(scores, found),
        pixel_threshold=pixel,
        rule=BEST_F1,
        false_alarm_rate=None,
        normal_images=normal.size,
        defective_images=scores.size - normal.size,
        normal_scores=tuple(normal.tolist()),
    )


def false_alarms(scores: Any, maps: Any, rate: float) -> Calibration:
    """Thresholds that at most a share `rate` of new normal images are expected to pass.

    By order statistics: of n + 1 exchangeable scores a new one is above the k-th highest of the
    other n with probability k / (n + 1) at most (split conformal prediction; Vovk et al.,
    Algorithmic Learning in a Random World, 2005). The rate is that over draws of the calibration
    images too: with few of them, a single threshold's own rate may be some way off; and images that
    helped to choose the configuration are not quite exchangeable with new ones. The pixel
    threshold is set in the same way on each map's highest value, so it is the rate of normal images
    that show any region.

    Args:
        scores: (N,) anomaly scores of normal images that the model was not trained on.
        maps: (N, H, W) their anomaly maps.
        rate: of false alarms, more than 0 and less than 1.

    Raises:
        CalibrationError: if the images are too few for the rate, or a value is not finite.
    """
    if not (_is_number(rate) and 0 < rate < 1):
        raise CalibrationError(
            f"a false-alarm rate must be more than 0 and less than 1 but got {rate!r}"
        )
    scores, maps = np.asarray(scores, np.float64), np.asarray(maps)
    if scores.ndim != 1 or maps.ndim != 3 or len(maps) != scores.size:
        raise CalibrationError(
            f"scores must be (N,) and maps (N, H, W) but got {scores.shape} and {maps.shape}"
        )
    least = max(math.ceil(1 / rate - 1e-9) - 1, 1)
    if scores.size < least:
        or_rate = math.ceil(1e4 / (scores.size + 1)) / 1e4
        hint = f", or a rate of at least {or_rate:g}" if scores.size else ""
        raise CalibrationError(
            f"a false-alarm rate of {rate:g} needs {least} held-out normal images but there are "
            f"{scores.size}; give more images{hint}"
        )
    peaks = maps.reshape(len(maps), -1).max(axis=1).astype(np.float64)
    if not (np.isfinite(scores).all() and np.isfinite(peaks).all()):
        raise CalibrationError("scores and maps must be finite; look for a diverged model")
    return Calibration(
        image_threshold=_just_above(scores, rate),
        pixel_threshold=_just_above(peaks, rate),
        rule=FALSE_ALARM_RATE,
        false_alarm_rate=float(rate),
        normal_images=scores.size,
        defective_images=0,
        normal_scores=tuple(np.sort(scores).tolist()),
    )


# Scores and maps are float32, and whoever compares them with a threshold in that precision rounds
# it first: so a threshold is a number that float32 has, else it could be rounded onto a value that
# it lies above.


def _midway(values: Any, lowest: float) -> float:
    """Between `lowest`, which is one of the values, and the next value below."""
    values = np.asarray(values)
    below = float(np.max(values, initial=-np.inf, where=values < lowest))
    middle = float(np.float32((lowest + below) / 2))
    # Neighbours have nothing between them, and the least value has none below.
    return middle if below < middle <= lowest else lowest


def _just_above(values: np.ndarray, rate: float) -> float:
    """The least number above the k-th highest value, k the most that the rate allows."""
    k = math.floor(rate * (values.size + 1) + 1e-9)
    highest = float(np.sort(values)[-k])
    above = np.float32(highest)
    return float(above if above > highest else np.nextafter(above, np.float32(np.inf)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
