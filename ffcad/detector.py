"""A trained model with its calibration, as a line uses it: images in, verdicts and regions out.

    detector = Detector.load(Path("detector"))
    [found] = detector.inspect([image])
    found.score, found.defect, found.regions

A saved detector is a folder of two files, weights as safetensors and the rest as JSON: reading it
runs no code from it.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from ffcad.calibration import Calibration, CalibrationError
from ffcad.config import ConfigError, TrainConfig
from ffcad.datasets import DataError
from ffcad.datasets.images import resize_image, to_rgb
from ffcad.durable import force_names
from ffcad.model import FFCAD
from ffcad.predictor import Predictor
from ffcad.regions import Region, find_regions
from ffcad.training import METHOD_VERSION

WEIGHTS, DESCRIPTION = "detector.safetensors", "detector.json"
FORMAT = 1
KEYS = {"format", "method_version", "config", "use_head", "calibration", "weights_sha256"}


class DetectorError(ValueError):
    """A folder that holds no detector, or one that this version cannot use."""


@dataclass(frozen=True)
class Inspection:
    """What was found on one image.

    Attributes:
        score: anomaly score; higher is more anomalous.
        defect: the verdict, whether the score reaches the image threshold; None of a detector
            without calibration.
        anomaly_map: (S, S) float32 of the image resized to the model's size.
        regions: above the pixel threshold, the highest peak first; none where that is not known.
    """

    score: float
    defect: bool | None
    anomaly_map: np.ndarray
    regions: list[Region]


class Detector:
    """Inspects images of any size; several threads may call it at once.

    Args:
        model: trained; it is moved to the device and put into eval mode.
        calibration: its thresholds; None gives scores and maps without verdicts.
        use_head: False takes the feature discrepancy, for a model whose head was not trained; the
            calibration must be of the same maps.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        ValueError: if the device is not there.
    """

    def __init__(
        self,
        model: FFCAD,
        calibration: Calibration | None,
        *,
        use_head: bool,
        device: str = "auto",
    ) -> None:
        self.predictor = Predictor(model, device, use_head)
        self.config, self.calibration = model.config, calibration
        self._lock = threading.Lock()

    def inspect(self, images: Iterable[np.ndarray]) -> list[Inspection]:
        """Scores, verdicts, maps and regions, in the images' order.

        Args:
            images: each uint8, (H, W) grey, (H, W, 3) RGB or (H, W, 4) with transparency, or uint16
                (H, W) grey; they need not be of one size. Converted and resized as files are, one
                by one, so of large ones an iterator needs the least memory.

        Raises:
            DataError: if one is of another type or shape, with its number.
        """
        side, small, sizes = self.config.image_size, [], []
        for array in images:
            image = _image(array, len(sizes))
            sizes.append(image.size)
            small.append(np.asarray(resize_image(image, side)))
            del array, image  # before the next one is decoded
        if not small:
            return []
        # A server's threads decode at once; the network takes one batch after another, so that
        # memory is that of one.
        with self._lock:
            scores, maps = self.predictor(np.stack(small))
        return [
            self._judged(float(score), anomaly_map, size)
            for score, anomaly_map, size in zip(scores, maps, sizes, strict=True)
        ]

    def _judged(self, score: float, anomaly_map: np.ndarray, size: tuple[int, int]) -> Inspection:
        if self.calibration is None:
            return Inspection(score, None, anomaly_map, [])
        threshold = self.calibration.pixel_threshold
        regions = [] if threshold is None else find_regions(anomaly_map, threshold, size)
        return Inspection(score, score >= self.calibration.image_threshold, anomaly_map, regions)

    def save(self, folder: Path) -> None:
        """Writes the two files, each whole or not at all; those of another detector are replaced.

        Args:
            folder: is made.

        Raises:
            DetectorError: if it has no calibration.
        """
        if self.calibration is None:
            raise DetectorError("a detector without calibration is not saved; calibrate it first")
        state = self.predictor.model.state_dict()
        weights = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in state.items()})
        description = {
            "format": FORMAT,
            "method_version": METHOD_VERSION,
            "config": self.config.to_dict(),
            "use_head": self.predictor.use_head,
            "calibration": self.calibration.to_dict(),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS, weights)
        _write(folder / DESCRIPTION, json.dumps(description, indent=1).encode())
        force_names(folder)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> "Detector":
        """Reads what `save` wrote.

        Raises:
            DetectorError: if a file is missing or damaged, or of another version.
            ValueError: if the device is not there.
        """
        description = _read_description(folder / DESCRIPTION)
        try:
            config = TrainConfig.from_dict(description["config"])
            calibration = Calibration.from_dict(description["calibration"])
        except (ConfigError, CalibrationError, TypeError) as e:
            raise DetectorError(f"{folder / DESCRIPTION}: {e}") from e
        try:
            weights = (folder / WEIGHTS).read_bytes()
        except OSError as e:
            raise DetectorError(f"{folder / WEIGHTS}: {e.strerror or e}") from e
        if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
            raise DetectorError(
                f"{folder / WEIGHTS} is damaged or of another detector than {DESCRIPTION}; save "
                "or fetch both again"
            )
        model = FFCAD(config)
        try:
            model.load_state_dict(tensors_from_bytes(weights))
        except (SafetensorError, RuntimeError) as e:
            reason = " ".join(str(e).split())[:200]
            raise DetectorError(
                f"{folder / WEIGHTS} does not fit its configuration: {reason}"
            ) from e
        return cls(model, calibration, use_head=description["use_head"], device=device)


def _image(array: Any, i: int) -> Image.Image:
    if not isinstance(array, np.ndarray):
        raise DataError(f"image {i} must be an array but got {type(array).__name__}")
    colour = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (3, 4)
    grey = array.dtype in (np.uint8, np.uint16) and array.ndim == 2
    if not (colour or grey) or array.size == 0:
        raise DataError(
            f"image {i} must be uint8 (H, W), (H, W, 3) or (H, W, 4), or uint16 (H, W), but got "
            f"{array.dtype} {array.shape}"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DetectorError(f"{path}: {e.strerror or e}; give a folder with a detector") from e
    except ValueError as e:
        raise DetectorError(f"{path} cannot be read: {e}") from e
    if not isinstance(description, dict) or "format" not in description:
        raise DetectorError(f"{path} is no detector of ffcad")
    if description["format"] != FORMAT or set(description) != KEYS:
        raise DetectorError(
            f"{path} has format {description['format']!r}; this version reads {FORMAT}"
        )
    if description["method_version"] != METHOD_VERSION:
        raise DetectorError(
            f"{path} was made by version {description['method_version']!r} of the method, this is "
            f"{METHOD_VERSION}, whose numbers differ; use the code that it was made with, or train "
            "and calibrate it again"
        )
    if not isinstance(description["use_head"], bool):
        raise DetectorError(f"{path}: use_head must be true or false")
    return description


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
