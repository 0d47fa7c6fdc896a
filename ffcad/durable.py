"""Renamed files that outlive a power cut."""

import contextlib
import os
from pathlib import Path


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
