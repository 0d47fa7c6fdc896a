"""What a driver says and refuses before Ray is started, and what it leaves to its successor."""

import dataclasses
import io

import pytest
from rich.console import Console

from study.arguments import parse
from study.config import StudyError
from study.driver import _keep_journal, driver_lease, run_study
from study.inputs import Inputs
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
