"""What libraries say goes to a file beside the study: the user's console shows the study."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from study.storage import StorageError
from study.trials import StudyFolder

# Read by Ray when it is imported; values that the user has set stay.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # The new output prints a table even when told to be silent.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # Heartbeats have no objective.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # It would end the workers before they can write.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A trial that is stopped may be writing to a slow storage.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
}


@contextmanager
def log_of(folder: StudyFolder) -> Iterator[None]:
    """What libraries say goes to a file beside the study: the user's console shows the study."""
    logging.raiseExceptions = False  # A full disk is said once, not at every line of the log.
    with tempfile.TemporaryDirectory(prefix="ffcad-log-") as temporary:
        local = folder.storage.local
        path = local / folder.log if local else Path(temporary) / "driver.log"
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            # What is still said has nowhere to go; without a handler it would go to the console.
            logging.getLogger().addHandler(logging.NullHandler())
            with suppress(OSError):  # A full disk: said already.
                handler.close()
            if not local:
                with suppress(StorageError):
                    folder.storage.upload(path, folder.log)


def silence_console() -> None:
    """Ray and MLflow brought handlers of their own, for the console, when they were imported."""
    for name in ("ray", "mlflow", "alembic", "optuna", "py.warnings"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(True)
