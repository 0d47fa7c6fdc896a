"""The registered model: MLflow runs this file from the model's own folder, without the project.

    predict(frame with a column `image`) -> frame with a row for each image

A cell of `image` is a PNG or JPEG file as base64 text, or the pixels: (H, W) or (H, W, 3), 0 to
255. A batch of arrays goes in under the column's name, {"image": array of (N, H, W, 3)}. A cell
of `path` names an image file below the folder FFCAD_IMAGE_ROOT, which whoever starts the server
sets; without it, paths are refused. A row that cannot be read has its reason in `error` and leaves
the others alone.
"""

import base64
import binascii
import dataclasses
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

from ffcad.datasets.images import IMAGE_FORMATS, Unreadable, read_rgb
from ffcad.detector import Detector, Inspection
from ffcad.drift import drift, least_batch
from ffcad.map_files import map_to_png

ROOT_VARIABLE = "FFCAD_IMAGE_ROOT"
COLUMNS = ("score", "defect", "anomaly_map", "regions", "error", "drift")
# Most lines send one image at a time, and a batch of one can never be called drifted. Each image
# counts in one test only: tests of the same images, asked at every request, would be many more
# than the level is meant for.
RECENT = 200
# A file of a few kilobytes can claim to be an image that fills the memory.
MOST_PIXELS = 64_000_000
# What the largest image takes without compression, alpha included.
MOST_BYTES = 4 * MOST_PIXELS
# An image of the most pixels takes up to 0.8 GB until it has the model's size, and C's allocator
# keeps some of it for each thread: so few threads inspect, whichever of the server's ask. While one
# has the network, the other decodes.
INSPECTING_THREADS = 2
# Less is a row of pixels: a single image that was sent where a batch belongs.
LEAST_SIDE = 8


class RowError(Exception):
    """Why a row has no image that could be inspected."""


class DetectorModel(PythonModel):
    """A detector behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the detector; the name of the parameter is MLflow's."""
        self.detector = Detector.load(
            Path(context.artifacts["detector"]), context.model_config["device"]
        )
        normal = self.detector.calibration.normal_scores
        self.enough = max(RECENT, least_batch(len(normal)))
        self.recent, self.waiting = drift(normal, []), []
        self.recent_lock = threading.Lock()
        self.inspecting = ThreadPoolExecutor(INSPECTING_THREADS)
        root = os.environ.get(ROOT_VARIABLE)
        self.root = None if not root else Path(root).resolve()
        if self.root is not None and not self.root.is_dir():
            raise MlflowException.invalid_parameter_value(
                f"{ROOT_VARIABLE}={root} is no folder; give one, or unset it"
            )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """Inspects the rows.

        Args:
            context: MLflow's.
            model_input: with a column `image`, `path`, or both.
            params: `maps`, whether anomaly maps are wanted; they are most of an answer.

        Returns:
            In the rows' order: `score`; `defect`, the verdict; `anomaly_map`, base64 of a 16-bit
            PNG of the model's size, whose value v stands for v / 65535 * 2; `regions`, JSON, boxes
            [x0, y0, x1, y1] and areas in pixels of the image that was sent, and the map's peak;
            `error`; and `drift`, JSON, the same in each row: whether the scores of these rows
            (`batch`), and of the last `RECENT` or more that this process has put together
            (`recent`), are still those of normal images. That is tested once for all of them, and
            stays until as many new ones have come; `waiting` says how many have.

        Raises:
            MlflowException: if there is neither column.
        """
        rows = _rows(model_input)
        errors: dict[int, str] = {}
        images = self._images(rows, errors)
        found = iter(self.inspecting.submit(self.detector.inspect, images).result())
        inspected = {i: next(found) for i in range(len(rows)) if i not in errors}
        scores = [inspection.score for inspection in inspected.values()]
        normal = self.detector.calibration.normal_scores
        of_batch = dataclasses.asdict(drift(normal, scores))
        drifts = json.dumps({"batch": of_batch, "recent": self._recent_with(scores)})
        maps = params is None or params["maps"]
        answers = [
            {**_answer(inspected.get(i), maps), "error": errors.get(i), "drift": drifts}
            for i in range(len(rows))
        ]
        # As objects, because a missing number would become NaN, which is no JSON.
        return pd.DataFrame(answers, columns=list(COLUMNS), index=rows.index, dtype=object)

    def _recent_with(self, scores: list[float]) -> dict[str, Any]:
        """The last test of enough scores, perhaps of this call's; several threads call at once."""
        with self.recent_lock:
            self.waiting += scores
            if len(self.waiting) >= self.enough:
                self.recent = drift(self.detector.calibration.normal_scores, self.waiting)
                self.waiting = []
            return {**dataclasses.asdict(self.recent), "waiting": len(self.waiting)}

    def _images(self, rows: pd.DataFrame, errors: dict[int, str]) -> Iterator[np.ndarray]:
        """Those that can be read, one in memory at a time; `errors` gets the other rows."""
        for i, (image, path) in enumerate(zip(rows["image"], rows["path"], strict=True)):
            try:
                yield self._image(image, path)
            except RowError as e:
                errors[i] = str(e)

    def _image(self, image: Any, path: Any) -> np.ndarray:
        if _is_missing(image) == _is_missing(path):
            raise RowError("a row needs an image or a path, and not both")
        if _is_missing(path):
            return _from_cell(image)
        return _decoded(self._content(path), IMAGE_FORMATS)

    def _content(self, path: Any) -> bytes:
        """A file's content, if it lies below the root once all links are followed."""
        if self.root is None:
            raise RowError(f"paths are off: {ROOT_VARIABLE} is not set where the server runs")
        outside = RowError("the path does not lie below the server's image root")
        try:
            file = (self.root / str(path)).resolve()
            if not file.is_relative_to(self.root):
                raise outside
            return _read_below(self.root, file.relative_to(self.root).parts)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise RowError("there is no such file below the server's image root") from e
        except OSError as e:
            if e.errno == errno.ELOOP:
                raise outside from e
            raise RowError(f"the file cannot be read ({e.strerror})") from e
        except (ValueError, RuntimeError) as e:  # a null byte, a loop of links
            raise outside from e


