"""A registered model in an environment that pip makes anew from the model's own requirements."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from study.registry.model_files import save_detector

# The default build of torch brings CUDA: with the downloads more than 6 GB, and eight minutes on
# two busy cores.
NEEDED_BYTES = 15 * 10**9
PROGRAM = """
import json, sys
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
found = model.predict({"image": numpy.load(sys.argv[2])})
print(json.dumps({
    "scores": found["score"].tolist(), "defects": found["defect"].tolist(),
    "errors": found["error"].tolist(), "path": sys.path,
    "files": [sys.modules[name].__file__ for name in ("ffcad", "torch", "mlflow")],
}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.proof,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A command without this project on its path."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True
    )


def test_it_inspects_where_nothing_but_its_requirements_is_installed(detector, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    if free < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES:,} bytes of disk for the packages, {free:,} are free")
    images = np.random.default_rng(3).integers(0, 256, (3, 50, 70, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    save_detector(detector, tmp_path / "model", example=images[0])
    fresh = tmp_path / "fresh"
    try:
        assert run([sys.executable, "-m", "venv", str(fresh)], tmp_path).returncode == 0
        python = str(fresh / "bin" / "python")
        requirements = ["-r", str(tmp_path / "model" / "requirements.txt")]
        pip = [python, "-m", "pip", "--no-cache-dir", "install", "--quiet"]
        installed = run([*pip, *requirements], tmp_path, TMPDIR=str(tmp_path))
        if "No matching distribution" in installed.stderr and "from versions: none" in (
            installed.stderr
        ):
            pytest.skip("pip reaches no package index here")
        assert installed.returncode == 0, installed.stderr[-3000:]
        done = run(
            [python, "-c", PROGRAM, str(tmp_path / "model"), str(tmp_path / "images.npy")],
            tmp_path,
            MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
        )
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [Path(file).is_relative_to(tmp_path) for file in found["files"]] == [True] * 3
    project = str(Path(__file__).parents[3])
    assert not [
        path for path in found["path"] if path.startswith((project, sysconfig.get_path("purelib")))
    ]
    assert found["errors"] == [None] * 3
    expected = detector.inspect(images)
    assert found["scores"] == pytest.approx([e.score for e in expected], rel=1e-5)
    assert found["defects"] == [e.defect for e in expected]
