"""Checkpoints on disk: whole or not there, and read without running anything from them."""

import pickle
from pathlib import Path

import pytest
import torch

from ffcad.checkpoint import FORMAT, KEYS, CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def state() -> dict:
    return {key: None for key in KEYS - {"format"}} | {
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
    with pytest.raises(CheckpointError) as error:
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