def _read_below(root: Path, parts: Sequence[str]) -> bytes:
    """A file's content; part by part, so that what has become a link since then is not followed.

    Raises:
        OSError: if it is not there, or a part is a link.
        RowError: if it is too large.
    """
    opened = os.open(root, os.O_RDONLY)
    try:
        for part in parts:
            # What is no file, a pipe for one, would be waited for.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            folder, opened = opened, os.open(part, flags, dir_fd=opened)
            os.close(folder)
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if status.st_size > MOST_BYTES:
            raise RowError(f"the file has {status.st_size:,} bytes, more than {MOST_BYTES:,}")
        with os.fdopen(opened, "rb", closefd=False) as file:
            return file.read(MOST_BYTES)
    finally:
        os.close(opened)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with both columns."""
    if not {"image", "path"} & set(frame.columns):
        raise MlflowException.invalid_parameter_value(
            "the input has neither a column 'image' nor 'path'; send base64 PNG or JPEG, or arrays "
            "(N, H, W, 3), under the name 'image'"
        )
    rows = pd.DataFrame(index=frame.index)
    for name in ("image", "path"):
        cells = frame[name] if name in frame else [None] * len(frame)
        rows[name] = pd.Series(list(cells), index=frame.index, dtype=object)
    if len(rows) == 1:
        # MLflow makes one row of {"inputs": {"image": [text, text]}}.
        lists = {name: rows[name].iloc[0] for name in rows if _is_texts(rows[name].iloc[0])}
        if lists and len({len(texts) for texts in lists.values()}) == 1:
            return pd.DataFrame({name: lists.get(name) for name in rows}, dtype=object)
    return rows


def _is_texts(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(text, str) for text in cell)


def _from_cell(cell: Any) -> np.ndarray:
    if isinstance(cell, str):
        # What browsers make: data:image/png;base64,...
        text = cell.partition(",")[2] if cell.startswith("data:") else cell
        try:
            cell = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as e:
            raise RowError("the image is not base64 text of a PNG or JPEG file") from e
    if isinstance(cell, bytes):
        return _decoded(cell, ("PNG", "JPEG"))
    if isinstance(cell, list | np.ndarray):
        return _from_numbers(cell)
    raise RowError(f"the image must be base64 text or an array but got {type(cell).__name__}")


def _decoded(content: bytes, formats: tuple[str, ...]) -> np.ndarray:
    try:
        return np.asarray(read_rgb(content, formats=formats, most_pixels=MOST_PIXELS))
    except Unreadable as e:
        raise RowError(f"the image {e}") from e


def _from_numbers(cell: list | np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(cell)
    except ValueError as e:
        raise RowError("the image's rows are not of one length") from e
    if array.dtype.kind not in "iu" or not array.size or array.min() < 0 or array.max() > 255:
        raise RowError("an array's values must be whole numbers from 0 to 255")
    if (
        array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
        or min(array.shape[:2]) < LEAST_SIDE
        or array.shape[0] * array.shape[1] > MOST_PIXELS
    ):
        raise RowError(
            f"an array must be (H, W) or (H, W, 3), with sides of at least {LEAST_SIDE} and "
            f"{MOST_PIXELS:,} pixels at most, but is {array.shape}; a batch is (N, H, W, 3)"
        )
    return array.astype(np.uint8)


def _answer(inspection: Inspection | None, maps: bool) -> dict[str, Any]:
    if inspection is None:
        return {"score": None, "defect": None, "anomaly_map": None, "regions": None}
    png = base64.b64encode(map_to_png(inspection.anomaly_map)).decode() if maps else None
    regions = json.dumps([dataclasses.asdict(region) for region in inspection.regions])
    return {
        "score": inspection.score,
        "defect": inspection.defect,
        "anomaly_map": png,
        "regions": regions,
    }


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))


mlflow.models.set_model(DetectorModel())
