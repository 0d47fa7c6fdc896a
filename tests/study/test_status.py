"""What `python -m study status` says of a driver."""

import json
import os
import time

import pytest

from study.__main__ import main
from study.arguments import parse
from study.inputs import Inputs
from study.leases import Waiter
from study.question import open_study
from study.storage import Storage
from study.trials import StudyFolder


@pytest.fixture
def lease(tmp_path):
    """The lease of a driver that runs a study on another machine: its file."""
    config, space, _ = parse(
        ["--storage", str(tmp_path), "--study", "mine", "--objective", "select_pixel_ap"]
    )
    inputs = Inputs(
        data={"wood@64": "w"}, textures={}, weights={"random": "random"}, method_version=1
    )
    folder = StudyFolder(Storage(tmp_path), "mine")
    open_study(folder, config, space, inputs, extend=False)
    held = Waiter(folder.storage, folder.driver, {"study": "mine"}).attempt()
    held.release()
    path = tmp_path / held.name
    there = {"place": "there", "pid": 17, "host": "there", "free": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **there}))
    return path


def status(tmp_path, capsys, *flags):
    assert main(["status", "mine", "--storage", str(tmp_path), *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "mine: run by process 17 on there, 0 trials, 0 begun"),
        (40, "mine: run by process 17 on there, silent for 40 s, 0 trials, 0 begun"),
        (720, "run by process 17 on there, silent for 12 min; probably dead, 0 trials"),
        (10_800, "silent for 3 h; probably dead"),
    ],
)
def test_a_silent_driver_of_another_machine_is_probably_dead(
    lease, tmp_path, capsys, monkeypatch, seconds, said
):
    replaced = time.time() - seconds
    os.utime(lease, (replaced, replaced))
    # The storage's clock counts, and not this machine's.
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert said in " ".join(status(tmp_path, capsys).split())
    document = json.loads(status(tmp_path, capsys, "--json"))
    assert document["driver"]["silent_seconds"] == pytest.approx(seconds, abs=2)


def test_a_study_that_nobody_runs_is_said_so(lease, tmp_path, capsys):
    lease.unlink()
    assert "mine: nobody runs it, 0 trials" in status(tmp_path, capsys)
    assert json.loads(status(tmp_path, capsys, "--json"))["driver"] is None
    assert not list(tmp_path.glob(".probe*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": {"later": 1}}, "written by another version of this project, which knows later"),
        ({"inputs": {}}, "the digests of the study's inputs cannot be read: "),
        ({"inputs": None}, "it has no 'inputs'; remove it and give the study's own command"),
        ({"fixed": {"hsas": "3d"}}, "hsas"),
        ({"fixed": {"later": 1}}, "later"),
    ],
)
@pytest.mark.parametrize("command", ["status", "sync"])
def test_a_study_that_this_version_cannot_read_is_said_in_one_line(
    lease, tmp_path, capsys, command, changes, said
):
    lease.unlink()
    path = tmp_path / "studies" / "mine" / "study.json"
    document = json.loads(path.read_text())
    asked = document["study"]
    asked["fixed"] |= changes.get("fixed", {})
    inputs = changes.get("inputs", document["inputs"])
    path.write_text(json.dumps({**document, "study": asked, "inputs": inputs}))
    assert main([command, "mine", "--storage", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_file_in_the_way_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "mine").write_bytes(b"no folder")
    assert main(["status", "--storage", str(tmp_path / "mine" / "more")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
