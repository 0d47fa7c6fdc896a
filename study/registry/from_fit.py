"""A study's fit becomes a detector: trained again if asked, calibrated, scored, timed."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ffcad.calibration import Calibration, best_f1, false_alarms
from ffcad.checkpoint import UnreadableCheckpoint
from ffcad.datasets import CategoryData, Split
from ffcad.datasets.cache import digest_of
from ffcad.detector import Detector
from ffcad.model import FFCAD
from ffcad.predictor import Predictor
from ffcad.training import Progress
from study.config import StudyConfig, StudyError
from study.data import load_data
from study.registry.candidates import Candidate
from study.registry.card import CHOSEN_ON_REPORTED, Card
from study.registry.gate import figures
from study.registry.given_images import gate_images, refuse_known
from study.registry.retraining import Additions, read_additions, retrain
from study.registry.scoring import content, measure_speed, score
from study.registry.source import Made, files_mb
from study.registry.terms import Terms
from study.registry.versions import model_name
from study.storage import Storage
from study.trials import StudyFolder


class FromFit:
    """A `study.registry.source.Source`: a fit of a study.

    Args:
        candidate: the fit.
        study: whose it is.
        storage: of the study.
        terms: what is asked.
        tell: called while the candidate is trained again, with its progress and all iterations.

    Attributes:
        data: the candidate's images.
        additions: normal images that it is trained on as well; None without.

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
        tell: Callable[[Progress, int], None] = lambda progress, iterations: None,
    ) -> None:
        self.candidate, self.study, self.storage = candidate, study, storage
        self.terms, self.tell = terms, tell
        self.name = model_name(study.data, candidate.fit.category)
        self.experiment, self.folder = study.name, study.local_folder
        self.study_id = StudyFolder(storage, study.name).read_document().get("id")
        self.why_refused = CHOSEN_ON_REPORTED if study.select_on == "paper" else None
        self.decided_on = "the report split" if terms.gate_data is None else str(terms.gate_data)
        self.data = self._data_at(candidate.config.image_size)
        if self.data.digest != candidate.fit.inputs["data"]:
            raise StudyError(
                f"the images of {candidate.fit.category} are not those that the fit was trained "
                "and chosen on; bring them back, or extend the study to the new ones"
            )
        self.additions: Additions | None = None
        if terms.normal_images is not None:
            self.additions = read_additions(terms.normal_images, self.data)
        # Of the training alone: other thresholds do not train again.
        self._training = [candidate.fit.key, self.additions and self.additions.contents()]
        self._training += [terms.factor] if terms.retrains else []
        self.identity = digest_of([*self._training, terms.false_alarm_rate])[:16]

    def deciding_images(self, image_size: int) -> Split:
        """The images that decide, at a size: those of `--gate-data`, or the report split.

        Raises:
            DataError: if those that were given cannot be used.
        """
        if self.terms.gate_data is not None:
            return gate_images(self.terms.gate_data, image_size)
        data = self.data if image_size == self.data.image_size else self._data_at(image_size)
        return data.report

    def make(self) -> Made:
        """Detector, thresholds, figures.

        Raises:
            CalibrationError: if the images do not allow the thresholds that are asked for.
            DataError: if those that are to decide cannot be used.
        """
        images, seen = self.deciding_images(self.data.image_size), self._seen()
        # Under 'paper' the report split itself chose; that is `why_refused`.
        if self.terms.gate_data is not None:
            refuse_known(self.terms.gate_data, images, seen)
        model, use_head = self._model()
        detector = Detector(model, self._calibration(model, use_head), use_head=use_head)
        scored = score(model, images, use_head)
        found, speed = tuple(figures(scored)), measure_speed(model, use_head)
        size_mb = files_mb(detector)
        card = Card(self.candidate, self.study, self.terms, self.additions)
        return Made(
            detector=detector,
            example=np.asarray(images.images[0]),
            seen=seen,
            scored=scored,
            figures=found,
            speed=speed,
            size_mb=size_mb,
            tags=card.tags(detector.calibration, found, speed, size_mb),
            description=card.description(detector.calibration, found, speed, size_mb),
        )

    def _data_at(self, image_size: int) -> CategoryData:
        return load_data(self.study, self.candidate.fit.category, image_size)

    def _seen(self) -> tuple[str, ...]:
        seen = content(self.data.train) | content(self.data.select)
        if self.additions is not None:
            seen |= set(self.additions.contents())
        return tuple(sorted(seen))

    def _model(self) -> tuple[FFCAD, bool]:
        """The fit's model or one that was trained again, and whether it uses its head."""
        with self.storage.at_hand(self.candidate.checkpoint) as checkpoint:
            if self.terms.retrains:
                checkpoint = retrain(
                    self.candidate,
                    self.study,
                    self.data,
                    checkpoint,
                    self.folder / "models" / digest_of(self._training)[:16],
                    factor=self.terms.factor or 1.0,
                    additions=self.additions,
                    tell=self.tell,
                )
            try:
                predictor = Predictor.load(checkpoint)
            except UnreadableCheckpoint as e:
                raise StudyError(f"{e}; bring it back, or give another --configuration") from e
        model = predictor.model
        # The word that means the same on every machine, not where the weights lay on that one.
        model.config = dataclasses.replace(
            model.config, encoder_weights=self.candidate.config.encoder_weights
        )
        return model, predictor.use_head

    def _calibration(self, model: FFCAD, use_head: bool) -> Calibration:
        """Thresholds from images that trained nothing: the select split's, and kept-out ones."""
        found = score(model, self.data.select, use_head)
        scores, labels, maps, masks = found.scores, found.labels, found.maps, found.masks
        if self.additions is not None:
            more = score(model, self.additions.kept_out, use_head)
            scores, maps = np.concatenate([scores, more.scores]), np.concatenate([maps, more.maps])
            labels = np.concatenate([labels, np.zeros(len(more.labels), bool)])
            if masks is not None:
                masks = np.concatenate([masks, np.zeros(more.maps.shape, bool)])
        if self.terms.false_alarm_rate is None:
            return best_f1(scores, labels, maps, masks)
        return false_alarms(scores[~labels], maps[~labels], self.terms.false_alarm_rate)
