"""The registered model's rows: each is inspected or says why not, whatever the others are."""

import base64
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ffcad.detector import Detector
from ffcad.drift import least_batch
from study.registry.model_files import image_text

pytestmark = [
    pytest.mark.slow,  # MLflow's models take seconds to import
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (30, 44, 3), np.uint8)
CONTENT = base64.b64decode(image_text(COLOUR))


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def file_of(array, form="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory) -> Path:
    """A detector, and an image root with links that lead out of it."""
    folder = tmp_path_factory.mktemp("code")
    detector.save(folder / "detector")
    (folder / "root" / "sub").mkdir(parents=True)
    (folder / "root" / "sub" / "part.bmp").write_bytes(file_of(COLOUR, "BMP"))
    (folder / "root-2").mkdir()
    for place in (folder / "secret.png", folder / "root-2" / "secret.png"):
        place.write_bytes(CONTENT)
    (folder / "root" / "link.png").symlink_to(folder / "secret.png")
    (folder / "root" / "folder").symlink_to(folder)
    (folder / "root" / "inside.bmp").symlink_to(folder / "root" / "sub" / "part.bmp")
    (folder / "root" / "loop").symlink_to("loop")
    return folder


def load(folder: Path, monkeypatch, root: str | None):
    from mlflow.pyfunc import PythonModelContext

    from study.registry.model_code import DetectorModel

    if root is None:
        monkeypatch.delenv("FFCAD_IMAGE_ROOT", raising=False)
    else:
        monkeypatch.setenv("FFCAD_IMAGE_ROOT", root)
    model = DetectorModel()
    artifacts = {"detector": str(folder / "detector")}
    model.load_context(PythonModelContext(artifacts, {"device": "cpu"}))
    return model


def predict(model, rows: list[dict]) -> list[dict]:
    import pandas as pd

    found = model.predict(None, pd.DataFrame(rows, dtype=object), {"maps": True})
    return found.to_dict("records")


GOOD = {
    "png": (text(CONTENT), COLOUR),
    "with line breaks": (base64.encodebytes(CONTENT).decode(), COLOUR),
    "of a browser": (f"data:image/png;base64,{text(CONTENT)}", COLOUR),
    "bytes": (CONTENT, COLOUR),
    "grey": (text(file_of(COLOUR[..., 0])), COLOUR[..., 0]),
    "sixteen bits": (
        text(file_of(COLOUR[..., 0].astype(np.uint16) * 257)),
        COLOUR[..., 0],
    ),
    "transparent": (
        text(file_of(np.dstack([COLOUR, COLOUR[..., :1]]))),
        np.dstack([COLOUR, COLOUR[..., :1]]),
    ),
    "array": (COLOUR, COLOUR),
    "lists": (COLOUR.tolist(), COLOUR),
    "lists of grey": (COLOUR[..., 0].tolist(), COLOUR[..., 0]),
}
BAD = {
    "words": ("no base64!", "not base64 text"),
    "not ASCII": ("äöü", "not base64 text"),
    "another file": (text(b"hello"), "unknown or damaged format"),
    "nothing": ("", "unknown or damaged format"),
    "truncated": (text(CONTENT[:300]), "truncated"),
    "another format": (text(file_of(COLOUR, "BMP")), "unknown or damaged format"),
    "missing": (None, "a row needs an image or a path"),
    "not a number": (float("nan"), "a row needs an image or a path"),
    "a number": (5, "base64 text or an array but got int"),
    "fractions": (np.full((20, 20), 0.5), "whole numbers from 0 to 255"),
    "too high": ([[256] * 20] * 20, "whole numbers from 0 to 255"),
    "empty": ([], "whole numbers from 0 to 255"),
    "uneven": ([[1, 2], [3]], "not of one length"),
    "a row of pixels": (COLOUR[0], "a batch is (N, H, W, 3)"),
    "two channels": (COLOUR[..., :2], "a batch is (N, H, W, 3)"),
}


def test_every_kind_of_image_is_inspected_and_every_other_row_has_its_reason(
    detector, folder, monkeypatch
):
    model = load(folder, monkeypatch, None)
    cells = [cell for cell, _ in (*GOOD.values(), *BAD.values())]
    order = RNG.permutation(len(cells))  # so that good rows follow bad ones
    rows = predict(model, [{"image": cells[i]} for i in order])
    rows = [rows[place] for place in np.argsort(order)]
    expected = detector.inspect([array for _, array in GOOD.values()])
    for name, row, found in zip(GOOD, rows, expected, strict=False):
        assert row["error"] is None, name
        assert row["score"] == pytest.approx(found.score, abs=1e-6), name
        assert row["defect"] is found.defect
    for name, row in zip(BAD, rows[len(GOOD) :], strict=True):
        assert BAD[name][1] in row["error"], name
        assert len(row["error"].splitlines()) == 1
        assert [row[key] for key in ("score", "defect", "anomaly_map", "regions")] == [None] * 4
    assert json.loads(rows[0]["drift"])["batch"]["images"] == len(GOOD)


def test_images_that_come_a_few_at_a_time_are_tested_once_there_are_enough(folder, monkeypatch):
    model = load(folder, monkeypatch, None)
    black = {"image": np.zeros((8, 8, 3), np.uint8)}

    def ask(images):
        return json.loads(predict(model, [black] * images)[0]["drift"])["recent"]

    found = [ask(1), *(ask(33) for _ in range(6)), ask(1)]
    assert [recent["waiting"] for recent in found] == [1, 34, 67, 100, 133, 166, 199, 0]
    assert {(recent["images"], recent["p_value"]) for recent in found[:-1]} == {(0, None)}
    assert (found[-1]["images"], found[-1]["drifted"]) == (200, True)
    # The same images are not asked about again.
    again = [ask(33), ask(33)]
    assert [recent.pop("waiting") for recent in again] == [33, 66]
    assert again[0] == again[1] == {k: v for k, v in found[-1].items() if k != "waiting"}


def test_where_few_normal_images_were_there_a_test_waits_until_it_can_say_something(
    detector, tmp_path, monkeypatch
):
    one = dataclasses.replace(detector.calibration, normal_images=1, normal_scores=(0.1,))
    Detector(detector.predictor.model, one, use_head=True).save(tmp_path / "detector")
    assert load(tmp_path, monkeypatch, None).enough == least_batch(1) > 200


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(folder, monkeypatch):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    [row] = predict(load(folder, monkeypatch, None), [{"image": text(buffer.getvalue())}])
    assert "9000x9000 pixels are more than 64,000,000" in row["error"]


MEMORY = """
import base64, io, re, sys
from concurrent.futures import ThreadPoolExecutor
import pandas as pd
from mlflow.pyfunc import PythonModelContext
from PIL import Image
from study.registry.model_code import DetectorModel
model = DetectorModel()
model.load_context(PythonModelContext({"detector": sys.argv[1]}, {"device": "cpu"}))
def cell(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
def ask(image):
    assert model.predict(None, pd.DataFrame({"image": [image]}))["error"].tolist() == [None]
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
small, large = cell(64), cell(4000)
with ThreadPoolExecutor(8) as clients:
    list(clients.map(ask, [small] * 8))  # what each thread needs anyway
    before = most()
    ask(large)
    one = most()
    list(clients.map(ask, [large] * 8))
print((most() - before) / (one - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is read from /proc")
def test_eight_clients_with_large_images_take_the_memory_of_two(folder):
    command = [sys.executable, "-c", MEMORY, str(folder / "detector")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 3.5


def test_paths_are_off_unless_the_servers_owner_sets_a_root(folder, monkeypatch):
    for root in (None, ""):
        [row] = predict(load(folder, monkeypatch, root), [{"path": str(folder / "secret.png")}])
        assert "paths are off: FFCAD_IMAGE_ROOT is not set" in row["error"]


@pytest.mark.parametrize("path", ["sub/part.bmp", "sub/../sub/./part.bmp", "inside.bmp"])
def test_a_file_below_the_root_is_inspected(detector, folder, monkeypatch, path):
    model = load(folder, monkeypatch, str(folder / "root"))
    [row] = predict(model, [{"path": path}])
    assert row["error"] is None
    assert row["score"] == pytest.approx(detector.inspect([COLOUR])[0].score, abs=1e-6)
    absolute = str(folder / "root" / path)
    assert predict(model, [{"path": absolute}])[0]["score"] == row["score"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "../nowhere.png",
        "sub/../../secret.png",
        "../root-2/secret.png",
        "SECRET",
        "/etc/passwd",
        "link.png",
        "folder/secret.png",
        "folder/root-2/secret.png",
        "loop",
        "a\0b",
    ],
)
def test_no_path_leads_out_of_the_root_nor_tells_what_is_there(folder, monkeypatch, path):
    model = load(folder, monkeypatch, str(folder / "root"))
    path = path.replace("SECRET", str(folder / "secret.png"))
    [row] = predict(model, [{"path": path}])
    assert row["error"] == "the path does not lie below the server's image root"
    assert row["score"] is None


@pytest.mark.parametrize("path", ["nowhere.png", "sub", ".", "x" * 300, "", 5])
def test_a_path_without_a_file_says_so(folder, monkeypatch, path):
    [row] = predict(load(folder, monkeypatch, str(folder / "root")), [{"path": path}])
    assert "no such file below" in row["error"] or "File name too long" in row["error"]


def test_a_path_takes_image_files_alone_and_none_that_would_fill_the_memory(
    tmp_path, folder, monkeypatch
):
    model = load(folder, monkeypatch, str(tmp_path))
    for form in ("TIFF", "WEBP", "PPM", "EPS", "GIF"):
        (tmp_path / f"{form}.png").write_bytes(file_of(COLOUR, form))
    with open(tmp_path / "large.bmp", "wb") as file:
        file.truncate(256_000_001)  # a hole: it takes no disk
    os.mkfifo(tmp_path / "pipe.png")
    rows = predict(model, [{"path": path.name} for path in sorted(tmp_path.iterdir())])
    errors = {
        path.name: row["error"] for path, row in zip(sorted(tmp_path.iterdir()), rows, strict=True)
    }
    assert {name for name, error in errors.items() if error is None} == {
        f"{form}.png" for form in ("TIFF", "WEBP", "PPM")
    }
    for form in ("EPS", "GIF"):
        assert "unknown or damaged format" in errors[f"{form}.png"]
    assert errors["large.bmp"] == "the file has 256,000,001 bytes, more than 256,000,000"
    assert "there is no such file" in errors["pipe.png"]


@pytest.mark.parametrize("parts", [("folder", "secret.png"), ("link.png",), ("inside.bmp",)])
def test_what_became_a_link_after_the_path_was_checked_is_not_followed(folder, parts):
    from study.registry.model_code import _read_below

    assert _read_below(folder / "root", ("sub", "part.bmp")) == file_of(COLOUR, "BMP")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        _read_below(folder / "root", parts)


def test_image_and_path_together_are_refused_and_apart_are_not(folder, monkeypatch):
    model = load(folder, monkeypatch, str(folder / "root"))
    rows = predict(
        model,
        [
            {"image": text(CONTENT), "path": "inside.bmp"},
            {"image": text(CONTENT)},
            {"path": "inside.bmp"},
        ],
    )
    assert rows[0]["error"] == "a row needs an image or a path, and not both"
    assert rows[1]["score"] == pytest.approx(rows[2]["score"], abs=1e-6)


def test_a_root_that_is_no_folder_stops_the_server(folder, monkeypatch):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="FFCAD_IMAGE_ROOT=/nowhere is no folder"):
        load(folder, monkeypatch, "/nowhere")


def test_a_frame_without_rows_has_an_answer_without_rows(folder, monkeypatch):
    import pandas as pd

    model = load(folder, monkeypatch, None)
    found = model.predict(None, pd.DataFrame({"image": []}))
    assert len(found) == 0
    assert list(found.columns) == ["score", "defect", "anomaly_map", "regions", "error", "drift"]


def test_lists_of_texts_are_a_row_for_each():
    from study.registry.model_code import _rows

    paths, images = ["a.png", "b.png"], ["aaaa", "bbbb"]
    rows = _rows(pd.DataFrame({"path": [paths]}))
    assert rows["path"].tolist() == paths
    assert rows["image"].tolist() == [None, None]
    # Both are given, so each row has both, which it says of itself.
    rows = _rows(pd.DataFrame({"path": [paths], "image": [images]}))
    assert (rows["path"].tolist(), rows["image"].tolist()) == (paths, images)
    # Of two lengths nobody knows what belongs together.
    assert len(_rows(pd.DataFrame({"path": [paths], "image": [images[:1]]}))) == 1
