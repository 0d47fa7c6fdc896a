"""What the user sees of a study that runs: one line."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from study.ledger import FINISHED, STOPPED
from study.trials import TrialRecord

# Seconds between two plain lines, where standard output is no terminal.
PLAIN_SECONDS = 10.0


@dataclass
class Snapshot:
    """A study at one moment.

    Attributes:
        records: of its trials.
        fractions: running trial -> share of its work that is done.
    """

    records: list[TrialRecord]
    fractions: dict[int, float]


class ProgressLine:
    """Shows how far a study is: a bar on a terminal, a plain line now and then elsewhere.

    Asks for a snapshot once a second in a thread of its own, so it costs Tune's loop nothing.

    Args:
        console: where to.
        total: trials when all is done.
        cases: of each.
        snapshot: gives the study's state.
        plain_seconds: between two plain lines.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        cases: int,
        snapshot: Callable[[], Snapshot],
        plain_seconds: float = PLAIN_SECONDS,
    ) -> None:
        self.console, self.total, self.cases = console, total, cases
        self.snapshot, self.plain_seconds = snapshot, plain_seconds
        self.started, self.before = time.monotonic(), self._done(snapshot())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def line(self, now: Snapshot, seconds: float) -> str:
        """The text of the line, without the bar.

        Args:
            now: the study's state.
            seconds: since this sitting began.
        """
        decided = sum(record.decided for record in now.records)
        values = [r.value for r in now.records if r.state == FINISHED]
        done = self._done(now)
        rate = (done - self.before) / seconds if seconds > 0 else 0.0
        left = _clock((self.total - done) / rate) if rate > 0 else "--:--"
        return (
            f"trials {decided}/{self.total}  fits {self._fits(now)}  running {len(now.fractions)}  "
            f"best {f'{max(values):.4f}' if values else '-'}  {left} left"
        )

    def _fits(self, now: Snapshot) -> int:
        finished = sum(self.cases for r in now.records if r.state == FINISHED)
        running = sum(int(f * self.cases + 1e-6) for f in now.fractions.values())
        # A trial of several cases is stopped between two of them.
        stopped = sum(len(r.intermediate) for r in now.records if r.state == STOPPED)
        return finished + running + (stopped if self.cases > 1 else 0)

    def _done(self, now: Snapshot) -> float:
        return sum(r.decided for r in now.records) + sum(now.fractions.values())

    def _run(self) -> None:
        if self.console.is_terminal:
            self._show_bar()
        else:
            self._print_lines()

    def _show_bar(self) -> None:
        bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
            refresh_per_second=2,
            expand=True,
        )
        with bar:
            task = bar.add_task("starting", total=self.total)
            while not self._stop.wait(1.0):
                now = self.snapshot()
                text = self.line(now, time.monotonic() - self.started)
                bar.update(task, completed=self._done(now), description=text)

    def _print_lines(self) -> None:
        printed = ""
        while not self._stop.wait(self.plain_seconds):
            text = self.line(self.snapshot(), time.monotonic() - self.started)
            if text != printed:
                self.console.print(text, highlight=False, soft_wrap=True)
                printed = text


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
