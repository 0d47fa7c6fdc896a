"""`python -m study predict`: a registered model inspects image files."""

import argparse
import os
import tempfile
from pathlib import Path

from study.config import StudyError
from study.default_places import (
    TRACKING_DEFAULT,
    default_storage,
    default_tracking_uri,
    local_folder,
    mlflow_file,
)
from study.storage import Storage


def add_parser(commands: argparse._SubParsersAction, *, asked: bool) -> None:
    """Adds the command.

    Args:
        commands: gets it.
        asked: whether the user means this one; the others do not wait for its imports.
    """
    predict = commands.add_parser(
        "predict",
        help="inspects image files with a registered model",
        description="Inspects image files with a model of MLflow's registry and writes scores.csv, "
        "a picture of each, and index.html, a contact sheet. Exit code 1 if a file could not be "
        "inspected.",
    )
    predict.add_argument("model", help="models:/NAME@champion or models:/NAME/VERSION")
    if asked:
        from ffcad.commands.predict import add_arguments

        add_arguments(predict)
    predict.add_argument(
        "--tracking-uri",
        help=f"of the MLflow with the registry ({TRACKING_DEFAULT} on the default storage)",
    )


def run(given: argparse.Namespace) -> int:
    """Fetches the detector and inspects; 1 if a file could not be read, else 0.

    Raises:
        StudyError: if the model cannot be had, or there is nothing to inspect.
    """
    from ffcad.commands.arguments import UsageError
    from ffcad.commands.image_sources import find_sources
    from ffcad.commands.inspecting import inspect_files
    from ffcad.detector import Detector, DetectorError
    from study.registry.model_files import fetch_detector

    # Somebody waits for it: a server that is down is said to be down at once.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    uri = given.tracking_uri or default_tracking_uri()
    uri = uri or mlflow_file(local_folder(Storage(default_storage())))
    try:
        sources = find_sources(given.images, given.out)
        with tempfile.TemporaryDirectory(prefix="ffcad-predict-") as folder:
            fetched = fetch_detector(given.model, Path(folder), uri)
            detector = Detector.load(fetched.folder)
        return inspect_files(detector, fetched.title, sources, given.out, monitor=given.monitor)
    except (UsageError, DetectorError) as e:
        raise StudyError(str(e)) from e
