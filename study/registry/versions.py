"""Versions of a model in MLflow's registry: found, created, ordered, and given their aliases.

MLflow's registry knows no transaction and no condition. What it does alone and whole is to give a
new version its number, with its tags, and to move one alias. So

- a version is found by the tag `promotion`, a digest of what was promoted, before one is created;
- one whose tag `gate` says 'pending' is somebody's work: who wants to decide about a model waits
  for the pending versions with lower numbers, so that one promotion at a time decides;
- everything about a version is written before the champion's alias moves, which is the moment that
  counts; the tag `gate` gets its word last, so that whatever was broken off is gone on with.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from study.leases import describe, is_gone, this_process
from study.mlflow_runs import TAG_LENGTH, make_database

CHAMPION, CHALLENGER = "champion", "challenger"
# The words of the tag `gate`.
PENDING, FIRST, PASSED, REFUSED, FORCED, DISCARDED = (
    "pending",
    "first",
    "passed",
    "refused",
    "forced",
    "discarded",
)
# Which version is the champion once this is rolled back.
BEFORE = "champion_before"
WAIT_SECONDS, LOOK_SECONDS = 600.0, 2.0
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


class RegistryError(RuntimeError):
    """What the registry refuses or cannot do; one line says what to do."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model's version as the registry has it.

    Attributes:
        name: the model's.
        number: the version's.
        aliases: that point at it.
        tags: all of them.
        source: where its files are, as MLflow says it.
        created: epoch, seconds.
    """

    name: str
    number: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    source: str
    created: float

    @property
    def gate(self) -> str:
        """What became of it; empty of a version that somebody else registered."""
        return self.tags.get("gate", "")

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """MLflow's registry, with the rules of this project.

    Args:
        uri: of MLflow, which keeps runs and models in one place.
        wait: how long to wait for another promotion of the same model, seconds.
    """

    def __init__(self, uri: str, wait: float = WAIT_SECONDS) -> None:
        self.uri, self.wait = uri, wait
        with self.asked():
            make_database(uri)
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def names(self) -> list[str]:
        """All models, sorted."""
        found, token = [], None
        with self.asked():
            while token is not None or not found:
                page = self.client.search_registered_models(page_token=token)
                found += [model.name for model in page]
                token = page.token
                if not token:
                    break
        return sorted(found)

    def versions(self, name: str) -> list[Version]:
        """All versions of a model with their aliases, by number; empty where it is not there.

        Raises:
            RegistryError: if the registry does not answer.
        """
        with self.asked():
            try:
                model = self.client.get_registered_model(name)
            except MlflowException as e:
                if e.error_code in _NOT_THERE:
                    return []
                raise
            aliases: dict[str, list[str]] = {}
            for alias, number in model.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            found, token = [], None
            while True:
                page = self.client.search_model_versions(
                    f"name = '{name}'", max_results=1000, page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
        versions = [_version(v, aliases.get(str(v.version), [])) for v in found]
        return sorted(versions, key=lambda version: version.number)

    def version(self, name: str, number: int) -> Version:
        """One version.

        Raises:
            RegistryError: if it is not there.
        """
        for version in self.versions(name):
            if version.number == number:
                return version
        raise RegistryError(f"{self.uri} has no version {number} of {name}")

    def champion(self, name: str) -> Version | None:
        """The version in use; None where there is none."""
        return next((v for v in self.versions(name) if CHAMPION in v.aliases), None)

    def of_promotion(self, name: str, promotion: str) -> Version | None:
        """The version that a promotion made, discarded ones left out."""
        mine = [
            version
            for version in self.versions(name)
            if version.tags.get("promotion") == promotion and version.gate != DISCARDED
        ]
        return mine[0] if mine else None

    def create(
        self, name: str, source: str, run: str, promotion: str, description: str, tags: dict
    ) -> Version:
        """A new, pending version; of two for one promotion the one with the higher number goes.

        Args:
            name: the model's; it is created where it is not there.
            source: MLflow's address of the logged model.
            run: the id of the run that logged it.
            promotion: a digest of what is promoted.
            description: of the version.
            tags: more of it.
        """
        tags = {**tags, "promotion": promotion, "gate": PENDING, "promoter": _promoter()}
        with self.asked():
            try:
                self.client.create_registered_model(name)
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self.client.create_model_version(
                name, source, run_id=run, tags=_cut(tags), description=description
            )
        mine = self.of_promotion(name, promotion)
        if mine.number != int(made.version):  # Somebody gave the same command at the same time.
            self.tag(self.version(name, int(made.version)), {"gate": DISCARDED})
        return mine

    def claim(self, version: Version) -> Version:
        """Takes over a pending version that its promoter has left.

        Raises:
            RegistryError: if another process is still at it.
        """
        promoter = _read_promoter(version)
        if promoter and promoter != json.loads(_promoter()) and not is_gone(promoter):
            raise RegistryError(
                f"version {version.number} of {version.name} is being promoted by "
                f"{describe(promoter)}; wait for it, or, if that process is no more, "
                f"--discard {version.name}/{version.number}"
            )
        return self.tag(version, {"promoter": _promoter()})

    def wait_turn(self, version: Version) -> None:
        """Waits until no earlier version of the model is pending.

        One whose promoter was a process of this machine that is no more is passed over: its own
        command goes on with it, after this one.

        Raises:
            RegistryError: if one is still pending after `wait` seconds.
        """
        end = time.monotonic() + self.wait
        while True:
            earlier = [
                other
                for other in self.versions(version.name)
                if other.number < version.number
                and other.gate == PENDING
                and not is_gone(_read_promoter(other))
            ]
            if not earlier:
                return
            if time.monotonic() >= end:
                first = earlier[0]
                raise RegistryError(
                    f"version {first.number} of {first.name} is being promoted by "
                    f"{describe(_read_promoter(first))} since {_minutes(first)}; wait for it, or, "
                    f"if that process is no more, --discard {first.name}/{first.number}"
                )
            time.sleep(min(LOOK_SECONDS, self.wait / 10))

    def tag(self, version: Version, tags: dict[str, Any]) -> Version:
        """Writes tags, in their order; gives the version as it is then."""
        with self.asked():
            for key, value in _cut(tags).items():
                self.client.set_model_version_tag(version.name, str(version.number), key, value)
        return self.version(version.name, version.number)

    def describe(self, version: Version, text: str) -> None:
        """Writes a version's description."""
        with self.asked():
            self.client.update_model_version(version.name, str(version.number), text)

    def point(self, alias: str, version: Version) -> None:
        """Moves an alias: the champion's is the moment at which another model is in use."""
        with self.asked():
            self.client.set_registered_model_alias(version.name, alias, str(version.number))

    def unpoint(self, alias: str, version: Version) -> None:
        """Takes an alias from a version, if it has it."""
        if alias in self.version(version.name, version.number).aliases:
            with self.asked():
                self.client.delete_registered_model_alias(version.name, alias)

    def crown(self, version: Version, gate: str) -> Version:
        """Makes a version the champion, and then says how it came to be."""
        before = self.champion(version.name)
        if before is not None and before.number != version.number:
            # Harmless until the alias moves, and needed from then on.
            version = self.tag(version, {BEFORE: before.number})
        self.point(CHAMPION, version)
        self.unpoint(CHALLENGER, version)
        return self.tag(version, {"gate": gate})

    def roll_back(self, name: str, reason: str) -> tuple[Version, Version]:
        """Makes the champion before this one champion again.

        Returns:
            The champion that was, and the one that is.

        Raises:
            RegistryError: if there is no champion, or none before it.
        """
        champion = self.champion(name)
        if champion is None:
            known = ", ".join(self.names()) or "none"
            raise RegistryError(f"{self.uri} has no champion of {name!r}; its models are {known}")
        before = champion.tags.get(BEFORE)
        if before is None:
            raise RegistryError(
                f"version {champion.number} of {name} is its first champion: there is none to roll "
                "back to; promote another one"
            )
        former = self.version(name, int(before))
        self.tag(champion, {"rolled_back": reason or "no reason given"})
        self.point(CHAMPION, former)
        return self.version(name, champion.number), self.version(name, former.number)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """What MLflow raises inside becomes one line.

        Raises:
            RegistryError: in its place.
        """
        try:
            yield
        except MlflowException as e:
            reason = " ".join(str(e).split())[:300]
            raise RegistryError(
                f"the registry {self.uri} failed: {reason}; when it is back, the same command goes "
                "on where this one ended"
            ) from e


def model_name(data: str, category: str) -> str:
    """A category's model: 'ffcad-<data>-<category>', without what MLflow forbids in a name."""
    return re.sub(r"[/:'\"%]", "-", f"ffcad-{data}-{category}")


def _promoter() -> str:
    return json.dumps(this_process(), sort_keys=True)


def _read_promoter(version: Version) -> dict[str, Any]:
    try:
        document = json.loads(version.tags.get("promoter", "{}"))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _minutes(version: Version) -> str:
    return f"{(time.time() - version.created) / 60:.0f} min"


def _cut(tags: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[:TAG_LENGTH] for key, value in tags.items()}


def _version(version: ModelVersion, aliases: list[str]) -> Version:
    return Version(
        name=version.name,
        number=int(version.version),
        aliases=tuple(sorted(aliases)),
        tags=dict(version.tags),
        source=version.source,
        created=version.creation_timestamp / 1000,
    )
