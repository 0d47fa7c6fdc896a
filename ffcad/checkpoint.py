"""The state of a training, or of an encoder's making, on disk.

It is written atomically, and read without running any code from it.

Beside `checkpoint.pt` lies `checkpoint.previous.pt`, the one before it, until the training is
finished: a file that a broken disk or a full one has spoilt costs the iterations in between.
"""

import glob
import os
import uuid
from pathlib import Path
from typing import Any

import torch

from ffcad.durable import force_names

FORMAT = 2
# What every work that is iterated keeps, and what a training does.
STATE_KEYS = frozenset(
    ("iteration", "history", "loss", "losses", "seconds", "model", "optimizer", "scaler")
)
TRAINING_KEYS = STATE_KEYS | {
    "method_version",
    "config",
    "seed",
    "data_digest",
    "textures_digest",
    "encoder_digest",
}


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable, or belongs to another training."""


class UnreadableCheckpoint(CheckpointError):
    """A file that is missing, truncated, or no checkpoint of this format."""


class OtherEncoder(CheckpointError):
    """The checkpoint of the same training with other weights of the frozen encoder."""


def previous_checkpoint(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept: `checkpoint.previous.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, state: dict[str, Any], *, keep_old: bool = True) -> None:
    """Writes the state so that a kill at any moment leaves a whole file, the old or the new one.

    The file that was there becomes `previous_checkpoint(path)`. A finished training's state, which
    has no optimizer, needs none. Only one process may write to a path at a time: unfinished files
    beside it are taken for those of processes that were killed, and removed.

    Args:
        path: of the checkpoint; its folder is made.
        state: all but the format; its 'optimizer' is None where the training is finished.
        keep_old: False where the file there is known to be unreadable: it is overwritten, and the
            previous one stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as f:
            try:
                torch.save({"format": FORMAT, **state}, f)
            except RuntimeError as e:
                # torch says of a disk's error only that the file has another length than it wrote.
                if isinstance(e.__context__, OSError):
                    raise e.__context__ from e
                raise
            f.flush()
            os.fsync(f.fileno())
        if keep_old and path.exists():
            os.replace(path, previous_checkpoint(path))
        os.replace(temporary, path)
        force_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    if state["optimizer"] is None:
        previous_checkpoint(path).unlink(missing_ok=True)


def load_last_good(
    path: Path, keys: frozenset[str] = TRAINING_KEYS
) -> tuple[dict[str, Any], str | None]:
    """Reads the checkpoint or, if it cannot be read, the one before it.

    Args:
        path: of the checkpoint.
        keys: what it must hold.

    Returns:
        The state; and one line that says which file could not be read, why, and which one was
        taken. The line is None if the newest could be read.

    Raises:
        UnreadableCheckpoint: if neither can be read; it names both.
    """
    try:
        return load_checkpoint(path, keys), None
    except UnreadableCheckpoint as e:
        newest = e
    previous = previous_checkpoint(path)
    try:
        state = load_checkpoint(previous, keys)
    except UnreadableCheckpoint as e:
        raise UnreadableCheckpoint(f"{newest}; {e}; remove what is there to begin anew") from e
    return state, f"{newest}; {previous} of iteration {state['iteration']} was taken"


def load_checkpoint(path: Path, keys: frozenset[str] = TRAINING_KEYS) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote.

    Args:
        path: of the checkpoint.
        keys: what it must hold.

    Raises:
        UnreadableCheckpoint: if the file is missing, truncated, or not a checkpoint of this format.
        OSError, MemoryError: if it is the machine that cannot read it now.
    """
    if not Path(path).is_file():
        raise UnreadableCheckpoint(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as e:  # whatever a truncated or foreign file makes torch raise
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise UnreadableCheckpoint(f"{path} cannot be read as a checkpoint: {reason}") from e
    if not isinstance(state, dict) or "format" not in state:
        raise UnreadableCheckpoint(f"{path} is no checkpoint of ffcad")
    if state["format"] != FORMAT:
        raise UnreadableCheckpoint(
            f"{path} has format {state['format']}; this version reads {FORMAT}"
        )
    if not set(state) >= keys:
        raise UnreadableCheckpoint(f"{path} is no checkpoint of ffcad")
    return state
