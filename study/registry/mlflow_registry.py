"""Versions of a model in MLflow's registry: found, created, tagged, pointed at.

MLflow's registry knows no transaction and no condition. What it does alone and whole is to give a
new version its number, with its tags, and to move one alias. So

- a version is found by the tag `promotion`, a digest of what was promoted, before one is created;
- one whose tag `gate` says 'pending' is somebody's work, and its number a ticket: who wants to
  decide about a model waits for the pending ones before it (`study.registry.turns`);
- everything about a version is written before the champion's alias moves, which is the moment that
  counts; the tag `gate` gets its word last, so that whatever was broken off is gone on with
  (`study.registry.champions`).
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from study.mlflow_places import make_database, without_login
from study.mlflow_reach import set_up_client
from study.mlflow_runs import TAG_LENGTH
from study.registry.versions import (
    CHAMPION,
    DISCARDED,
    PENDING,
    SEEN,
    RegistryError,
    Version,
    promoter_tag,
)

SQLITE = "sqlite:///"
# What MLflow's address of a logged model begins with; its id follows.
LOGGED = "models:/"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")
_USE = (
    "The version with the alias champion is the one in use: `models:/{name}@champion`. The alias "
    "challenger is on the last one that was not shown to be as good; its tags say by which figures."
)
_AGAIN = "when it is back, the same command goes on where this one ended"


class Registry:
    """MLflow's registry.

    Args:
        uri: of MLflow, which keeps runs and models in one place.
        make: whether a SQLite file is made where there is none.

    Attributes:
        uri: as given.
        shown: the same without user and password.

    Raises:
        RegistryError: if there is none, or it does not answer.
    """

    def __init__(self, uri: str, *, make: bool = False) -> None:
        set_up_client()
        self.uri, self.shown = uri, without_login(uri)
        if not make and uri.startswith(SQLITE):
            path = Path(uri.removeprefix(SQLITE).partition("?")[0])
            if not path.exists():
                raise RegistryError(
                    f"there is no {path}; promote a study first, or say with --tracking-uri or "
                    "--storage where the models are"
                )
        with self.asked():
            make_database(uri)
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def names(self) -> list[str]:
        """All models, sorted."""
        with self.asked():
            found = _all(lambda token: self.client.search_registered_models(page_token=token))
            return sorted(model.name for model in found)

    def versions(self, name: str) -> list[Version]:
        """All versions of a model with their aliases, by number; empty where it is not there."""
        with self.asked():
            try:
                model = self.client.get_registered_model(name)
            except MlflowException as e:
                if e.error_code in _NOT_THERE:
                    return []
                raise
            found = _all(
                lambda token: self.client.search_model_versions(
                    f"name = '{name}'", max_results=1000, page_token=token
                )
            )
        aliases: dict[str, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        versions = [_version(v, aliases.get(str(v.version), [])) for v in found]
        return sorted(versions, key=lambda version: version.number)

    def known_versions(self, name: str) -> list[Version]:
        """The same, of a model that the user named.

        Raises:
            RegistryError: if it is not there.
        """
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise RegistryError(f"{self.shown} has no model {name!r}; its models are {known}")
        return versions

    def version(self, name: str, number: int) -> Version:
        """One version.

        Raises:
            RegistryError: if it is not there.
        """
        versions = self.known_versions(name)
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(str(version.number) for version in versions)
        raise RegistryError(f"{name} has no version {number}; it has {known}")

    def version_of(self, model_uri: str) -> Version:
        """The version that models:/NAME@ALIAS or models:/NAME/VERSION means.

        Raises:
            RegistryError: if that is no such address, or there is none.
        """
        found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model_uri)
        if found is None:
            raise RegistryError(
                f"{model_uri!r} names no version; give models:/NAME@champion or "
                "models:/NAME/VERSION"
            )
        name, alias, number = found.groups()
        if number is not None:
            return self.version(name, int(number))
        for version in self.known_versions(name):
            if alias in version.aliases:
                return version
        raise RegistryError(f"{name} has no version with the alias {alias!r}")

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
        tags = {**tags, "promotion": promotion, "gate": PENDING, "promoter": promoter_tag()}
        with self.asked():
            try:
                self.client.create_registered_model(name, description=_USE.format(name=name))
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self.client.create_model_version(
                name,
                source,
                run_id=run,
                tags={key: _cut(value) for key, value in tags.items()},
                description=description,
                # A server wants it said that the source is this one.
                model_id=source.removeprefix(LOGGED) if source.startswith(LOGGED) else None,
            )
        mine = self.of_promotion(name, promotion)
        if mine.number != int(made.version):  # Somebody gave the same command at the same time.
            self.tag(self.version(name, int(made.version)), {"gate": DISCARDED})
        return mine

    def tag(self, version: Version, tags: dict[str, Any]) -> Version:
        """Writes tags that are not as given, in their order, and takes away those that are None;
        gives the version as it is then."""
        number, now = str(version.number), self.version(version.name, version.number).tags
        with self.asked():
            for key, value in tags.items():
                if value is not None and now.get(key) != _cut(value):
                    self.client.set_model_version_tag(version.name, number, key, _cut(value))
                elif value is None and key in now:
                    self.client.delete_model_version_tag(version.name, number, key)
        return self.version(version.name, version.number)

    def describe(self, version: Version, description: str) -> None:
        """Writes a version's description, if it is not as given."""
        if description != version.description:
            with self.asked():
                self.client.update_model_version(
                    version.name, str(version.number), description=description
                )

    def point(self, alias: str, version: Version, then: str = _AGAIN) -> None:
        """Moves an alias: the champion's is the moment at which another model is in use.

        Args:
            alias: that is moved.
            version: to which.
            then: what to do where the registry fails.
        """
        with self.asked(then):
            self.client.set_registered_model_alias(version.name, alias, str(version.number))

    def unpoint(self, alias: str, version: Version) -> None:
        """Takes an alias from a version, if it has it."""
        if alias in self.version(version.name, version.number).aliases:
            with self.asked():
                self.client.delete_registered_model_alias(version.name, alias)

    def seen_images(self, version: Version) -> set[str] | None:
        """Digests of the images that a version was made of; None where that is not known."""
        if not version.run:
            return None
        with self.asked(), tempfile.TemporaryDirectory() as folder:
            try:
                files = [file.path for file in self.client.list_artifacts(version.run)]
            except MlflowException as e:
                if e.error_code in _NOT_THERE:
                    return None  # Somebody has deleted the run for good.
                raise
            if SEEN not in files:
                return None
            path = self.client.download_artifacts(version.run, SEEN, folder)
            return set(Path(path).read_text().split())

    @contextmanager
    def asked(self, then: str = _AGAIN) -> Iterator[None]:
        """Whatever a database or a server makes MLflow raise inside becomes one line.

        Args:
            then: what to do about it.

        Raises:
            RegistryError: in its place.
        """
        try:
            yield
        except RegistryError:
            raise
        except Exception as e:
            said = f"{e}".replace(self.uri, self.shown)
            reason = " ".join(said.split())[:300] or type(e).__name__
            raise RegistryError(f"the registry {self.shown} failed: {reason}; {then}") from e


def _all(page_of: Callable[[str | None], Any]) -> list[Any]:
    """The entries of all pages of an answer."""
    found, token = [], None
    while True:
        page = page_of(token)
        found += page
        token = page.token
        if not token:
            return found


def _cut(value: Any) -> str:
    return str(value)[:TAG_LENGTH]


def _version(version: ModelVersion, aliases: list[str]) -> Version:
    return Version(
        name=version.name,
        number=int(version.version),
        aliases=tuple(sorted(aliases)),
        tags=dict(version.tags),
        description=version.description or "",
        run=version.run_id or "",
        created=version.creation_timestamp / 1000,
    )
