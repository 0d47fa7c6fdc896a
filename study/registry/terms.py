"""What is asked of a promotion."""

import math
from dataclasses import dataclass
from pathlib import Path

from study.config import StudyError

# How much worse than the champion, as a share of 1, a challenger may be.
MARGIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is asked of a promotion.

    Attributes:
        false_alarm_rate: of the thresholds; None takes those of the best F1 on the select split.
        factor: trains again with so many times as many iterations; None takes the fit as it is.
        normal_images: trains again with these normal images too.
        gate_data: a folder of images that decide; None takes the report split.
        margin: how much worse than the champion the challenger may be.
        most_latency_ms, most_size_mb: limits; None for none.
        force: the reason for which a version becomes champion whatever the gate says.

    Raises:
        StudyError: if a value is not allowed.
    """

    false_alarm_rate: float | None = None
    factor: float | None = None
    normal_images: Path | None = None
    gate_data: Path | None = None
    margin: float = MARGIN
    most_latency_ms: float | None = None
    most_size_mb: float | None = None
    force: str | None = None

    def __post_init__(self) -> None:
        if self.false_alarm_rate is not None and not 0 < self.false_alarm_rate < 1:
            raise StudyError(
                "--false-alarm-rate must be more than 0 and less than 1 but got "
                f"{self.false_alarm_rate:g}"
            )
        if not 0 <= self.margin < 1:
            raise StudyError(f"--margin must be at least 0 and less than 1 but got {self.margin:g}")
        for flag, value in (
            ("--iterations-factor", self.factor),
            ("--most-latency-ms", self.most_latency_ms),
            ("--most-size-mb", self.most_size_mb),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise StudyError(f"{flag} must be a number above 0 but got {value:g}")
        if self.force is not None and not self.force.strip():
            raise StudyError("--force is empty; say why the gate is not to decide")

    @property
    def retrains(self) -> bool:
        """Whether the fit is trained again."""
        return self.factor is not None or self.normal_images is not None
