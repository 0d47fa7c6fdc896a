"""A model's files and its version go into MLflow: logged in a run, registered as pending."""

import contextlib

import mlflow
from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from study.mlflow_places import experiment_id
from study.registry.mlflow_registry import Registry
from study.registry.model_files import log_detector
from study.registry.source import Made, Source, digest_of_files
from study.registry.versions import DETECTOR, SEEN, RegistryError, Version


def register(source: Source, made: Made, registry: Registry) -> Version:
    """Logs the model into a run of its own, and registers it as pending; a run that an earlier
    command has left is taken.

    Raises:
        RegistryError: if the registry fails; the same call then goes on.
    """
    client = registry.client
    # Whatever a client is told, MLflow looks logged models up where its globals point.
    mlflow.set_tracking_uri(registry.uri)
    mlflow.set_registry_uri(registry.uri)
    with registry.asked():
        where = experiment_id(
            client, registry.uri, source.experiment, source.folder, study_id=source.study_id
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
            with mlflow.start_run(run_id=run_id):
                logged = log_detector(
                    made.detector, artifact_name=source.name, example=made.example
                )
            model_uri = logged.model_uri
            client.set_tag(run_id, "model_uri", model_uri)
    version = registry.create(
        source.name, model_uri, run_id, source.identity, made.description, of_version
    )
    # A name that cannot be written keeps nobody from deciding.
    with contextlib.suppress(RegistryError), registry.asked():
        # Short, because MLflow's list has little room; beside it the list has the model.
        client.update_run(run_id, name=f"{made.tags['category']}-v{version.number}")
    return version
