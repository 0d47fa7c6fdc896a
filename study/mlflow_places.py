"""Where MLflow keeps things: its database and its experiments, found or made."""

import os
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

# The tag of an experiment that tells which study of its name it is.
STUDY_ID = "study_id"
# MLflow's pages for trained models, and not those for language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}


def make_database(uri: str) -> None:
    """Makes MLflow's SQLite database if it is not there: whole, and by one process at a time.

    MLflow makes it in place and in many steps. Two processes that do so at once, or one that is
    killed, leave a file that MLflow can neither use nor mend.

    Args:
        uri: of MLflow; where it is no file of SQLite, nothing is done.
    """
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()
    if path.exists():
        return
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"sqlite:///{temporary}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store.engine.dispose()
        os.replace(temporary, path)


def experiment_id(
    client: MlflowClient,
    uri: str,
    name: str,
    folder: Path,
    *,
    study_id: str | None = None,
    note: str | None = None,
) -> str:
    """Finds an experiment, or makes it; one that was deleted is restored.

    A study's is the one of its name, unless that is of a study on another storage: two people who
    ask the same of one server have studies of one name, and each would take the other's runs for
    what it left behind. Then some of the study's id is in the name.

    Args:
        client: of MLflow.
        uri: of MLflow.
        name: the experiment's.
        folder: of this machine, for its files where MLflow is no server.
        study_id: of the study's document; None where it has none.
        note: its description, where it is made.
    """
    found = client.get_experiment_by_name(name)
    if found and study_id and found.tags.get(STUDY_ID, study_id) != study_id:
        name = f"{name} ({study_id[:8]})"
        found = client.get_experiment_by_name(name)
    identity = {STUDY_ID: study_id} if study_id else {}
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if STUDY_ID not in found.tags:
            for key, value in identity.items():
                client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id
    server = uri.startswith(("http:", "https:", "databricks"))
    artifacts = (folder / "mlartifacts").resolve().as_uri()
    return client.create_experiment(
        name,
        artifact_location=None if server else artifacts,
        tags={**KIND, **identity, **({} if note is None else {MLFLOW_RUN_NOTE: note})},
    )


def without_login(uri: str) -> str:
    """An address of MLflow without user and password, to be shown or kept."""
    scheme, separator, rest = uri.partition("://")
    # A password may have any sign unless it was escaped, also the slash that ends what has it.
    return uri if rest.startswith("/") else f"{scheme}{separator}{rest.rpartition('@')[2]}"
