"""A version of one registry on its way to another one: from staging to production."""

import tempfile
from pathlib import Path

import numpy as np

from ffcad.datasets import Split
from ffcad.datasets.cache import digest_of
from ffcad.detector import Detector
from study.config import StudyError
from study.registry.card import CHOSEN_ON_REPORTED
from study.registry.gate import figures
from study.registry.given_images import gate_images, refuse_known
from study.registry.mlflow_registry import Registry
from study.registry.model_files import ModelFilesError, fetch_detector
from study.registry.scoring import measure_speed, score
from study.registry.source import Made, files_mb
from study.registry.terms import Terms
from study.registry.versions import (
    BEFORE,
    DETECTOR,
    FIRST,
    FORCED,
    PASSED,
    REFUSED,
    ROLLED_BACK,
    VERDICT,
    RegistryError,
    Version,
)

# Tags of a version that are about the registry that it is in.
OF_REGISTRY = ("promotion", "promoter", VERDICT, BEFORE, ROLLED_BACK, "force_reason")


class FromRegistry:
    """A `study.registry.source.Source`: a version that is promoted already, elsewhere.

    Args:
        version: that is copied.
        registry: that has it.
        folder: of this machine, for files where the other MLflow is no server.
        terms: what is asked; nothing is calibrated or trained again.

    Raises:
        RegistryError: if the version is not decided about, or was refused.
    """

    def __init__(self, version: Version, registry: Registry, folder: Path, terms: Terms) -> None:
        if version.gate not in (FIRST, PASSED, FORCED, REFUSED):
            gate = version.gate or "nothing, so this project did not promote it"
            raise RegistryError(
                f"version {version.number} of {version.name} cannot be copied: its gate says {gate}"
            )
        if version.gate == REFUSED and terms.force is None:
            raise RegistryError(
                f"version {version.number} of {version.name} was refused where it is; copy the "
                "champion, or give --force REASON"
            )
        self.version, self.registry, self.terms = version, registry, terms
        self.name, self.experiment, self.folder = version.name, version.name, folder
        self.study_id = None
        self.why_refused = None
        if version.tags.get("select_on") == "paper":
            self.why_refused = CHOSEN_ON_REPORTED
        self.decided_on = None if terms.gate_data is None else str(terms.gate_data)
        # The version here, and where it comes from: another one of the same fit is another copy.
        of_there = [version.tags.get(tag) for tag in ("promotion", DETECTOR)]
        self.identity = digest_of([*of_there, "copy"])[:16]

    def deciding_images(self, image_size: int) -> Split:
        """The images of `--gate-data` at a size.

        Raises:
            StudyError: if none were given.
            DataError: if they cannot be used.
        """
        if self.terms.gate_data is None:
            raise StudyError("give --gate-data")
        return gate_images(self.terms.gate_data, image_size)

    def make(self) -> Made:
        """The detector as it is, and what it says of the images that decide.

        Raises:
            RegistryError: if the first registry does not give its files.
            DetectorError: if they hold no detector of this version of the method.
            DataError: if the images that decide cannot be used.
        """
        version = self.version
        with tempfile.TemporaryDirectory() as folder:
            try:
                fetched = fetch_detector(version.uri, Path(folder), self.registry.uri)
            except ModelFilesError as e:
                raise RegistryError(f"{e}; give the same command again") from e
            detector = Detector.load(fetched.folder)
        seen = self.registry.seen_images(version)
        model, use_head = detector.predictor.model, detector.predictor.use_head
        size = detector.config.image_size
        scored, found = None, ()
        example = np.zeros((size, size, 3), np.uint8)
        if self.terms.gate_data is not None:
            images = self.deciding_images(size)
            refuse_known(self.terms.gate_data, images, seen or ())
            scored, example = score(model, images, use_head), np.asarray(images.images[0])
            found = tuple(figures(scored))
        speed, size_mb = measure_speed(model, use_head), files_mb(detector)
        tags = self._tags() | {f"gate_{figure.metric}": str(figure) for figure in found}
        tags |= speed.tags()
        return Made(
            detector=detector,
            example=example,
            seen=None if seen is None else tuple(sorted(seen)),
            scored=scored,
            figures=found,
            speed=speed,
            size_mb=size_mb,
            tags=tags,
            description=f"{version.description}\n\nCopied from version {version.number} of "
            f"{self.registry.shown}, where the above was measured; when it was copied, on "
            f"{speed.machine}: one image {speed.latency_ms:.1f} ms, in batches "
            f"{speed.images_per_second:.1f} images a second.",
        )

    def _tags(self) -> dict[str, str]:
        """Those that are about the model, and where it comes from."""
        of_model = {
            name: value
            for name, value in self.version.tags.items()
            if name not in OF_REGISTRY and not name.startswith("gate")
        }
        source = {
            "copied_from": self.registry.shown,
            "copied_version": str(self.version.number),
            "copied_gate": self.version.gate,
        }
        if reason := self.version.tags.get("force_reason"):
            source["copied_force_reason"] = reason
        return of_model | source
