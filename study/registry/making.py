"""A candidate becomes a detector: calibrated, scored, timed, and described for the registry."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffcad.calibration import Calibration, best_f1, false_alarms
from ffcad.datasets import CategoryData, Split
from ffcad.datasets.cache import digest_of
from ffcad.detector import Detector
from ffcad.model import FFCAD
from ffcad.predictor import Predictor
from ffcad.training import Progress
from study.config import StudyConfig, StudyError
from study.data import load_data
from study.registry.bootstrap import ScoredImages
from study.registry.candidates import Candidate
from study.registry.gate import Figure, figures
from study.registry.retraining import Additions, read_additions, retrain
from study.registry.scoring import Speed, gate_images, measure_speed, score
from study.registry.terms import Terms
from study.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Made:
    """A detector that is ready to be registered.

    Attributes:
        detector: with its thresholds.
        images: that decide about it.
        scored: what it says of them.
        figures: its metrics on them, with intervals.
        speed: what inspecting costs here.
        size_mb: of its files; 10**6 bytes.
        tags: of its version.
        description: of its version, Markdown.
    """

    detector: Detector
    images: Split
    scored: ScoredImages
    figures: tuple[Figure, ...]
    speed: Speed
    size_mb: float
    tags: dict[str, str]
    description: str


class Making:
    """From a candidate to a detector.

    Args:
        candidate: the fit.
        study: whose it is.
        storage: of the study.
        terms: what is asked.
        tell: called while the candidate is trained again, with its progress and all iterations.

    Attributes:
        data: the candidate's images.
        additions: normal images that it is trained on as well; None without.
        identity: a digest of what is promoted, so that the same command finds its own version.

    Raises:
        StudyError: if the data is not what the study had.
        DataError: if images that were given cannot be used.
    """

    def __init__(
        self,
        candidate: Candidate,
        study: StudyConfig,
        storage: Storage,
        terms: Terms,
        tell: Callable[[Progress, int], None],
    ) -> None:
        self.candidate, self.study, self.storage = candidate, study, storage
        self.terms, self.tell = terms, tell
        self.data = self.data_at(candidate.config.image_size)
        if self.data.digest != candidate.fit.inputs["data"]:
            raise StudyError(
                f"the images of {candidate.fit.category} are not those that the fit was trained "
                "and chosen on; bring them back, or extend the study to the new ones"
            )
        self.additions: Additions | None = None
        if terms.normal_images is not None:
            self.additions = read_additions(terms.normal_images, self.data)
        parts: list[Any] = [candidate.fit.key, terms.false_alarm_rate]
        if terms.retrains:
            parts += [terms.factor, self.additions and self.additions.digest()]
        self.identity = digest_of(parts)[:16]

    def data_at(self, image_size: int) -> CategoryData:
        """The category's images at a size."""
        return load_data(self.study, self.candidate.fit.category, image_size)

    def deciding_images(self, image_size: int) -> Split:
        """The images that decide, at a size: those of `--gate-data`, or the report split.

        Raises:
            DataError: if those that were given cannot be used.
        """
        data = self.data if image_size == self.data.image_size else self.data_at(image_size)
        if self.terms.gate_data is None:
            return data.report
        return gate_images(self.terms.gate_data, image_size, data)

    def made_of(self) -> str:
        """A digest of which images trained and chose the model, whatever their size."""
        data = self.data
        return digest_of([data.select_on, sorted(data.train.paths), sorted(data.select.paths)])[:16]

    def make(self) -> Made:
        """Detector, thresholds, figures: all that can be had without the registry.

        Raises:
            CalibrationError: if the images do not allow the thresholds that are asked for.
            DataError: if those that are to decide cannot be used.
        """
        images = self.deciding_images(self.data.image_size)
        model, use_head = self._model()
        detector = Detector(model, self._calibration(model, use_head), use_head=use_head)
        scored = score(model, images, use_head)
        with tempfile.TemporaryDirectory() as folder:
            detector.save(Path(folder) / "detector")
            files = [file for file in Path(folder).rglob("*") if file.is_file()]
            size_mb = sum(file.stat().st_size for file in files) / 1e6
        found = tuple(figures(scored))
        speed = measure_speed(model, use_head)
        return Made(
            detector=detector,
            images=images,
            scored=scored,
            figures=found,
            speed=speed,
            size_mb=size_mb,
            tags=self._tags(detector, found, speed, size_mb),
            description=self._description(detector.calibration, found, speed, size_mb),
        )

    def _model(self) -> tuple[FFCAD, bool]:
        """The fit's model or one that was trained again, and whether it uses its head."""
        with self.storage.at_hand(self.candidate.checkpoint) as checkpoint:
            if self.terms.retrains:
                checkpoint = retrain(
                    self.candidate,
                    self.study,
                    self.data,
                    checkpoint,
                    self.study.local_folder / "models" / self.identity,
                    factor=self.terms.factor or 1.0,
                    additions=self.additions,
                    tell=self.tell,
                )
            predictor = Predictor.load(checkpoint)
        model = predictor.model
        # The word that means the same on every machine, not where the weights lay on that one.
        model.config = dataclasses.replace(
            model.config, encoder_weights=self.candidate.config.encoder_weights
        )
        return model, predictor.use_head

    def _calibration(self, model: FFCAD, use_head: bool) -> Calibration:
        """Thresholds from images that trained nothing: the select split's, and kept-out ones."""
        chosen_on = score(model, self.data.select, use_head)
        if self.terms.false_alarm_rate is None:
            return best_f1(chosen_on.scores, chosen_on.labels, chosen_on.maps, chosen_on.masks)
        normal = ~chosen_on.labels
        scores, maps = chosen_on.scores[normal], chosen_on.maps[normal]
        if self.additions is not None:
            more = score(model, self.additions.kept_out, use_head)
            scores = np.concatenate([scores, more.scores])
            maps = np.concatenate([maps, more.maps])
        return false_alarms(scores, maps, self.terms.false_alarm_rate)

    def _tags(
        self, detector: Detector, found: tuple[Figure, ...], speed: Speed, size_mb: float
    ) -> dict[str, str]:
        fit, calibration = self.candidate.fit, detector.calibration
        tags: dict[str, Any] = {
            "study": self.study.name,
            "fit_key": fit.key,
            "configuration": fit.digest,
            "configuration_name": self.candidate.configuration,
            "data": self.study.data,
            "category": fit.category,
            "seed": fit.seed,
            "select_on": self.study.select_on,
            "data_digest": fit.inputs["data"],
            "made_of": self.made_of(),
            "encoder": fit.configuration["encoder_weights"],
            "encoder_digest": fit.inputs.get("encoder") or "none",
            "git_sha": fit.environment.get("git_sha") or "unknown",
            "image_size": detector.config.image_size,
            "image_threshold": f"{calibration.image_threshold:.9g}",
            "threshold_rule": calibration.rule,
            "latency_ms": f"{speed.latency_ms:.4g}",
            "images_per_second": f"{speed.images_per_second:.4g}",
            "peak_memory_mb": f"{speed.peak_memory_mb:.4g}",
            "size_mb": f"{size_mb:.4g}",
        }
        if calibration.pixel_threshold is not None:
            tags["pixel_threshold"] = f"{calibration.pixel_threshold:.9g}"
        if calibration.false_alarm_rate is not None:
            tags["false_alarm_rate"] = calibration.false_alarm_rate
        tags |= {f"{self._decided_on}_{figure.metric}": figure for figure in found}
        if self.terms.retrains:
            tags["retrained"] = json.dumps(self._retrained())
        return {key: str(value) for key, value in tags.items()}

    def _retrained(self) -> dict[str, Any]:
        more = self.additions
        return {
            "factor": self.terms.factor or 1.0,
            "more_normal_images": 0 if more is None else len(more.trained),
            "kept_out": 0 if more is None else len(more.kept_out),
        }

    @property
    def _decided_on(self) -> str:
        return "report" if self.terms.gate_data is None else "gate"

    def _description(
        self, calibration: Calibration, found: tuple[Figure, ...], speed: Speed, size_mb: float
    ) -> str:
        fit, study = self.candidate.fit, self.study
        seeds = f", best of {self.candidate.seeds} on the select split"
        rule = f"best F1 on {calibration.defective_images} defective and "
        if calibration.false_alarm_rate is not None:
            rule = f"at most {calibration.false_alarm_rate:.2%} false alarms on "
        lines = [
            f"Inspects **{fit.category}** ({study.data}). Configuration "
            f"'{self.candidate.configuration}' of study '{study.name}', seed {fit.seed}"
            f"{seeds if self.candidate.seeds > 1 else ''}, fit {fit.key}.",
            "",
            "| | |",
            "|---|---|",
            *(
                f"| {self._decided_on} {figure.metric}, 95 % interval | {figure} |"
                for figure in found
            ),
            f"| thresholds | {rule}{calibration.normal_images} normal images |",
            f"| image threshold | {calibration.image_threshold:.4g} |",
        ]
        if calibration.pixel_threshold is not None:
            lines.append(f"| pixel threshold | {calibration.pixel_threshold:.4g} |")
        lines += [
            f"| one image | {speed.latency_ms:.1f} ms |",
            f"| in batches | {speed.images_per_second:.1f} images a second |",
            f"| size | {size_mb:.1f} MB |",
        ]
        if self.terms.retrains:
            again = self._retrained()
            lines += [
                "",
                f"Trained again: {again['factor']:g} times the iterations, "
                f"{again['more_normal_images']} more normal images.",
            ]
        if study.select_on == "paper":
            lines += [
                "",
                "**Chosen on the images that are reported on: its figures are too good.**",
            ]
        if fit.random_encoder:
            lines += ["", "**Its frozen encoder is random: it says little.**"]
        return "\n".join(lines)
