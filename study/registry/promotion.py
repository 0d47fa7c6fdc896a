"""A study's candidates become versions of models, and one of them the champion, if it holds.

What is slow and can be repeated comes first: the detector is made, calibrated, scored and timed.
Then it is registered as a pending version, and decided about (`study.registry.versions`).
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ffcad.training import Progress
from study.config import StudyConfig
from study.registry.candidates import Candidate
from study.registry.gate import Check, compare, refused, within
from study.registry.making import Made, Making
from study.registry.model_files import fetch_detector, log_detector
from study.registry.scoring import score
from study.registry.terms import Terms
from study.registry.versions import (
    CHALLENGER,
    CHAMPION,
    FIRST,
    FORCED,
    PASSED,
    PENDING,
    REFUSED,
    Registry,
    Version,
    model_name,
)
from study.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What came of one candidate.

    Attributes:
        model: the registered model's name.
        version: its number; None in a dry run.
        verdict: first, passed, refused or forced; of a dry run what it would be.
        champion: whether it is the champion now, or would be.
        against: the number of the champion that it was held against; None for none.
        fit: the key of the fit that it was made of.
        unchanged: whether an earlier command had decided already.
        made: thresholds, figures and costs; None where an earlier command had them.
        checks: what the gate looked at.
    """

    model: str
    version: int | None
    verdict: str
    champion: bool
    against: int | None
    fit: str
    unchanged: bool = False
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
                "image_threshold": calibration.image_threshold,
                "pixel_threshold": calibration.pixel_threshold,
                "figures": [dataclasses.asdict(figure) for figure in self.made.figures],
                "speed": dataclasses.asdict(self.made.speed),
                "size_mb": self.made.size_mb,
            }
        return document


