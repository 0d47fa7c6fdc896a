"""A model becomes a version in the registry, and one version of each model the champion.

What is slow and can be repeated comes first: the detector is made, calibrated, scored and timed.
Then it is registered as a pending version, and decided about when its turn has come.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from ffcad.datasets import Split
from ffcad.detector import Detector, DetectorError
from study.mlflow_places import experiment_id
from study.processes import is_gone
from study.registry.champions import complete, crown
from study.registry.gate import Check, compare, refused, within
from study.registry.mlflow_registry import Registry
from study.registry.model_files import (
    ModelFilesError,
    NoDetectorError,
    fetch_detector,
    log_detector,
)
from study.registry.promoted import Promoted
from study.registry.scoring import at_size, known_paths, score
from study.registry.source import Made, Source, digest_of_files
from study.registry.terms import Terms
from study.registry.turns import WAIT_SECONDS, check_ours, wait_turn
from study.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DETECTOR,
    DISCARDED,
    FIRST,
    FORCED,
    PASSED,
    REFUSED,
    SEEN,
    UNDECIDED,
    WAITING,
    RegistryError,
    Version,
    promoter_tag,
)


class Promotion:
    """Promotes a model.

    Args:
        source: the model.
        registry: where it is registered.
        terms: what is asked.
        tell: called with what there is to wait for.
        wait: for other promotions of the model, seconds at most.
    """

    def __init__(
        self,
        source: Source,
        registry: Registry,
        terms: Terms,
        tell: Callable[[str], None] = lambda line: None,
        wait: float = WAIT_SECONDS,
    ) -> None:
        self.source, self.registry, self.terms = source, registry, terms
        self.tell, self.wait = tell, wait

    def run(self, *, dry_run: bool = False) -> Promoted:
        """Makes a version and decides about it; what was broken off is gone on with.

        Args:
            dry_run: says what would come of it, and writes nothing but a retraining's checkpoint.

        Raises:
            RegistryError: if the registry fails, or somebody else is at this version.
            DataError: if images that were given cannot be used.
            CalibrationError: if the images do not allow the thresholds that are asked for.
        """
        name, identity = self.source.name, self.source.identity
        version = self.registry.of_promotion(name, identity)
        if version is not None and self._is_decided(version):
            return dataclasses.replace(_as_it_is(version), unchanged=True)
        if version is not None and CHAMPION in version.aliases and not dry_run:
            # Broken off after the alias had moved: what is left is to say so.
            return _as_it_is(complete(self.registry, version))
        made = self.source.make()
        if dry_run:
            return self._foreseen(made)
        # Meanwhile somebody may have given the same command, now or while this one registers.
        version = self._without_other_files(self.registry.of_promotion(name, identity), made)
        version = version or self._register(made)
        version = self.registry.version(version.name, version.number)
        if version.gate not in UNDECIDED and self._is_decided(version):
            return dataclasses.replace(_as_it_is(version), unchanged=True)
        earlier = version.gate
        try:
            version = wait_turn(self.registry, version, seconds=self.wait, tell=self.tell)
            return self._decide(version, made)
        except BaseException:
            self._step_back(version, earlier)
            raise

    def _without_other_files(self, version: Version | None, made: Made) -> Version | None:
        """A version that is to be looked at again, unless it was made with other thresholds or
        weights than would be made now: that one is given up, as it is not what is judged."""
        if version is None or version.tags.get(DETECTOR) in (None, digest_of_files(made.detector)):
            return version
        left = version.gate in UNDECIDED and is_gone(version.promoter)
        if CHAMPION in version.aliases or not (left or version.gate == REFUSED):
            return version
        self.registry.unpoint(CHALLENGER, version)
        self.registry.tag(version, {"gate": DISCARDED})
        return None

    def _step_back(self, version: Version, earlier: str) -> None:
        """Lets the other promotions of the model go ahead, as far as the registry can be told; a
        version that was decided about stays so."""
        with contextlib.suppress(RegistryError):
            version = self.registry.version(version.name, version.number)
            ours = version.tags.get("promoter") == promoter_tag()
            if version.gate in UNDECIDED and ours and CHAMPION not in version.aliases:
                self.registry.tag(version, {"gate": WAITING if earlier in UNDECIDED else earlier})

    def _is_decided(self, version: Version) -> bool:
        """Whether nothing is left to do; one that was refused is looked at again."""
        if CHAMPION in version.aliases:
            return version.gate not in UNDECIDED
        return version.gate in (FIRST, PASSED, FORCED) and self.terms.force is None

    def _register(self, made: Made) -> Version:
        """Logs the model into a run of its own, and registers it as pending."""
        registry, source = self.registry, self.source
        client = registry.client
        # Whatever a client is told, MLflow looks logged models up where its globals point.
        mlflow.set_tracking_uri(registry.uri)
        mlflow.set_registry_uri(registry.uri)
        with registry.asked():
            where = experiment_id(
                client,
                registry.uri,
                source.experiment,
                source.folder,
                study_id=source.study_id,
            )
            files = digest_of_files(made.detector)
            mine = client.search_runs(
                [where],
                f"tags.level = 'promotion' and tags.promotion = '{source.identity}' "
                f"and tags.{DETECTOR} = '{files}'",
            )
            parents = client.search_runs([where], "tags.level = 'study'", max_results=1)
            of_version = {**made.tags, DETECTOR: files}
            tags = {
                **of_version,
                "level": "promotion",
                "promotion": source.identity,
                MLFLOW_RUN_NOTE: made.description,
                MLFLOW_SOURCE_NAME: "study promote",
                MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
            }
            if parents:
                tags[MLFLOW_PARENT_RUN_ID] = parents[0].info.run_id
            run = mine[0] if mine else client.create_run(where, run_name=source.name, tags=tags)
            run_id, model_uri = run.info.run_id, run.data.tags.get("model_uri")
            if model_uri is None:
                if made.seen is not None:
                    client.log_text(run_id, "\n".join(made.seen), SEEN)
                model_uri = self._logged(run_id, made)
                client.set_tag(run_id, "model_uri", model_uri)
        version = registry.create(
            source.name, model_uri, run_id, source.identity, made.description, of_version
        )
        # A name that cannot be written keeps nobody from deciding.
        with contextlib.suppress(RegistryError), registry.asked():
            # Short, because MLflow's list has little room; beside it the list has the model.
            client.update_run(run_id, name=f"{made.tags['category']}-v{version.number}")
        return version

    def _logged(self, run_id: str, made: Made) -> str:
        """MLflow's address of the model, once it is logged into a run."""
        with mlflow.start_run(run_id=run_id):
            name = self.source.name
            return log_detector(made.detector, artifact_name=name, example=made.example).model_uri

    def _decide(self, version: Version, made: Made) -> Promoted:
        """Holds a pending version against the champion, again if that changes meanwhile."""
        registry = self.registry
        while True:
            champion = registry.champion(version.name)
            if champion is not None and champion.number == version.number:
                return _as_it_is(complete(registry, champion))
            checks = self._checks(made, champion)
            verdict = self._verdict(champion, checks)
            check_ours(registry, version)
            version = registry.tag(version, self._kept(champion, made, checks, verdict))
            check_ours(registry, version)
            if verdict == REFUSED:
                registry.point(CHALLENGER, version)
                version = registry.tag(version, {"gate": REFUSED})
                break
            now = registry.champion(version.name)
            if (now and now.number) == (champion and champion.number):
                version = crown(registry, version)
                break
        return dataclasses.replace(_as_it_is(version), made=made, checks=checks)

    def _verdict(self, champion: Version | None, checks: tuple[Check, ...]) -> str:
        if all(check.passed for check in checks):
            return FIRST if champion is None else PASSED
        return REFUSED if self.terms.force is None else FORCED

    def _kept(
        self, champion: Version | None, made: Made, checks: tuple[Check, ...], verdict: str
    ) -> dict[str, Any]:
        """The tags that the gate leaves, whatever it says."""
        tags: dict[str, Any] = {"verdict": verdict}
        if checks:
            tags["gate_checks"] = "\n".join(check.text for check in checks)
            tags["gate_figures"] = json.dumps([dataclasses.asdict(check) for check in checks])
        if champion is not None:
            tags["gate_champion"] = champion.number
            tags["gate_images"] = self._images(made)
        if self.terms.force is not None:
            tags["force_reason"] = self.terms.force
        return tags

    def _images(self, made: Made) -> str:
        """What decided, and how many of them."""
        if made.scored is None:
            return "none"
        defective = int(made.scored.labels.sum())
        normal = len(made.scored.labels) - defective
        return f"{self.source.decided_on}: {normal} normal, {defective} defective"

    def _checks(self, made: Made, champion: Version | None) -> tuple[Check, ...]:
        """All that the gate asks: limits of anyone, and what the champion does of a later one."""
        terms, checks = self.terms, []
        if champion is not None:
            if self.source.why_refused is not None:
                checks.append(refused("protocol", self.source.why_refused))
            checks += self._comparison(made, champion)
        if terms.most_latency_ms is not None:
            checks.append(within("latency", made.speed.latency_ms, terms.most_latency_ms, "ms"))
        if terms.most_size_mb is not None:
            checks.append(within("size", made.size_mb, terms.most_size_mb, "MB"))
        return tuple(checks)

    def _comparison(self, made: Made, champion: Version) -> list[Check]:
        """Both on the same images, which must have made neither."""
        number, source = champion.number, self.source
        if made.scored is None:
            return [refused("images", "no images were given that could decide; give --gate-data")]
        try:
            theirs = self._fetched(champion)
        except (DetectorError, NoDetectorError) as e:
            return [refused("champion", f"champion version {number} cannot be asked: {e}")]
        except ModelFilesError as e:
            raise RegistryError(f"{e}; when it can be had, give the same command again") from e
        size = theirs.config.image_size
        images, seen = source.deciding_images(size), self.registry.seen_images(champion)
        checks = []
        own = source.deciding_images(made.detector.config.image_size)
        # What was chosen under 'paper' is refused for that.
        if source.why_refused is None and (twice := known_paths(own, made.seen or ())):
            checks.append(refused("images", _made_of("the model itself", twice, own)))
        if seen is None:
            checks.append(
                refused("images", f"it is not known what champion version {number} was made of")
            )
        elif twice := known_paths(images, seen):
            checks.append(refused("images", _made_of(f"champion version {number}", twice, images)))
        truth = source.deciding_images(max(size, made.detector.config.image_size))
        scored = score(theirs.predictor.model, images, theirs.predictor.use_head)
        return checks + compare(
            at_size(made.scored, truth), at_size(scored, truth), self.terms.margin
        )

    def _fetched(self, version: Version) -> Detector:
        with tempfile.TemporaryDirectory() as folder:
            fetched = fetch_detector(version.uri, Path(folder), self.registry.uri)
            return Detector.load(fetched.folder)

    def _foreseen(self, made: Made) -> Promoted:
        """What a promotion would come to now."""
        champion = self.registry.champion(self.source.name)
        checks = self._checks(made, champion)
        verdict = self._verdict(champion, checks)
        return Promoted(
            model=self.source.name,
            version=None,
            verdict=verdict,
            champion=verdict != REFUSED,
            against=champion and champion.number,
            made=made,
            checks=checks,
        )


def _made_of(model: str, twice: list[str], images: Split) -> str:
    return (
        f"{model} was trained or chosen on {len(twice)} of the {len(images)} images that decide, "
        f"as {twice[0]}; give --gate-data"
    )


def _as_it_is(version: Version) -> Promoted:
    against = version.tags.get("gate_champion")
    return Promoted(
        model=version.name,
        version=version.number,
        verdict=version.gate,
        champion=CHAMPION in version.aliases,
        against=None if against is None else int(against),
    )
