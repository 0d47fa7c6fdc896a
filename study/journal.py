"""Where Optuna's study is kept while a driver runs it: a file in Optuna's own format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend


class OneWriterJournal(BaseJournalBackend):
    """Appends to a new file and remembers what it has appended.

    `JournalFileBackend` locks the file, forces each entry onto the disk, and reads it back, in
    Tune's loop, several times per result of a trial. Here one process writes, each entry is with
    the system before the loop goes on, so that a kill loses none, and what a power cut may take is
    rebuilt from the trials' documents, as at the start of every sitting.

    It is a view of those, so a disk that cannot take it does not end a study: entries that were not
    written follow with the next one.

    Args:
        path: of the file; one that is there is replaced. Anything of Optuna's can read it.

    Attributes:
        error: why the file lacks entries; None where it has all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.touch()
        except OSError as e:
            self.error = e
        self._lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from a number on."""
        # Through JSON, so that this process sees what any other would.
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, a line each."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._lines += lines
        try:
            # Anew after a failure, which may have left half a line, or no folder.
            if self.error is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab" if self.error is None else "wb") as f:
                written = lines if self.error is None else self._lines
                f.write("".join(f"{line}\n" for line in written).encode())
            self.error = None
        except OSError as e:
            self.error = e
