"""Where studies and their runs are kept when no flag says so: what the environment says, or `runs`.

The machines of a cluster have the two variables, so that the line that starts a study there is the
one that starts it anywhere.
"""

import os
from pathlib import Path

from study.storage import Storage

STORAGE_VARIABLE, TRACKING_VARIABLE = "FFCAD_STORAGE", "MLFLOW_TRACKING_URI"
FOLDER = "runs"
# For the help of flags.
STORAGE_DEFAULT = f"default: {STORAGE_VARIABLE} in the environment, or {FOLDER}"
TRACKING_DEFAULT = f"default: {TRACKING_VARIABLE} in the environment, or SQLite"


def default_storage() -> str:
    """The storage of the environment, or a folder below the current one."""
    return os.environ.get(STORAGE_VARIABLE) or FOLDER


def default_tracking_uri() -> str | None:
    """MLflow's address in the environment, if there is one; MLflow's own variable."""
    return os.environ.get(TRACKING_VARIABLE) or None


def local_folder(storage: Storage) -> Path:
    """Where this machine keeps what does not belong on an object store: MLflow's SQLite."""
    return storage.local or Path(FOLDER).resolve()


def mlflow_file(folder: Path) -> str:
    """MLflow's SQLite in a folder, as a URI."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def absolute_tracking_uri(uri: str) -> str:
    """MLflow's address as it is from every folder: a file of SQLite with its whole path."""
    start, slashes, rest = uri.partition(":///")
    path, question, options = rest.partition("?")
    if start.partition("+")[0] != "sqlite" or not path:
        return uri
    return f"{start}{slashes}{Path(path).absolute()}{question}{options}"
