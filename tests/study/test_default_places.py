"""Storage and MLflow from the environment, which all commands take alike, wherever run.py lies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.__main__ import main
from study.arguments import parse
from study.console import next_steps
from study.default_places import default_storage, default_tracking_uri
from study.question import moved_tracking
from study.run import main as run
from study.storage import Storage
from study.trials import StudyFolder

SCRIPT = Path(__file__).parents[2] / "study" / "run.py"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A storage and an MLflow of the environment, neither of them below the current folder."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FFCAD_STORAGE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return str(tmp_path / "elsewhere"), f"sqlite:///{tmp_path / 'mlflow.db'}"


def made(*flags):
    """A study's document, as a driver writes it before its first trial."""
    config = parse(list(flags))[0]
    folder = StudyFolder(Storage(config.storage), config.name)
    folder.write_document({"study": config.to_dict(), "inputs": {}})
    return config


def test_the_environment_is_the_default_and_flags_are_stronger(places, tmp_path):
    config = parse([])[0]
    assert (config.storage, config.mlflow_uri) == places
    other = f"sqlite:///{tmp_path / 'other.db'}"
    config = parse(["--storage", "mine", "--tracking-uri", other])[0]
    assert (config.storage, config.mlflow_uri) == (str(tmp_path / "here" / "mine"), other)


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("FFCAD_STORAGE", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert (default_storage(), default_tracking_uri()) == ("runs", None)


@pytest.mark.parametrize("flag", ["--resume", "--study"])
def test_a_study_keeps_its_own_mlflow_when_it_is_gone_on_with(flag, places, tmp_path, monkeypatch):
    with_one = made("--study", "one")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    without = made("--study", "two")
    assert parse([flag, "one"])[0].mlflow_uri == places[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'another.db'}")
    assert parse([flag, "one"])[0].mlflow_uri == with_one.mlflow_uri == places[1]
    assert parse([flag, "two"])[0].mlflow_uri == without.mlflow_uri
    assert without.mlflow_uri.startswith(f"sqlite:///{places[0]}")


def test_a_study_whose_name_follows_from_its_question_keeps_its_mlflow_too(places, monkeypatch):
    made()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "an address that does not count any more")
    assert parse([])[0].mlflow_uri == places[1]


def test_a_flag_moves_a_study_to_another_mlflow_and_that_is_said(places, tmp_path):
    config = made("--study", "one")
    folder = StudyFolder(Storage(config.storage), "one")
    assert moved_tracking(folder, parse(["--study", "one"])[0]) == []
    other = f"sqlite:///{tmp_path / 'other.db'}"
    for flag in ("--resume", "--study"):
        moved = parse([flag, "one", "--tracking-uri", other])[0]
        assert moved.mlflow_uri == other
        (line,) = moved_tracking(folder, moved)
        assert f"in {other}; `python -m study sync one --tracking-uri {places[1]}`" in line
    assert moved_tracking(StudyFolder(folder.storage, "new"), config) == []


def test_a_file_of_sqlite_is_the_same_one_from_every_folder(places, tmp_path, monkeypatch):
    here = f"sqlite:///{tmp_path / 'here' / 'own.db'}"
    assert made("--study", "one", "--tracking-uri", "sqlite:///own.db").mlflow_uri == here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own.db?timeout=60")
    assert parse([])[0].mlflow_uri == f"{here}?timeout=60"
    monkeypatch.chdir(tmp_path)
    assert parse(["--resume", "one"])[0].mlflow_uri == here
    server = "postgresql+psycopg2://user@host/mlflow"
    assert parse(["--tracking-uri", server])[0].mlflow_uri == server


def test_an_address_that_is_none_is_refused_with_the_name_of_the_variable(
    places, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert run([]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "MLFLOW_TRACKING_URI" in line


def test_every_command_looks_at_the_same_place(places, tmp_path, capsys):
    made("--study", "mine")
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "mine\n"
    assert main(["encoders"]) == 0
    assert places[0] in capsys.readouterr().out
    for command in (["status", "no"], ["sync", "no"], ["report", "no"], ["promote", "no"]):
        assert main(command) == 2
        assert places[0] in capsys.readouterr().err, command
    # The registry is MLflow's, of which there is no file yet.
    assert main(["promote", "--list"]) == 2
    assert str(tmp_path / "mlflow.db") in capsys.readouterr().err


def test_the_next_commands_do_not_repeat_the_environment(places, capsys):
    from rich.console import Console

    next_steps(Console(width=500), parse([])[0], None)
    assert "--storage" not in capsys.readouterr().out
    next_steps(Console(width=500), parse(["--storage", "mine"])[0], None)
    assert "--storage mine" in capsys.readouterr().out


def copied(folder, *flags, **environment):
    """What `ray submit` does on a cluster's head: the script alone, in the home folder."""
    folder.mkdir(exist_ok=True)
    shutil.copy(SCRIPT, folder / "run.py")
    return subprocess.run(
        [sys.executable, "run.py", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), **environment},
    )


def test_a_copied_script_runs_the_installed_package(tmp_path):
    # Neither a folder of this name nor files beside the script may hide it.
    home = tmp_path / "home"
    for name in ("home/study", "home/ffcad", "study"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (home / "config.py").write_text("raise SystemExit('the wrong module')")
    done = copied(home, "--space", "papr")
    assert done.returncode == 2, done.stderr
    assert "did you mean 'paper'" in done.stderr


def test_a_copied_script_takes_the_environments_places(tmp_path):
    storage = str(tmp_path / "storage")
    done = copied(tmp_path / "home", "--resume", "mine", FFCAD_STORAGE=storage)
    assert done.returncode == 2, done.stderr
    assert storage in done.stderr
    done = copied(tmp_path / "home", FFCAD_STORAGE=storage, MLFLOW_TRACKING_URI="mlruns")
    assert done.returncode == 2, done.stderr
    assert "got 'mlruns'" in done.stderr
    assert os.listdir(tmp_path / "home") == ["run.py"]
