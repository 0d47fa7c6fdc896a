"""What a record says of the machine: versions, git revision, and the most memory a fit used."""

import contextlib
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PROC = Path("/proc/self")


def code_environment() -> dict[str, Any]:
    """The code's state: git revision, whether the tree was dirty, versions. Taken by the driver."""
    sha = _git("rev-parse", "HEAD")
    packages = ("ray", "optuna", "mlflow", "torchvision", "numpy")
    return {
        "git_sha": sha,
        "git_dirty": None if sha is None else bool(_git("status", "--porcelain")),
        **{name: version(name) for name in packages},
        "ffcad_study": _own_version(),
    }


def worker_environment() -> dict[str, Any]:
    """The machine that a fit runs on. Taken by the worker."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }


def reset_peak_memory() -> None:
    """Starts measuring anew, where the system allows it (CUDA; Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Elsewhere the peak is that of the process's whole life.
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")  # Resets VmHWM; see proc(5).


def peak_memory_mb() -> float:
    """Peak since the last reset, in units of 10**6 bytes: of the GPU if there is one, else of the
    process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    # Kilobytes on Linux, bytes on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def _own_version() -> str | None:
    try:
        return version("ffcad-study")
    except PackageNotFoundError:
        return None  # Used from a checkout that was not installed.


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # Not a checkout, or no git.
    return done.stdout.strip()
