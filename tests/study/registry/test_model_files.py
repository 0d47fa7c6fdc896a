"""A detector as an MLflow model: what it is made of, and where it works."""

import base64
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from ffcad.commands.predict import load_detector
from ffcad.datasets import load_category
from ffcad.drift import least_batch
from ffcad.map_files import MAP_SCALE, STEPS, png_to_map
from study.__main__ import main
from study.registry.model_files import (
    REQUIREMENTS,
    ModelFilesError,
    fetch_detector,
    image_text,
    log_detector,
    requirements,
    save_detector,
)

RNG = np.random.default_rng(3)
NAME = "ffcad-synthetic-dial"
START_SECONDS = 300.0
# What MLflow says of its own type hints when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")


@pytest.mark.parametrize(
    "uri", ["ffcad-dial", "models:/", "models:/x", "models:/x@", "models:/x/latest", "runs:/1/x"]
)
def test_what_names_no_model_is_refused(uri, tmp_path):
    with pytest.raises(ModelFilesError, match="names no registered model"):
        fetch_detector(uri, tmp_path, "sqlite:///nowhere.db")


def test_a_database_that_is_not_there_is_not_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    assert main(["predict", "models:/x@champion", "a.png", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: sqlite:///.*runs/mlflow.db: no such database; .*\n", error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_versions_are_pinned_without_the_name_of_a_build():
    pins = requirements()
    assert len(pins) == len(REQUIREMENTS)
    assert all(re.fullmatch(r"[a-z]+==\d[\w.]*", pin) for pin in pins)


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_detector(detector, folder, example=RNG.integers(0, 256, (40, 40, 3), np.uint8))
    return folder


def environment_of_requirements(folder: Path) -> Path:
    """A folder with the installed packages that the model's requirements name, and theirs."""
    open_names, seen = list(REQUIREMENTS), set()
    while open_names:
        name = re.sub(r"[-_.]+", "-", open_names.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another system or Python
            continue
        for line in distribution.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                open_names.append(needed.name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


PROGRAM = """
import json, sys
import mlflow, numpy, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
import ffcad
images = numpy.load(sys.argv[2])
found = model.predict({"image": images})
print(json.dumps({
    "scores": found["score"].tolist(), "defects": found["defect"].tolist(),
    "ffcad": ffcad.__file__, "path": sys.path,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


@pytest.mark.slow
def test_it_loads_with_its_own_requirements_alone_and_no_pickle(detector, saved, tmp_path):
    """As in an environment made for it: no project, no other package, pickle forbidden."""
    images = RNG.integers(0, 256, (3, 50, 70, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "packages").mkdir()
    packages = environment_of_requirements(tmp_path / "packages")
    assert not (packages / "ray").exists()
    assert not (packages / "rich").exists()
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(saved), str(tmp_path / "images.npy")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=START_SECONDS,
        env={
            **os.environ,
            "PYTHONPATH": str(packages),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ffcad"] == str(saved / "code" / "ffcad" / "__init__.py")
    project = str(Path(__file__).parents[3])
    assert not [path for path in found["path"] if path.startswith(project)]
    assert not {"study", "ray", "rich", "optuna"} & set(found["modules"])
    expected = detector.inspect(images)
    assert found["scores"] == pytest.approx([e.score for e in expected], rel=1e-6)
    assert found["defects"] == [e.defect for e in expected]


@pytest.mark.slow
def test_no_file_of_it_is_a_pickle_or_names_this_project(saved):
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {"artifacts/detector/detector.safetensors", "artifacts/detector/detector.json"} <= names
    assert "code/ffcad/detector.py" in names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pt", ".pyc"))]
    assert not [name for name in names if name.startswith("code/") and "/ffcad/" not in name]


@pytest.fixture(scope="module")
def registry(detector, tmp_path_factory) -> str:
    """The URI of an MLflow with one registered model, its champion."""
    import mlflow
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.create_experiment("e", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("e")
        with mlflow.start_run():
            info = log_detector(
                detector,
                artifact_name="detector",
                example=RNG.integers(0, 256, (40, 40, 3), np.uint8),
                tags={"category": "dial"},
            )
        version = mlflow.register_model(info.model_uri, NAME).version
        MlflowClient().set_registered_model_alias(NAME, "champion", version)
    finally:
        mlflow.set_tracking_uri(before)
    return uri


@pytest.fixture(scope="module")
def dial(tmp_path_factory):
    """The synthetic test set of a category: (60, 64, 64, 3)."""
    cache = tmp_path_factory.mktemp("decoded")
    data = load_category("synthetic", None, "dial", 64, cache=cache, select_on="paper")
    return np.asarray(data.report.images)


@pytest.mark.slow
def test_predict_fetches_the_champion_and_gives_the_detectors_verdicts(
    detector, registry, dial, tmp_path, capsys
):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(dial[:6]):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    flags = ["--out", str(tmp_path / "out"), "--tracking-uri", registry, "--monitor"]
    images = str(tmp_path / "images")
    assert main(["predict", f"models:/{NAME}@champion", images, *flags]) == 0
    assert "6 of 6 images inspected" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"<h1>{NAME}, version 1</h1>" in page
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()[1:]
    expected = detector.inspect(dial[:6])
    verdicts = {Path(row.split(",")[0]).stem: row.split(",")[2] for row in rows}
    assert verdicts == {
        str(i): "defect" if found.defect else "normal" for i, found in enumerate(expected)
    }
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["images"] == 6

    for uri, message in (
        (f"models:/{NAME}@challenger", "challenger"),
        (f"models:/{NAME}/7", "7"),
        ("models:/other@champion", "other"),
    ):
        assert main(["predict", uri, images, *flags]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {uri} cannot be had from {registry}: ")
        assert message in line


@pytest.mark.slow
def test_mlflow_gives_the_detectors_folder_that_commands_without_mlflow_take(
    detector, registry, dial, tmp_path
):
    """As in the README."""
    command = [sys.executable, "-m", "mlflow", "artifacts", "download", "--artifact-uri"]
    command += [f"models:/{NAME}@champion/artifacts/detector", "--dst-path", "."]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = detector.inspect(dial[:2])
    # What `predict` and `export` of ffcad read it with.
    found = load_detector(tmp_path / "artifacts" / "detector", "cpu").inspect(dial[:2])
    assert [f.score for f in found] == [e.score for e in expected]
    assert [f.defect for f in found] == [e.defect for e in expected]


class Served:
    """`mlflow models serve` of the champion, on loopback, as its own process."""

    def __init__(self, uri: str, folder: Path, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "server.log"
        command = [
            sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion",
            "--env-manager", "local", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1",
        ]  # fmt: skip
        # It calls uvicorn by its name.
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                env={
                    **kept,
                    "PATH": binaries,
                    "MLFLOW_TRACKING_URI": uri,
                    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
                    "FFCAD_IMAGE_ROOT": str(root),
                },
            )

    def wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < end, self.log.read_text()[-3000:]
                time.sleep(0.2)

    def post(self, document: dict) -> list[dict]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations",
            json.dumps(document).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            # No NaN: other languages' parsers refuse it.
            return json.loads(answer.read(), parse_constant=pytest.fail)["predictions"]

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 15)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
                self.process.wait()


@pytest.fixture(scope="module")
def served(registry, dial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    root = folder / "root"
    root.mkdir()
    Image.fromarray(dial[0]).save(root / "part.png")
    Image.fromarray(dial[0]).save(folder / "secret.png")
    (root / "link.png").symlink_to(folder / "secret.png")
    server = Served(registry, folder, root)
    try:
        server.wait()
        yield server
    finally:
        server.end()


@pytest.mark.slow
def test_eight_clients_get_the_detectors_answers(detector, served, dial):
    def ask(image):
        document = {"dataframe_records": [{"image": image_text(image)}]}
        [row] = served.post(document)
        return row

    with ThreadPoolExecutor(8) as clients:
        rows = list(clients.map(ask, dial))
    expected = detector.inspect(dial)
    assert len(rows) == len(expected) == 60
    for row, found in zip(rows, expected, strict=True):
        assert row["error"] is None
        assert row["score"] == pytest.approx(found.score, abs=1e-6)
        assert row["defect"] is found.defect
        shown = png_to_map(base64.b64decode(row["anomaly_map"]))
        np.testing.assert_allclose(shown, found.anomaly_map, atol=0.51 * MAP_SCALE / STEPS)
        boxes = [tuple(region["box"]) for region in json.loads(row["regions"])]
        assert boxes == [region.box for region in found.regions]


@pytest.mark.slow
def test_a_batch_over_http_has_errors_drift_and_arrays(detector, served, dial):
    scores = [found.score for found in detector.inspect(dial[:5])]
    rows = served.post(
        {
            "dataframe_records": [
                *({"image": image_text(image)} for image in dial[:4]),
                {"image": dial[4].tolist()},
                {"image": "no image"},
                {"path": "part.png"},
                {"path": "../secret.png"},
                {"path": "link.png"},
            ]
        }
    )
    assert [row["score"] for row in rows[:5]] == pytest.approx(scores, abs=1e-6)
    assert rows[6]["score"] == pytest.approx(scores[0], abs=1e-6)
    for i in (5, 7, 8):
        assert rows[i]["error"]
        assert (rows[i]["score"], rows[i]["defect"], rows[i]["anomaly_map"]) == (None,) * 3
    assert rows[7]["error"] == rows[8]["error"], "a link tells no more than .. does"
    [drift] = {row["drift"] for row in rows}
    batch = json.loads(drift)["batch"]
    assert (batch["images"], batch["least_images"]) == (6, least_batch(20))
    assert batch["p_value"] is not None

    rows = served.post({"inputs": {"image": dial[:2].tolist()}, "params": {"maps": False}})
    assert [row["score"] for row in rows] == pytest.approx(scores[:2], abs=1e-6)
    assert rows[0]["anomaly_map"] is None
    rows = served.post({"inputs": {"image": [image_text(image) for image in dial[:2]]}})
    assert [row["score"] for row in rows] == pytest.approx(scores[:2], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("document", [{"dataframe_records": [{"x": 1}]}, {"inputs": [1, 2]}])
def test_a_request_without_images_is_the_clients_mistake(served, document):
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.post(document)
    assert refused.value.code == 400
    assert "neither a column 'image' nor 'path'" in refused.value.read().decode()
