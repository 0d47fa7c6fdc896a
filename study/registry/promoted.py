"""What came of a promotion."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from study.registry.gate import Check
from study.registry.source import Made


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What came of one promotion.

    Attributes:
        model: the registered model's name.
        version: its number; None in a dry run.
        verdict: first, passed, refused or forced; of a dry run what it would be.
        champion: whether it is the champion now, or would be.
        against: the number of the champion that it was held against; None for none.
        unchanged: whether an earlier command had decided already.
        force_unused: whether a reason for a force was given that is not kept, because the version
            is the champion already.
        made: thresholds, figures and costs; None where an earlier command had them.
        checks: what the gate looked at.
    """

    model: str
    version: int | None
    verdict: str
    champion: bool
    against: int | None
    unchanged: bool = False
    force_unused: bool = False
    made: Made | None = None
    checks: tuple[Check, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        document = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("made", "checks")
        }
        document["checks"] = [dataclasses.asdict(check) for check in self.checks]
        if self.made is not None:
            calibration = self.made.detector.calibration
            document |= {
                "tags": self.made.tags,
                "image_threshold": calibration.image_threshold,
                "pixel_threshold": calibration.pixel_threshold,
                "figures": [dataclasses.asdict(figure) for figure in self.made.figures],
                "speed": dataclasses.asdict(self.made.speed),
                "size_mb": self.made.size_mb,
            }
        return document
