"""What is asked of a promotion."""

from dataclasses import dataclass
from pathlib import Path

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
    """

    false_alarm_rate: float | None = None
    factor: float | None = None
    normal_images: Path | None = None
    gate_data: Path | None = None
    margin: float = MARGIN
    most_latency_ms: float | None = None
    most_size_mb: float | None = None
    force: str | None = None

    @property
    def retrains(self) -> bool:
        """Whether the fit is trained again."""
        return self.factor is not None or self.normal_images is not None
