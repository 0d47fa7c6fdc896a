"""Promotions into MLflow's server over HTTP, with files that go through it."""

import importlib.util
import time

import pytest
from made_models import NAME, MadeSource, state
from test_tracking_servers import Server

from study.registry.mlflow_registry import Registry
from study.registry.promotion import Promotion
from study.registry.terms import Terms
from study.registry.versions import RegistryError

pytestmark = [
    pytest.mark.slow,
    # MLflow's models say so when they are imported.
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]


def test_a_server_that_is_down_for_a_while_ends_with_one_champion(tmp_path, capfd):
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("mlflow server needs uvicorn, which is not installed")
    server = Server(tmp_path)
    try:
        server.start()
        registry = Registry(server.uri)

        def promote(identity, skill=1):
            return Promotion(MadeSource(tmp_path, identity, skill), registry, Terms()).run()

        assert promote("first").verdict == "first"
        assert promote("worse", -1).verdict == "refused"
        server.kill()
        began = time.monotonic()
        with pytest.raises(RegistryError, match=f"the registry {server.uri} failed: "):
            promote("better")
        assert time.monotonic() - began < 60
        server.start()
        assert promote("better").verdict == "passed"
        assert state(server.uri) == {
            1: ("first", (), ""),
            2: ("refused", ("challenger",), ""),
            3: ("passed", ("champion",), "1"),
        }
        champion = registry.champion(NAME)
        assert registry.seen_images(champion) == {"none"}
    finally:
        server.kill()
    # Neither bars nor addresses of runs.
    said = capfd.readouterr()
    assert said.out == ""
    assert "Downloading" not in said.err
