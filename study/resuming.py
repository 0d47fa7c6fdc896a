"""From a checkpoint to an iterator of progress: of a training, or of an encoder's making."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ffcad.checkpoint import CheckpointError, UnreadableCheckpoint, previous_checkpoint

Progress = TypeVar("Progress")


def resumed(
    begin: Callable[[], Iterator[Progress]],
    checkpoint: Path,
    anew: tuple[type[CheckpointError], ...] = (UnreadableCheckpoint,),
) -> tuple[Progress, Iterator[Progress], str | None]:
    """Goes on from the last good checkpoint, or begins where there is none.

    Checkpoints that cannot be used are kept under another name.

    Args:
        begin: the iterator, which reads the checkpoint at its first step.
        checkpoint: its path.
        anew: what makes a checkpoint one that cannot be used; other errors are raised.

    Returns:
        The first progress; all of it, the first included; and why it was begun anew, or None.
    """
    note = None
    try:
        rest = begin()
        first = next(rest)
    except anew as e:
        note = str(e)
        for path in (checkpoint, previous_checkpoint(checkpoint)):
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_name(f"{path.name}.unreadable"))
        rest = begin()
        first = next(rest)
    return first, _chained(first, rest), note


def _chained(first: Progress, rest: Iterator[Progress]) -> Iterator[Progress]:
    """Passes on to the rest what is done to it, as itertools.chain does not: to be closed, which
    writes a checkpoint, or to be thrown at, which does not."""
    try:
        yield first
    except GeneratorExit:
        rest.close()
        raise
    except Exception as e:
        rest.throw(e)
        raise
    yield from rest
