"""What a record says of the machine: versions, git revision, memory, and samples of its load."""

import contextlib
import ctypes
import hashlib
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

SAMPLE_SECONDS, MOST_SAMPLES = 10.0, 360
# This project's own packages, and those besides that a fit's numbers or its worker depend on.
OWN_PACKAGES = ("ffcad", "study", "search_spaces")
PACKAGES = ("ray", "optuna", "mlflow", "torchvision", "numpy", "scipy")
WORKER_PACKAGES = ("torch", "scikit-learn", "pillow", "safetensors", "fsspec")
# Of an image, which has no .git: what `git describe --always --dirty` said where it was made.
REVISION_FILE, DIRTY = Path(__file__).parents[1] / "REVISION", "-dirty"
_PROC = Path("/proc/self")
# What the revision is to stand for; a node of a cluster has no more of the repository.
_CODE = (":/ffcad", ":/study", ":/search_spaces", ":(top,exclude,glob)**/__pycache__/**")


def code_environment() -> dict[str, Any]:
    """The code's state: git revision, whether the tree was dirty, versions. Taken by the driver."""
    sha, dirty = _revision()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        **{name: version(name) for name in PACKAGES},
        "ffcad_study": _own_version(),
    }


def code_state() -> dict[str, str | None]:
    """What all nodes of a cluster must agree on: revision, source files, versions.

    An installed copy knows no revision, and one that was edited since keeps its old one; so the
    source files count as well.
    """
    names = (*PACKAGES, *WORKER_PACKAGES)
    return {
        "git revision": _revision()[0],
        "source files": source_digest(),
        "python": platform.python_version(),
        # Without what comes after "+": a head without a GPU may have torch's build for CPUs.
        **{name: version(name).partition("+")[0] for name in names},
    }


def source_digest() -> str:
    """Twelve hexadecimal digits of the contents of this project's Python files, wherever they are
    installed."""
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        # Not imported: a search space may bring anything.
        for folder in find_spec(package).submodule_search_locations:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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


def machine_in_words() -> str:
    """The machine for a reader: its name, and what computes there."""
    here = worker_environment()
    threads = f"CPU with {here['threads']} thread{'s' * (here['threads'] != 1)}"
    return f"{here['host']}, {here['gpu'] or threads}"


def own_resources() -> dict[str, float]:
    """This machine's cores and GPUs, as Ray counts them where it is started here."""
    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}


def reset_peak_memory() -> None:
    """Gives back to the system what earlier work has freed, and starts measuring anew, where that
    can be done (CUDA; Linux with glibc)."""
    # A trial's fits follow one another in one process, and glibc keeps what one has freed for
    # others that may never fit into it: it grew by 0.6 GB with each.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
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


class SystemSampler:
    """Samples the load of this machine in a thread of the worker while a fit is worked at.

    MLflow's own sampler would be a second writer to MLflow; the names are its names.

    Args:
        samples: of earlier sittings.
        seconds: between two samples; twice as many whenever there are too many of them.
    """

    def __init__(self, samples: list[dict[str, float]], seconds: float = SAMPLE_SECONDS) -> None:
        self._samples, self._seconds = list(samples), seconds
        self._stop = threading.Event()
        self._process = psutil.Process()
        # The first call of each only starts its clock.
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def samples(self) -> list[dict[str, float]]:
        """All samples so far."""
        return list(self._samples)

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # The first one soon, so that a short fit has one too.
        wait = min(1.0, self._seconds)
        while not self._stop.wait(wait):
            self._samples = [*self._samples, self._sample()]
            if len(self._samples) > MOST_SAMPLES:
                self._samples, self._seconds = self._samples[::2], 2 * self._seconds
            wait = self._seconds

    def _sample(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        sample = {
            "time": time.time(),
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            sample["gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
            sample["gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
            with contextlib.suppress(Exception):  # NVIDIA's library is not everywhere.
                sample["gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
        return sample


def _own_version() -> str | None:
    try:
        return version("ffcad-study")
    except PackageNotFoundError:
        return None  # Used from a checkout that was not installed.


def _revision() -> tuple[str | None, bool | None]:
    """The revision that is checked out, or that an image was made of, and whether it was edited."""
    sha = _git("rev-parse", "HEAD")
    if sha is not None:
        return sha, bool(_git("status", "--porcelain", "--", *_CODE))
    with contextlib.suppress(OSError):
        if said := REVISION_FILE.read_text().strip():
            return said.removesuffix(DIRTY), said.endswith(DIRTY)
    return None, None


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
