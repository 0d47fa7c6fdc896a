"""A detector as an MLflow model, and back: "models from code", so that no pickle is in it.

detector folder  artifacts/detector/   weights as safetensors, the rest as JSON
code             model_code.py         the interface; code/ffcad is a copy of the method
environment      requirements.txt      the installed versions of what they import
"""

import base64
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from PIL import Image

import ffcad
from ffcad.detector import Detector
from ffcad.map_files import MAP_SCALE, STEPS
from study.config import StudyError

# What model_code.py and ffcad.detector import; a test loads a model with these and what they need.
REQUIREMENTS = (
    "mlflow",
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "safetensors",
    "filelock",
)
DETECTOR = "detector"

SIGNATURE = ModelSignature(
    # Neither is required, because a row has one or the other.
    inputs=Schema(
        [ColSpec(AnyType(), "image", required=False), ColSpec("string", "path", required=False)]
    ),
    outputs=Schema(
        [
            ColSpec("double", "score", required=False),
            ColSpec("boolean", "defect", required=False),
            *(
                ColSpec("string", name, required=False)
                for name in ("anomaly_map", "regions", "error", "drift")
            ),
        ]
    ),
    params=ParamSchema([ParamSpec("maps", DataType.boolean, True)]),
)


class ModelFilesError(StudyError):
    """A model that cannot be had."""


class NoDetectorError(ModelFilesError):
    """A model whose files are there no more, or hold no detector."""


def log_detector(
    detector: Detector, *, artifact_name: str, example: np.ndarray, **more: Any
) -> ModelInfo:
    """Logs a detector as a model of the active run.

    Args:
        detector: with calibration.
        artifact_name: the model's name within the run.
        example: (H, W, 3) uint8; the input example.
        more: for `mlflow.pyfunc.log_model`: tags, params, step ...
    """
    with _model_arguments(detector, example) as arguments:
        return mlflow.pyfunc.log_model(name=artifact_name, **arguments, **more)


def save_detector(detector: Detector, path: Path, *, example: np.ndarray) -> None:
    """Writes the same model into a folder that is not there yet, without a run."""
    with _model_arguments(detector, example) as arguments:
        mlflow.pyfunc.save_model(path=str(path), **arguments)


def requirements() -> list[str]:
    """The packages that the model needs, at the versions that are installed here."""
    # Without the build's name (2.15.0+cpu), which only an index of its own would know.
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


@contextmanager
def _model_arguments(detector: Detector, example: np.ndarray) -> Iterator[dict[str, Any]]:
    calibration = detector.calibration
    with tempfile.TemporaryDirectory(prefix="ffcad-detector-") as folder:
        detector.save(Path(folder) / DETECTOR)
        yield dict(
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={DETECTOR: str(Path(folder) / DETECTOR)},
            code_paths=[str(Path(ffcad.__file__).parent)],
            pip_requirements=requirements(),
            signature=SIGNATURE,
            input_example=pd.DataFrame({"image": [image_text(example)]}),
            model_config={"device": "auto"},
            metadata={
                "image_threshold": calibration.image_threshold,
                "pixel_threshold": calibration.pixel_threshold,
                "image_size": detector.config.image_size,
                "anomaly_map": f"16-bit PNG; value / {STEPS} * {MAP_SCALE:g} is the map's",
            },
        )


def image_text(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 as the model takes it: base64 of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class FetchedDetector:
    """A registered model's detector, here.

    Attributes:
        folder: for `Detector.load`.
        title: name and version, whatever alias it was asked for by.
    """

    folder: Path
    title: str


def fetch_detector(model_uri: str, folder: Path, tracking_uri: str) -> FetchedDetector:
    """Downloads a registered model's detector, without its code and environment.

    Args:
        model_uri: models:/NAME@ALIAS or models:/NAME/VERSION.
        folder: where it goes.
        tracking_uri: of the MLflow that has the registry.

    Raises:
        ModelFilesError: if there is no such model, or it holds no detector.
    """
    name, alias, number = _parse(model_uri)
    database = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
    if tracking_uri.startswith("sqlite:///") and not database.is_file():
        raise ModelFilesError(  # MLflow would make an empty one
            f"{tracking_uri}: no such database; give --tracking-uri of the MLflow with the model"
        )
    try:
        client = MlflowClient(tracking_uri, tracking_uri)
        if alias:
            number = client.get_model_version_by_alias(name, alias).version
        source = client.get_model_version_download_uri(name, number)
        # By the place of the files: models:/ would be looked up where MLflow's globals point to.
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{source.rstrip('/')}/artifacts/{DETECTOR}",
            dst_path=str(folder),
            tracking_uri=tracking_uri,
        )
    except (FileNotFoundError, NotADirectoryError) as e:
        raise NoDetectorError(
            f"{model_uri}, version {number}: there is no detector in its files "
            f"({e.strerror or e}); was it registered by ffcad-study?"
        ) from e
    except Exception as e:  # whatever a database or a server makes MLflow raise
        reason = " ".join(str(e).split())[:300]
        # MLflow has no type for it: what a store says of a file that is not there.
        gone = any(word in str(e) for word in ("No such artifact", "NoSuchKey", "404"))
        kind = NoDetectorError if gone else ModelFilesError
        raise kind(f"{model_uri} cannot be had from {tracking_uri}: {reason}") from e
    return FetchedDetector(Path(found), f"{name}, version {number}")


def _parse(model_uri: str) -> tuple[str, str, str]:
    """Name, alias and version; one of the last two is empty."""
    path = model_uri.removeprefix("models:/")
    name, at, alias = path.partition("@")
    number = ""
    if not at:
        name, _, number = path.rpartition("/")
    if path == model_uri or not name or not (alias or number.isdecimal()):
        raise ModelFilesError(
            f"{model_uri!r} names no registered model; give models:/NAME@champion or "
            "models:/NAME/VERSION"
        )
    return name, alias, number
