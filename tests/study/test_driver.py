"""What a driver says and refuses before Ray is started, and what it leaves to its successor."""

import dataclasses
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from rich.console import Console

from study.arguments import parse
from study.config import StudyError
from study.driver import _keep_journal, driver_lease, run_study
from study.inputs import Inputs
from study.leases import Waiter
from study.plan import Plan
from study.question import open_study
from study.sitting import Sitting
from study.storage import Storage
from study.trials import StudyFolder

INPUTS = Inputs(data={"wood@64": "w"}, textures={}, weights={"random": "r"}, method_version=1)


@pytest.fixture
def ask(tmp_path):
    """Opens the study 'mine' with flags and inputs."""

    def opened(*flags, inputs=INPUTS):
        config, space, sought = parse(["--storage", str(tmp_path), "--study", "mine", *flags])
        open_study(StudyFolder(Storage(tmp_path), "mine"), config, space, inputs, sought.extend)

    return opened


def test_a_question_with_brackets_is_shown_as_written(tmp_path):
    config, space, _ = parse(["--storage", str(tmp_path), "--study", "mine"])
    config = dataclasses.replace(config, question="Is [/x] as good as [paper]?")
    out = io.StringIO()
    console = Console(file=out, width=120)
    assert run_study(config, space, INPUTS, [], console, encoders_only=True) == 0
    assert "mine: Is [/x] as good as [paper]?" in out.getvalue()


def test_another_protocol_under_the_same_name_is_refused_with_the_difference(ask):
    ask()
    ask()
    with pytest.raises(StudyError) as error:
        ask("--select-on", "synthetic")
    said = "is another one: select_on was 'holdout' and is now 'synthetic'; give another --study"
    assert said in str(error.value)
    ask("--select-on", "synthetic", "--extend")
    with pytest.raises(StudyError, match="select_on was 'synthetic' and is now 'holdout'"):
        ask()


def test_changed_images_are_refused_with_the_difference(ask):
    ask()
    changed = dataclasses.replace(INPUTS, data={"wood@64": "other"})
    with pytest.raises(StudyError, match=r"data\.wood@64 was 'w' and is now 'other'; give another"):
        ask(inputs=changed)


@pytest.mark.parametrize("lost", [False, True])
def test_a_driver_that_was_succeeded_leaves_the_journal_alone(tmp_path, lost):
    config, space, _ = parse(["--storage", str(tmp_path), "--study", "mine"])
    folder, journal = StudyFolder(Storage(tmp_path), "mine"), tmp_path / "mine.journal"
    journal.write_bytes(b"another's")
    with driver_lease(folder, Console()) as lease:
        if lost:
            lease.lost.set()
        sitting = Sitting(config, space, INPUTS, folder, lease, Plan([], 1), journal)
        _keep_journal(sitting, Console())
    assert (journal.read_bytes() == b"another's") == lost
    assert (folder.storage.version(folder.journal) is None) == lost


def test_of_drivers_that_begin_at_the_same_moment_one_runs_and_the_others_name_it(tmp_path):
    barrier, ended = Barrier(8), Barrier(8)

    def begin(number):
        out = io.StringIO()
        barrier.wait()
        try:
            with driver_lease(StudyFolder(Storage(tmp_path), "mine"), Console(file=out)) as lease:
                ended.wait(30)
                return lease, out.getvalue()
        except StudyError as e:
            ended.wait(30)
            return str(e), out.getvalue()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(begin, range(8)))
    refused = [said for said, _ in results if isinstance(said, str)]
    assert len(refused) == 7
    for said in refused:
        assert f"is being run by another driver (process {os.getpid()} on " in said
    assert {out for _, out in results} == {""}


def test_a_driver_that_loses_by_a_moment_names_the_winner(tmp_path, monkeypatch):
    folder, out, winners = StudyFolder(Storage(tmp_path), "mine"), io.StringIO(), []
    create = folder.storage.create

    def late(name, content):
        if not winners:
            other = Waiter(Storage(tmp_path), folder.driver, {"study": "mine"})
            winners.append(other.attempt())
        return create(name, content)

    monkeypatch.setattr(folder.storage, "create", late)
    with (
        pytest.raises(StudyError, match=rf"\(process {os.getpid()} on "),
        driver_lease(folder, Console(file=out)),
    ):
        pass
    assert out.getvalue() == ""
    winners[0].release()


@pytest.mark.parametrize("beats", [False, True])
def test_a_driver_waits_for_a_sign_of_life_of_one_elsewhere(tmp_path, beats, monkeypatch):
    folder, out = StudyFolder(Storage(tmp_path), "mine"), io.StringIO()
    name = f"{folder.driver}/lease-000001.json"
    holder = {"study": "mine", "pid": 7, "host": "far", "place": "another machine", "beat": 0}
    assert folder.storage.create(name, json.dumps(holder).encode())

    def wait(seconds):
        holder["beat"] += beats
        folder.storage.write(name, json.dumps(holder).encode())

    monkeypatch.setattr("study.driver.time.sleep", wait)
    begun = driver_lease(folder, Console(file=out, width=200), stale=0.2)
    if beats:
        with pytest.raises(StudyError, match=re.escape("(process 7 on far); wait for it, or end")):
            begun.__enter__()
    else:
        with begun as lease:
            assert lease.name.endswith("lease-000002.json")
    assert out.getvalue().count("Waiting up to 0 s to see whether process 7 on far") == 1
