"""The method stands alone: importing it brings in no cluster and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, json, pkgutil, sys
import numpy, torch

def state():
    return [
        torch.get_num_threads(), torch.get_default_dtype().itemsize, torch.is_grad_enabled(),
        torch.backends.cudnn.benchmark, torch.random.get_rng_state().sum().item(),
        float(numpy.random.get_state()[1].sum()),
    ]

before = state()
import ffcad
names = [m.name for m in pkgutil.walk_packages(ffcad.__path__, "ffcad.")]
for name in names:
    importlib.import_module(name)
print(json.dumps({
    "names": names,
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "pyplot": "matplotlib.pyplot" in sys.modules,
    "changed": before != state(),
    "cuda": torch.cuda.is_initialized(),
}))
"""


def test_importing_every_module_brings_in_no_cluster_and_no_side_effect(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # so nothing else was printed either
    assert {"ffcad.__main__", "ffcad.training", "ffcad.datasets.loading"} <= set(found["names"])
    assert not {"ray", "optuna", "mlflow", "study", "search_spaces"} & set(found["modules"])
    assert not found["pyplot"], "pyplot keeps global state; ffcad.pictures must do without"
    assert not found["changed"], "threads, types, gradients or random numbers"
    assert not found["cuda"], "importing must not take GPU memory"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
