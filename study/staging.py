"""Copies data sets to a machine's own disk, once: `python -m study.staging FROM TO`.

FROM is a folder on a shared file system, s3://bucket/folder or gs://bucket/folder, and holds one
folder for each data set; TO is a folder of this machine. What is in TO already is left as it is.
"""

import shutil
import sys
from pathlib import Path

import fsspec
from filelock import FileLock

from study.storage import OBJECT_STORES, StorageError


def stage(source: str, target: Path) -> list[str]:
    """Copies every folder and file of a place that is not there yet; each appears whole.

    Several processes may ask for it at once; one does it.

    Args:
        source: folder or URI.
        target: folder of this machine; made if it is missing.

    Returns:
        The names of what was copied.

    Raises:
        StorageError: if the source cannot be read, or the disk takes no more.
    """
    try:
        fs, root = fsspec.core.url_to_fs(source, use_listings_cache=False)
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".staging.lock"):
            entries = fs.ls(root, detail=True)
            places = [entry["name"].rstrip("/") for entry in entries]
            # A folder that was made in a web console is an object of its own name.
            names = {Path(place).name: place for place in places if place != root.rstrip("/")}
            missing = [name for name in sorted(names) if not (target / name).exists()]
            for name in missing:
                part = target / f".{name}.part"
                shutil.rmtree(part, ignore_errors=True)  # of one that was killed
                fs.get(names[name], str(part), recursive=True)
                part.rename(target / name)
    except ImportError as e:
        extra = OBJECT_STORES.get(source.partition("://")[0], "s3")
        raise StorageError(
            f"{source} needs another package: pip install 'ffcad-study[{extra}]'"
        ) from e
    except Exception as e:  # whatever an object store's package raises
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise StorageError(f"{source} cannot be copied to {target}: {reason}") from e
    if not names:
        raise StorageError(f"{source} is empty; it must have a folder for each data set")
    return missing


def main(argv: list[str]) -> int:
    """The command; 2 if nothing can be copied."""
    if len(argv) != 2:
        print("error: usage: python -m study.staging FROM TO", file=sys.stderr)
        return 2
    try:
        copied = stage(argv[0], Path(argv[1]))
    except StorageError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{argv[1]}: {', '.join(copied) or 'nothing'} copied from {argv[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