class Promotion:
    """Promotes candidates of one study.

    Args:
        study: the study.
        storage: of the study.
        registry: where models are registered.
        terms: what is asked.
        tell: called while a candidate is trained again, with its progress and all iterations.
    """

    def __init__(
        self,
        study: StudyConfig,
        storage: Storage,
        registry: Registry,
        terms: Terms,
        tell: Callable[[Progress, int], None] = lambda progress, iterations: None,
    ) -> None:
        self.study, self.storage, self.registry = study, storage, registry
        self.terms, self.tell = terms, tell

    def promote(self, candidate: Candidate, *, dry_run: bool = False) -> Promoted:
        """Makes a version of a candidate and decides about it; what was broken off is gone on with.

        Args:
            candidate: the fit.
            dry_run: says what would come of it, and writes nothing but a retraining's checkpoint.

        Raises:
            RegistryError: if the registry fails, or somebody else is at this version.
            StudyError: if the data is not what the study had.
            DataError: if images that were given cannot be used.
            CalibrationError: if the images do not allow the thresholds that are asked for.
        """
        name = model_name(self.study.data, candidate.fit.category)
        making = Making(candidate, self.study, self.storage, self.terms, self.tell)
        version = self.registry.of_promotion(name, making.identity)
        if version is not None and self._is_decided(version):
            return _unchanged(version, candidate)
        made = making.make()
        if dry_run:
            return self._foreseen(name, making, made)
        if version is None:
            version = self._register(name, making, made)
        version = self.registry.claim(version)
        if version.gate != PENDING:  # Refused once, and asked again.
            version = self.registry.tag(version, {"gate": PENDING})
        self.registry.wait_turn(version)
        return self._decide(version, making, made)

    def _is_decided(self, version: Version) -> bool:
        """Whether nothing is left to do; one that was refused is looked at again."""
        if CHAMPION in version.aliases:
            return version.gate != PENDING
        return version.gate in (FIRST, PASSED, FORCED) and self.terms.force is None

    def _register(self, name: str, making: Making, made: Made) -> Version:
        """Logs the model into a run of the study's experiment, and registers it as pending."""
        client, experiment = self.registry.client, self.study.name
        with self.registry.asked():
            mlflow.set_tracking_uri(self.registry.uri)
            mlflow.set_registry_uri(self.registry.uri)
            found = client.get_experiment_by_name(experiment)
            where = found.experiment_id if found else client.create_experiment(experiment)
            mine = client.search_runs(
                [where], f"tags.level = 'promotion' and tags.promotion = '{making.identity}'"
            )
            parents = client.search_runs([where], "tags.level = 'study'", max_results=1)
            tags = {**made.tags, "level": "promotion", "promotion": making.identity}
            if parents:
                tags[MLFLOW_PARENT_RUN_ID] = parents[0].info.run_id
            run = mine[0] if mine else client.create_run(where, run_name=name, tags=tags)
            source = run.data.tags.get("model_uri")
            if source is None:
                with mlflow.start_run(run_id=run.info.run_id):
                    example = made.images.images[0]
                    logged = log_detector(made.detector, artifact_name=name, example=example)
                source = logged.model_uri
                client.set_tag(run.info.run_id, "model_uri", source)
        return self.registry.create(
            name, source, run.info.run_id, making.identity, made.description, made.tags
        )

    def _decide(self, version: Version, making: Making, made: Made) -> Promoted:
        """Holds a pending version against the champion, again if that changes meanwhile."""
        while True:
            champion = self.registry.champion(version.name)
            if champion is not None and champion.number == version.number:
                # Broken off after the alias had moved: what is left is to say so.
                version = self.registry.crown(version, version.tags["verdict"])
                return _promoted(version, made, ())
            checks: tuple[Check, ...] = ()
            if champion is not None:
                self.registry.point(CHALLENGER, version)
                checks = self._checks(making, made, champion)
            verdict = self._verdict(champion, checks)
            version = self.registry.tag(version, self._kept(champion, checks, verdict))
            if verdict == REFUSED:
                version = self.registry.tag(version, {"gate": REFUSED})
                return _promoted(version, made, checks)
            now = self.registry.champion(version.name)
            if (now and now.number) == (champion and champion.number):
                return _promoted(self.registry.crown(version, verdict), made, checks)

    def _verdict(self, champion: Version | None, checks: tuple[Check, ...]) -> str:
        if champion is None:
            return FIRST
        if all(check.passed for check in checks):
            return PASSED
        return REFUSED if self.terms.force is None else FORCED

    def _kept(
        self, champion: Version | None, checks: tuple[Check, ...], verdict: str
    ) -> dict[str, Any]:
        """The tags that the gate leaves, whatever it says."""
        tags: dict[str, Any] = {"verdict": verdict}
        if champion is not None:
            tags |= {
                "gate_champion": champion.number,
                "gate_checks": "; ".join(check.text for check in checks),
                "gate_figures": json.dumps([dataclasses.asdict(check) for check in checks]),
            }
        if verdict == FORCED:
            tags["force_reason"] = self.terms.force
        return tags

    def _checks(self, making: Making, made: Made, champion: Version) -> tuple[Check, ...]:
        """All that is held against the champion; first, whether the images may decide at all."""
        terms, checks = self.terms, []
        if self.study.select_on == "paper":
            checks.append(
                refused(
                    "protocol",
                    "its configuration was chosen under 'paper', on the images that are reported "
                    "on; choose it under 'holdout' or 'synthetic'",
                )
            )
        elif terms.gate_data is None and champion.tags.get("made_of") != making.made_of():
            checks.append(
                refused(
                    "images",
                    f"champion version {champion.number} was trained or chosen on other images, "
                    "perhaps on those that decide; give --gate-data",
                )
            )
        with tempfile.TemporaryDirectory() as folder:
            theirs = fetch_detector(champion.uri, Path(folder), self.registry.uri)
        images = making.deciding_images(theirs.config.image_size)
        scored = score(theirs.model, images, theirs.use_head)
        checks += compare(made.scored, scored, terms.margin)
        if terms.most_latency_ms is not None:
            checks.append(within("latency", made.speed.latency_ms, terms.most_latency_ms, "ms"))
        if terms.most_size_mb is not None:
            checks.append(within("size", made.size_mb, terms.most_size_mb, "MB"))
        return tuple(checks)

    def _foreseen(self, name: str, making: Making, made: Made) -> Promoted:
        """What a promotion would come to now."""
        champion = self.registry.champion(name)
        checks = () if champion is None else self._checks(making, made, champion)
        verdict = self._verdict(champion, checks)
        return Promoted(
            model=name,
            version=None,
            verdict=verdict,
            champion=verdict != REFUSED,
            against=champion and champion.number,
            fit=made.tags["fit_key"],
            made=made,
            checks=checks,
        )


def _promoted(version: Version, made: Made, checks: tuple[Check, ...]) -> Promoted:
    return dataclasses.replace(
        _as_it_is(version), fit=made.tags["fit_key"], made=made, checks=checks
    )


def _unchanged(version: Version, candidate: Candidate) -> Promoted:
    return dataclasses.replace(_as_it_is(version), fit=candidate.fit.key, unchanged=True)


def _as_it_is(version: Version) -> Promoted:
    against = version.tags.get("gate_champion")
    return Promoted(
        model=version.name,
        version=version.number,
        verdict=version.gate,
        champion=CHAMPION in version.aliases,
        against=None if against is None else int(against),
        fit=version.tags["fit_key"],
    )
