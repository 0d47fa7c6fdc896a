"""How a command that trains goes on, and is stopped: a signal lets the iteration end."""

import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from ffcad.checkpoint import previous_checkpoint
from ffcad.iterated_work import Standing

Kind = TypeVar("Kind", bound=Standing)


def announced(training: Iterable[Kind], checkpoint: Path, console: Console) -> Iterator[Kind]:
    """Passes the progress on; before the first, says where this sitting begins."""
    for number, progress in enumerate(training):
        if number == 0 and progress.note is not None:
            print(f"warning: {progress.note}", file=sys.stderr)
        if number == 0 and progress.resumed_at > 0:
            used = checkpoint if progress.note is None else previous_checkpoint(checkpoint)
            where = f"{used}, iteration {progress.resumed_at}"
            console.print(f"going on from {where}", soft_wrap=True)
        yield progress


def run_to_end(
    training: Generator[Kind, None, None], shown: Iterable[Kind], checkpoint: Path
) -> Kind:
    """Goes through a training to its end and returns the final progress.

    Args:
        training: writes its checkpoint when it is closed.
        shown: passes the training's progress on.
        checkpoint: where it is.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM; it says how to go on.
    """
    last = None
    try:
        with stop_signals() as caught:
            for progress in shown:
                last = progress
                if caught:
                    break
            training.close()  # writes the checkpoint
    except KeyboardInterrupt as e:
        with suppress(KeyboardInterrupt):
            training.throw(KeyboardInterrupt)  # closed, it would take its time to write
        where = f"interrupted at iteration {last.iteration if last else 0}"
        there = checkpoint.is_file() or previous_checkpoint(checkpoint).is_file()
        after = "goes on from its last checkpoint" if there else "begins anew"
        raise KeyboardInterrupt(f"{where}; the same command {after}") from e
    if caught:
        where = f"stopped at iteration {last.iteration} of {last.iterations}"
        raise KeyboardInterrupt(f"{where}; the same command goes on from there")
    return last


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, for a training to stop at its leisure; a second one interrupts.

    A signal that the process was started to ignore stays ignored.
    """
    caught = []

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, catch)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
