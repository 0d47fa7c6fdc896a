"""What a promotion is given: a model with all that is known of it, from a fit or a registry."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ffcad.datasets import Split
from ffcad.detector import DESCRIPTION, Detector
from study.registry.bootstrap import ScoredImages
from study.registry.gate import Figure
from study.registry.scoring import Speed


@dataclass(frozen=True, kw_only=True)
class Made:
    """A detector that is ready to be registered.

    Attributes:
        detector: with its thresholds.
        example: (H, W, 3) uint8, an image that it may be asked about.
        seen: digests of the images that trained, chose or calibrated it, at its own size; None
            where that is not known.
        scored: what it says of the images that decide; None where there are none.
        figures: its metrics on them, with intervals.
        speed: what inspecting costs here, measured anew of a copy as well.
        size_mb: of its files; 10**6 bytes.
        tags: of its version.
        description: of its version, Markdown.
    """

    detector: Detector
    example: np.ndarray
    seen: tuple[str, ...] | None
    scored: ScoredImages | None
    figures: tuple[Figure, ...]
    speed: Speed
    size_mb: float
    tags: dict[str, str]
    description: str


class Source(Protocol):
    """Where a model comes from.

    Attributes:
        name: the registered model's.
        identity: a digest of what is promoted, so that the same command finds its own version.
        experiment: the name of MLflow's, that it is logged in.
        study_id: of the study's document, where the experiment is a study's; else None.
        folder: of this machine, for the experiment's files where MLflow is no server.
        why_refused: what speaks against it, whatever its figures are; None if nothing does.
        decided_on: the images that decide, in words; None where there are none.
    """

    name: str
    identity: str
    experiment: str
    study_id: str | None
    folder: Path
    why_refused: str | None
    decided_on: str | None

    def make(self) -> Made:
        """Detector, thresholds, figures: all that can be had without the registry."""

    def deciding_images(self, image_size: int) -> Split:
        """The images that decide, at a size; not called where there are none."""


def digest_of_files(detector: Detector) -> str:
    """Sixteen hexadecimal digits of a detector's description, which has its weights' digest."""
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder))
        return hashlib.sha256((Path(folder) / DESCRIPTION).read_bytes()).hexdigest()[:16]


def files_mb(detector: Detector) -> float:
    """The size of a detector's files, in units of 10**6 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder))
        return sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
