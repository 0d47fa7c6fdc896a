"""Processes of a machine's earlier starts, and of machines that only look alike."""

import os
import platform

import pytest

from study import processes
from study.processes import ended_with_its_start, is_gone, this_process

HOST_PROCESSES, MACHINE = "pid:[4026531836]", "0123456789abcdef0123456789abcdef"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Describes this process as one of a machine with that id, name and start."""

    def describe(number=MACHINE, name="line-3", start="1", names_processes=HOST_PROCESSES):
        path = tmp_path / "machine-id"
        path.write_text(f"{number}\n")
        monkeypatch.setattr(processes, "MACHINE_ID", (tmp_path / "none", path))
        monkeypatch.setattr(platform, "node", lambda: name)
        monkeypatch.setattr(os, "readlink", lambda _: names_processes)
        monkeypatch.setattr(processes, "own_place", lambda: f"{name}/{start}/{names_processes}")
        return this_process()

    return describe


def test_what_an_earlier_start_of_the_machine_ran_is_no_more(machine):
    before = machine(start="1")
    assert not ended_with_its_start(before)
    now = machine(start="2")
    assert ended_with_its_start(before)
    # A lease has a heartbeat, which tells it without a guess.
    assert not is_gone(before)
    assert MACHINE not in str(now)


@pytest.mark.parametrize(
    "another",
    [
        {"number": "f" * 32},
        {"name": "line-4"},
        {"number": "uninitialized"},
        {"number": ""},
        {"names_processes": "pid:[4026532001]"},
    ],
)
def test_whatever_may_be_another_machine_or_a_container_is_not_taken_for_gone(machine, another):
    before = machine(**another, start="1")
    assert ended_with_its_start(before) is False
    machine(start="2")
    assert not ended_with_its_start(before)
    # Nor does it take anything of the machine for gone.
    before = machine(start="1")
    machine(**another, start="2")
    assert not ended_with_its_start(before)
    assert not ended_with_its_start({})
