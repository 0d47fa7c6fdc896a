"""A cache of decoded images: .npy files that the processes of a machine share by memory mapping.

An entry is a folder named by the digest of what it was made from, so it never goes stale: changed
files have another name. Whoever finds no entry builds it under a lock, in a folder of another name
that is then renamed; whoever comes meanwhile waits for the lock. Sizes are checked at every use, so
a damaged entry is built anew. The folder may be deleted whenever no process uses it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ffcad.datasets.records import DataError

# Part of every key: raise it when the form of an entry changes.
FORMAT_VERSION = 1


def default_cache() -> Path:
    """FFCAD_CACHE if set, else ~/.cache/ffcad."""
    return Path(os.environ.get("FFCAD_CACHE") or Path.home() / ".cache" / "ffcad")


def digest_of(value: Any) -> str:
    """sha256 of a value of JSON types, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def cached(
    cache: Path | None, key: Any, build: Callable[[Path], Any]
) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays that `build` makes, from the cache if they are there.

    Args:
        cache: the cache's folder; None takes `default_cache()`.
        key: JSON types; all that the arrays depend on.
        build: writes .npy files into the folder it is given and returns JSON types to keep.

    Returns:
        The arrays by file stem, memory-mapped and read-only, and what `build` returned.

    Raises:
        DataError: from `build`, or if the cache cannot be written.
    """
    folder = default_cache() if cache is None else Path(cache)
    entry = folder / digest_of([FORMAT_VERSION, key])[:32]
    found = _open(entry)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            found = _open(entry)
            if found is None:
                _build(entry, build)
                found = _open(entry)
    except OSError as error:
        raise DataError(
            f"cache folder {folder} cannot be written ({error.strerror or error}); set FFCAD_CACHE "
            "to one that can and has room for the images"
        ) from error
    if found is None:
        raise DataError(f"cache folder {folder}: an entry vanished while it was written; try again")
    return found


def _build(entry: Path, build: Callable[[Path], Any]) -> None:
    for left_over in entry.parent.glob(f"{entry.name}.tmp-*"):  # of a builder that was killed
        shutil.rmtree(left_over)
    temporary = entry.with_name(f"{entry.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        kept = build(temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.glob("*.npy"))}
        (temporary / "entry.json").write_text(json.dumps({"sizes": sizes, "kept": kept}))
        if entry.exists():  # damaged; a process that still maps it keeps its pages
            shutil.rmtree(entry)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(entry: Path) -> tuple[dict[str, np.ndarray], Any] | None:
    """The entry's arrays, or None where it is absent or damaged."""
    try:
        written = json.loads((entry / "entry.json").read_text())
        for name, size in written["sizes"].items():
            if (entry / name).stat().st_size != size:
                return None
        arrays = {
            Path(name).stem: np.load(entry / name, mmap_mode="r") for name in written["sizes"]
        }
        return arrays, written["kept"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
