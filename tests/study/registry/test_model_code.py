"""The registered model's rows: each is inspected or says why not, whatever the others are."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_images_that_come_one_at_a_time_drift_too(folder, monkeypatch):
    model = load(folder, monkeypatch, None)
    black = {"image": text(file_of(np.zeros((40, 40, 3), np.uint8)))}
    found = [json.loads(predict(model, [black])[0]["drift"]) for _ in range(12)]
    assert {drift["batch"]["p_value"] for drift in found} == {None}
    assert [drift["recent"]["images"] for drift in found] == list(range(1, 13))
    assert not found[0]["recent"]["drifted"]
    assert found[-1]["recent"]["drifted"]


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(folder, monkeypatch):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    [row] = predict(load(folder, monkeypatch, None), [{"image": text(buffer.getvalue())}])
    assert "9000x9000 pixels are more than 64,000,000" in row["error"]


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
