"""A model becomes a version in the registry, and one version of each model the champion.

What is slow and can be repeated comes first: the detector is made, calibrated, scored and timed.
Then it is registered as a pending version, and decided about when its turn has come.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from study.registry.champions import complete, crown
from study.registry.examination import deciding, examine
from study.registry.gate import Check
from study.registry.mlflow_registry import Registry
from study.registry.promoted import Promoted
from study.registry.registering import register
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
    UNDECIDED,
    VERDICT,
    WAITING,
    RegistryError,
    Version,
    is_of_decision,
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
            return self._unchanged(version)
        if version is not None and CHAMPION in version.aliases and not dry_run:
            # Broken off after the alias had moved: what is left is to say so.
            return _as_it_is(complete(self.registry, version))
        made = self.source.make()
        if dry_run:
            return self._foreseen(made)
        # Meanwhile somebody may have given the same command, now or while this one registers.
        version = self._without_other_files(self.registry.of_promotion(name, identity), made)
        earlier = ""
        try:
            version = version or register(self.source, made, self.registry)
            version = self.registry.version(version.name, version.number)
            if version.gate not in UNDECIDED and self._is_decided(version):
                return self._unchanged(version)
            earlier = version.gate
            version = wait_turn(self.registry, version, seconds=self.wait, tell=self.tell)
            return self._decide(version, made)
        except BaseException:
            self._step_back(earlier)
            raise

    def _without_other_files(self, version: Version | None, made: Made) -> Version | None:
        """A version that is to be looked at again, unless it was made with other thresholds or
        weights than would be made now: that one is given up, as it is not what is judged."""
        if version is None or version.tags.get(DETECTOR) in (None, digest_of_files(made.detector)):
            return version
        left = version.gate in UNDECIDED and version.is_left
        if CHAMPION not in version.aliases and version.gate in (FIRST, PASSED, FORCED):
            # It was champion, and may be again by a roll-back; the promotion's is the next one.
            self.registry.tag(version, {"promotion": None})
            return None
        if CHAMPION in version.aliases or not (left or version.gate == REFUSED):
            return version
        self.registry.unpoint(CHALLENGER, version)
        self.registry.tag(version, {"gate": DISCARDED})
        return None

    def _step_back(self, earlier: str) -> None:
        """Lets the other promotions of the model go ahead, as far as the registry can be told; a
        version that was decided about stays so, unless its tags are another decision's by now."""
        with contextlib.suppress(RegistryError):
            version = self.registry.of_promotion(self.source.name, self.source.identity)
            if version is None or version.gate not in UNDECIDED or CHAMPION in version.aliases:
                return
            if version.tags.get("promoter") == promoter_tag():
                whole = version.tags.get(VERDICT) == earlier
                self.registry.tag(version, {"gate": earlier if whole else WAITING})

    def _is_decided(self, version: Version) -> bool:
        """Whether nothing is left to do; one that was refused is looked at again."""
        if CHAMPION in version.aliases:
            return version.gate not in UNDECIDED
        return version.gate in (FIRST, PASSED, FORCED) and self.terms.force is None

    def _unchanged(self, version: Version) -> Promoted:
        """What it is since an earlier command; a force that needs nothing leaves no trace."""
        unused = self.terms.force is not None
        return dataclasses.replace(_as_it_is(version), unchanged=True, force_unused=unused)

    def _decide(self, version: Version, made: Made) -> Promoted:
        """Holds a pending version against the champion, again if that changes meanwhile."""
        registry = self.registry
        while True:
            champion = registry.champion(version.name)
            if champion is not None and champion.number == version.number:
                return _as_it_is(complete(registry, champion))
            checks = examine(self.source, made, champion, registry, self.terms)
            verdict = self._verdict(champion, checks)
            check_ours(registry, version)
            version = self._write(version, champion, made, checks, verdict)
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

    def _write(
        self,
        version: Version,
        champion: Version | None,
        made: Made,
        checks: tuple[Check, ...],
        verdict: str,
    ) -> Version:
        """Has the version say what was decided, and nothing of an earlier look. Its verdict goes
        first and comes back last, so that one with a verdict has all that belongs to it."""
        wanted: dict[str, Any] = dict(made.tags)
        if checks:
            wanted["gate_checks"] = "\n".join(check.text for check in checks)
            wanted["gate_figures"] = json.dumps([dataclasses.asdict(check) for check in checks])
        if champion is not None:
            wanted["gate_champion"] = champion.number
            wanted["gate_images"] = deciding(self.source, made)
        if self.terms.force is not None:
            wanted["force_reason"] = self.terms.force
        stale = [tag for tag in version.tags if is_of_decision(tag) and tag not in wanted]
        registry = self.registry
        version = registry.tag(version, dict.fromkeys([VERDICT, *stale]) | wanted)
        registry.describe(version, made.description)
        return registry.tag(version, {VERDICT: verdict})

    def _foreseen(self, made: Made) -> Promoted:
        """What a promotion would come to now."""
        champion = self.registry.champion(self.source.name)
        checks = examine(self.source, made, champion, self.registry, self.terms)
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


def _as_it_is(version: Version) -> Promoted:
    against = version.tags.get("gate_champion")
    return Promoted(
        model=version.name,
        version=version.number,
        verdict=version.gate,
        champion=CHAMPION in version.aliases,
        against=None if against is None else int(against),
    )
