"""Ctrl-C and SIGTERM: the first one asks for an end in good order, the second one ends at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from rich.console import Console

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Between two looks at whether a signal came.
LOOK_SECONDS = 0.1
# How long MLflow may keep a study from its end, after one signal and after two.
PATIENCE_SECONDS = (15.0, 3.0)


class Interrupts:
    """Takes the signals while a study is driven.

    Until `hold` is called a signal raises KeyboardInterrupt, as there is nothing to be ended in
    good order. From then on the first one is told to whoever asked to be told, and the program goes
    its way to the end; the second one raises KeyboardInterrupt.

    The handler only counts: whatever else is done might wait for a lock that the interrupted code
    holds, and so is done by a thread.

    Args:
        console: where the user is told that it was understood.

    Attributes:
        received: how many signals came.
        stopping: set by the first one.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.received = console, 0
        self.stopping = threading.Event()
        self._held = False
        self._listeners: list[Callable[[], None]] = []
        self._fits = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._former: dict[int, Callable | int | None] = {}

    def __enter__(self) -> "Interrupts":
        self._former = self.install()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def install(self) -> dict[int, Callable | int | None]:
        """Sets the handlers, again if a library has set its own; returns the ones before."""
        if threading.current_thread() is not threading.main_thread():
            return {}  # Python lets no other thread have handlers.
        return {number: signal.signal(number, self._count) for number in SIGNALS}

    def hold(self) -> None:
        """From now on the first signal does not interrupt what is being done."""
        self._held = True

    def tell(self, listener: Callable[[], None], fits: bool = False) -> None:
        """Has something called at the first signal, from a thread; at once if it has come.

        Args:
            listener: is called; may be called twice.
            fits: whether fits run that will write checkpoints.
        """
        self._listeners.append(listener)
        self._fits = self._fits or fits
        if self.stopping.is_set():
            listener()

    def patience(self, seconds: float) -> float:
        """How long to wait at the end for something that may not answer.

        Args:
            seconds: where nobody is in a hurry.
        """
        if self.received == 0:
            return seconds
        return min(seconds, PATIENCE_SECONDS[min(self.received, 2) - 1])

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if not self._held or self.received > 1:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if self.received and self._held:
                self.stopping.set()
                for listener in self._listeners:
                    listener()
                how = "Stopping: running fits write a checkpoint." if self._fits else "Stopping."
                self.console.print(f"{how} Once more ends at once.")
                return


class PatientConsole(Console):
    """A console that says nothing more when its reader has closed the pipe, as `... | head` does.

    Rich's own ends the program, and with it a study that runs.
    """

    def on_broken_pipe(self) -> None:
        """What is still to be said goes nowhere."""
        self.quiet = True
        _discard_output()


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Ends the process with a command's exit code, and with 130 if a signal comes while Python and
    its packages go down; a reader that has closed the pipe is no error.

    Args:
        main: the command.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    def end(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # of `... | head`, which has read enough
        _discard_output()
        code = 0
    for number in SIGNALS:
        signal.signal(number, end)
    sys.exit(code)


def _discard_output() -> None:
    """What is left in the buffer has nowhere to go, and Python would say so at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
