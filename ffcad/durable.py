"""Files that are there whole or not at all, and that outlive a power cut."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what lies there becomes `path` if nothing is raised.

    Args:
        path: of the file; its folder is there. The name given has its suffix.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
        force_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def force_names(folder: Path) -> None:
    """Waits until the disk has the names of a folder's files; a file's own `fsync` leaves them out.

    Does nothing where a system cannot force a folder (Windows, some network file systems).

    Args:
        folder: in which a file was renamed.
    """
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
