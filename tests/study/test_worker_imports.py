"""A worker of a GPU study is a fresh process for every trial: what it imports is paid each time."""

import subprocess
import sys

PROGRAM = "import sys, study.trainable; print(sorted({m.partition('.')[0] for m in sys.modules}))"


def test_a_worker_imports_neither_optuna_nor_mlflow():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "'ray'" in done.stdout
    for name in ("optuna", "mlflow"):
        assert f"'{name}'" not in done.stdout, f"study.trainable imports {name}: import it later"
