"""Checkpoints on disk: whole or not there, and read without running anything from them."""

import errno
import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from ffcad.checkpoint import (
    FORMAT,
    TRAINING_KEYS,
    CheckpointError,
    UnreadableCheckpoint,
    load_checkpoint,
    load_last_good,
    previous_checkpoint,
    save_checkpoint,
)


@pytest.fixture
def state() -> dict:
    return {key: None for key in TRAINING_KEYS} | {
        "model": {"weight": torch.arange(6.0).reshape(2, 3)},
        "history": [{"iteration": 1, "loss": 0.5, "select_image_auroc": 0.75}],
        "iteration": 1,
    }


def test_what_is_written_is_read(tmp_path, state):
    path = tmp_path / "new" / "folder" / "checkpoint.pt"
    save_checkpoint(path, state)
    found = load_checkpoint(path)
    weight = found.pop("model")["weight"]
    assert torch.equal(weight, state.pop("model")["weight"])
    assert found == state | {"format": FORMAT}
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path, state):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, state | {"config": lambda: None})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_at_no_moment_is_there_a_part_of_a_checkpoint(tmp_path, state):
    """While the new one is being written, the old one is still under its name."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state)
    seen = []

    class Witness:
        def __reduce__(self) -> tuple:
            seen.append(load_checkpoint(path)["iteration"])
            return int, (2,)

    save_checkpoint(path, state | {"iteration": 2, "seed": Witness()})
    assert seen == [1]


@pytest.fixture
def unfinished(state) -> dict:
    return state | {"optimizer": {}}


def test_the_checkpoint_before_is_kept_until_the_training_is_finished(tmp_path, unfinished):
    path = tmp_path / "checkpoint.pt"
    previous = previous_checkpoint(path)
    assert previous == tmp_path / "checkpoint.previous.pt"
    for iteration in (1, 2, 3):
        save_checkpoint(path, unfinished | {"iteration": iteration})
    assert [load_checkpoint(p)["iteration"] for p in (previous, path)] == [2, 3]
    save_checkpoint(path, unfinished | {"iteration": 4}, keep_old=False)
    assert [load_checkpoint(p)["iteration"] for p in (previous, path)] == [2, 4]
    save_checkpoint(path, unfinished | {"optimizer": None})
    assert list(tmp_path.iterdir()) == [path]


def test_a_disks_error_is_said_as_what_it_is(tmp_path, unfinished, monkeypatch):
    class Broken(io.BytesIO):
        writes = 0

        def write(self, content):
            self.writes += 1
            if self.writes == 3:  # Then it answers again: torch finds that something is missing.
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().write(content)

    monkeypatch.setattr("ffcad.checkpoint.open", lambda *args: Broken(), raising=False)
    with pytest.raises(OSError, match="Input/output error"):
        save_checkpoint(tmp_path / "checkpoint.pt", unfinished)


def test_a_failed_write_touches_neither_file(tmp_path, unfinished):
    path = tmp_path / "checkpoint.pt"
    for iteration in (1, 2):
        save_checkpoint(path, unfinished | {"iteration": iteration})
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, unfinished | {"config": lambda: None})
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(before) == 2


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path, unfinished):
    path = tmp_path / "checkpoint.pt"
    others = {".other.pt.0123abcd.tmp", "checkpoint.pt.tmp", ".checkpoint.pt"}
    for name in (*others, ".checkpoint.pt.0123abcd.tmp", ".checkpoint.pt.4567cdef.tmp"):
        (tmp_path / name).write_bytes(b"half a checkpoint")
    save_checkpoint(path, unfinished)
    assert {p.name for p in tmp_path.iterdir()} == others | {path.name}


def test_the_last_good_one_is_found(tmp_path, unfinished):
    path = tmp_path / "checkpoint.pt"
    for iteration in (1, 2):
        save_checkpoint(path, unfinished | {"iteration": iteration})
    state, note = load_last_good(path)
    assert (state["iteration"], note) == (2, None)
    text(path)
    state, note = load_last_good(path)
    assert state["iteration"] == 1
    assert note.startswith(f"{path} cannot be read as a checkpoint: ")
    assert note.endswith(f"; {previous_checkpoint(path)} of iteration 1 was taken")
    path.unlink()
    state, note = load_last_good(path)
    assert (state["iteration"], note.partition(";")[0]) == (1, f"{path}: no such checkpoint")
    previous_checkpoint(path).unlink()
    with pytest.raises(UnreadableCheckpoint) as error:
        load_last_good(path)
    for file in (path, previous_checkpoint(path)):
        assert f"{file}: no such checkpoint; " in str(error.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def text(path: Path) -> None:
    path.write_text("{}")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, text, empty])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, state, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state)
    damage(path)
    with pytest.raises(UnreadableCheckpoint) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path} cannot be read as a checkpoint: ")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"format": FORMAT, "model": {}}])
def test_other_files_of_torch_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt is no checkpoint of ffcad"):
        load_checkpoint(tmp_path / "other.pt")


def test_another_format_is_refused_whatever_it_holds(tmp_path):
    torch.save({"format": FORMAT + 1, "weights": {}}, tmp_path / "later.pt")
    with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}; this version reads"):
        load_checkpoint(tmp_path / "later.pt")


class Attack:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path, state):
    trace, path = tmp_path / "ran", tmp_path / "checkpoint.pt"
    save_checkpoint(path, state | {"config": Attack(trace)})
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the attack works where files are trusted
