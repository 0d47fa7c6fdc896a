"""Promotions into MLflow's server over HTTP, with files that go through it, and on PostgreSQL."""

import importlib.util
import json
import time

import pytest
from made_models import NAME, MadeSource, state
from mlflow_servers import Server

from ffcad.detector import Detector
from study.__main__ import main
from study.registry.champions import roll_back
from study.registry.command import REFUSED_CODE
from study.registry.mlflow_registry import Registry
from study.registry.model_files import fetch_detector
from study.registry.promotion import Promotion
from study.registry.source import digest_of_files
from study.registry.terms import Terms
from study.registry.versions import DETECTOR, RegistryError

pytestmark = [
    pytest.mark.slow,
    # MLflow's models say so when they are imported.
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]


@pytest.fixture
def server(tmp_path):
    """MLflow's, started and empty."""
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("mlflow server needs uvicorn, which is not installed")
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def promote(registry, folder, identity, skill=1, **terms):
    return Promotion(MadeSource(folder, identity, skill), registry, Terms(**terms)).run()


def test_a_server_that_is_down_for_a_while_ends_with_one_champion(server, tmp_path, capfd):
    registry = Registry(server.uri)
    assert promote(registry, tmp_path, "first").verdict == "first"
    assert promote(registry, tmp_path, "worse", -1).verdict == "refused"
    server.kill()
    began = time.monotonic()
    with pytest.raises(RegistryError, match=f"the registry {server.uri} failed: "):
        promote(registry, tmp_path, "better")
    assert time.monotonic() - began < 60
    server.start()
    assert promote(registry, tmp_path, "better").verdict == "passed"
    assert state(server.uri) == {
        1: ("first", (), ""),
        2: ("refused", ("challenger",), ""),
        3: ("passed", ("champion",), "1"),
    }
    champion = registry.champion(NAME)
    assert registry.seen_images(champion) == {"none"}
    # Neither bars nor addresses of runs.
    said = capfd.readouterr()
    assert said.out == ""
    assert "Downloading" not in said.err


def test_a_champion_goes_from_a_file_to_a_server(server, tmp_path, capsys):
    """From staging to production, where one that production knows nothing of has to be shown."""
    staging = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", make=True)

    def copy(*more):
        where = ("--to", server.uri, "--tracking-uri", staging.uri, "--storage", str(tmp_path))
        code = main(["promote", "--copy", f"models:/{NAME}@champion", *where, "--json", *more])
        (done,) = json.loads(capsys.readouterr().out)["promoted"]
        return code, done["verdict"], done["unchanged"]

    promote(staging, tmp_path, "first")
    assert copy() == (0, "first", False)
    assert copy() == (0, "first", True)
    promote(staging, tmp_path, "next")
    assert copy() == (REFUSED_CODE, "refused", False)
    assert copy("--force", "shown in staging") == (0, "forced", False)
    assert state(server.uri) == {1: ("first", (), ""), 2: ("forced", ("champion",), "1")}
    production = Registry(server.uri)
    champion, original = production.champion(NAME), staging.champion(NAME)
    assert champion.tags["copied_from"] == staging.uri
    assert champion.tags["force_reason"] == "shown in staging"
    assert production.seen_images(champion) == staging.seen_images(original)
    # The server has the files itself.
    (tmp_path / "mlflow.db").unlink()
    fetched = fetch_detector(champion.uri, tmp_path / "fetched", server.uri)
    assert digest_of_files(Detector.load(fetched.folder)) == original.tags[DETECTOR]


def test_postgres_is_a_registry_like_the_others(postgres, tmp_path):
    registry = Registry(postgres, make=True)
    assert promote(registry, tmp_path, "first").verdict == "first"
    assert promote(registry, tmp_path, "worse", -1).verdict == "refused"
    assert promote(registry, tmp_path, "worse", -1, force="the camera is new").verdict == "forced"
    assert promote(registry, tmp_path, "better").verdict == "passed"
    roll_back(registry, NAME, "too slow")
    assert state(postgres) == {
        1: ("first", (), ""),
        2: ("forced", ("champion",), "1"),
        3: ("passed", (), "1,2"),
    }
    # What was refused and then forced is no challenger; what was rolled back says why.
    assert registry.version(NAME, 3).tags["rolled_back"] == "too slow"
    assert registry.seen_images(registry.champion(NAME)) == {"none"}
