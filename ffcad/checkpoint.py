"""A training's state on disk: written atomically, read without running any code from it."""

import os
import uuid
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
KEYS = frozenset(
    (
        "format",
        "method_version",
        "config",
        "seed",
        "data_digest",
        "textures_digest",
        "encoder_digest",
        "iteration",
        "history",
        "loss",
        "seconds",
        "model",
        "optimizer",
        "scaler",
    )
)


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable, or belongs to another training."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes the state so that a kill at any moment leaves the old or the new file, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as f:
            torch.save({"format": FORMAT, **state}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote.

    Raises:
        CheckpointError: if the file is missing, truncated, or not a checkpoint of this project.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a truncated or foreign file makes torch raise
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from e
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is no checkpoint of ffcad")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads {FORMAT}")
    if not set(state) >= KEYS:
        raise CheckpointError(f"{path} is no checkpoint of ffcad")
    return state
