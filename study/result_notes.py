"""What a study's results do not say by themselves."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # What reads a study asks this module for its notes.
    from study.results import ConfigurationResult


def mixed_encoders(configurations: "Iterable[ConfigurationResult]") -> list[str]:
    """The configurations whose fits had frozen encoders with other weights, a line each.

    A fit is known by its encoder's recipe. One that was removed and made again, perhaps on another
    machine, has other last digits, with which the fits that are still to come are trained.
    """
    lines = []
    for configuration in configurations:
        digests = {fit.inputs.get("encoder") for fit in configuration.finished} - {None}
        if len(digests) > 1:
            lines.append(
                f"{configuration.name}: its fits had {len(digests)} frozen encoders of one recipe "
                "with different weights, because it was made again; their spread is not the seeds' "
                "alone"
            )
    return lines
