"""What a node says of itself, without Ray."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from study.cluster import _gpus_wanted, nodes_of
from study.failures import WrongNode
from study.machine import code_state, source_digest
from study.nodes import Node, ask_node, check_this_node, demands_of


@pytest.fixture
def demands(make_context, tmp_path):
    """What a study asks of its nodes, whose document is on the storage."""
    config = make_context(tmp_path / "runs").study
    write_study(config)
    return demands_of(config, [])


def write_study(config):
    path = Path(config.storage) / "studies" / config.name / "study.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"study": config.to_dict(), "inputs": {}, "id": "abc"}))


def faults(demands, resources=None):
    return ask_node(demands, resources or {"CPU": 1.0})["faults"]


def test_a_node_like_the_driver_has_no_fault(demands):
    assert ask_node(demands, {"CPU": 2.0, "GPU": 2.0, "fake_gpus": 1.0}) == {
        "faults": [],
        "gpus": [["fake", 0.0]] * 2,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code": {**code_state(), "source files": "123"}}, "but the driver has 123"),
        ({"code": {**code_state(), "numpy": "1.2.3"}}, "its numpy: "),
        ({"id": "another"}, "is not the driver's: the study's document is not there"),
        ({"study": "unknown"}, "is not the driver's: the study's document is not there"),
        ({"data": "mvtec", "data_root": "/nowhere"}, "data root /nowhere does not exist"),
        ({"categories": ["dial", "moon"]}, "has no category moon there"),
        ({"folders": ["/nowhere/dtd"]}, "there is no folder /nowhere/dtd"),
        ({"files": ["/nowhere/w.pth"]}, "there is no file /nowhere/w.pth"),
    ],
)
def test_what_a_node_lacks_is_one_line(demands, changes, said):
    (fault,) = faults({**demands, **changes})
    assert said in fault
    assert "\n" not in fault


def test_a_revision_that_one_side_does_not_know_is_no_fault(demands):
    assert faults({**demands, "code": {**demands["code"], "git revision": None}}) == []


def test_a_cache_that_cannot_be_written_is_named(demands, monkeypatch):
    monkeypatch.setenv("FFCAD_CACHE", "/proc/nowhere")
    (fault,) = faults(demands)
    assert "the cache of decoded images, /proc/nowhere, cannot be written" in fault


def test_gpus_that_a_node_claims_must_be_there(demands):
    (fault,) = faults(demands, {"CPU": 1.0, "GPU": 64.0})
    assert fault.startswith("it claims 64 GPUs but torch finds ")


def test_the_digest_of_the_sources_is_of_their_contents(tmp_path, monkeypatch):
    before = source_digest()
    packages = tmp_path / "packages"
    for name in ("ffcad", "study", "search_spaces"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text("one = 1\n")
    found = {name: [str(packages / name)] for name in ("ffcad", "study", "search_spaces")}
    monkeypatch.setattr(
        "study.machine.find_spec",
        lambda name: type("Spec", (), {"submodule_search_locations": found[name]}),
    )
    other = source_digest()
    assert other != before
    (packages / "study" / "data.txt").write_text("no code")
    assert source_digest() == other
    (packages / "study" / "__init__.py").write_text("one = 2\n")
    assert source_digest() != other


LAUNCHED = {
    "max_workers": 10,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 8},
        "spot": {"resources": {"CPU": 32, "GPU": 4}, "max_workers": 4},
    },
}


def test_a_cluster_of_rays_launcher_is_known_when_it_is_full_grown():
    head = {"CPU": 0.0, "node:__internal_head__": 1.0}
    grown = nodes_of(LAUNCHED, [head])
    assert sum(node.get("GPU", 0) for node in grown) == 4 * 4 + 6  # No more than ten workers.
    # Of one's own machines nobody knows what they have until one has come.
    own = {"max_workers": 3, "available_node_types": {"local.cluster.node": {"resources": {}}}}
    assert nodes_of(own, [head]) is None
    assert (
        nodes_of(own, [head, {"CPU": 4.0, "GPU": 2.0}]) == [head] + [{"CPU": 4.0, "GPU": 2.0}] * 3
    )


BARE_HEAD = {"CPU": 0.0, "GPU": 1.0, "node:__internal_head__": 1.0}


@pytest.mark.parametrize(
    ("asked", "nodes", "full_grown", "gpus"),
    [
        (None, [BARE_HEAD, {"CPU": 4.0, "GPU": 1.0}], None, 1.0),
        (None, [{"CPU": 4.0, "GPU": 1.0, "node:__internal_head__": 1.0}], None, 1.0),
        # No trial lands on the head, so its GPU is nobody's.
        (None, [BARE_HEAD, {"CPU": 4.0}], None, 0.0),
        ("auto", [BARE_HEAD, {"CPU": 4.0}], [BARE_HEAD, {"CPU": 4.0}], 0.0),
        ("auto", [BARE_HEAD], [BARE_HEAD, {"CPU": 4.0, "GPU": 1.0}], 1.0),
        ("auto", [BARE_HEAD, {"CPU": 4.0}], None, 1.0),  # Of GPUs that are to come.
        (0.25, [BARE_HEAD], None, 0.25),
    ],
)
def test_the_gpus_of_a_trial_are_those_of_nodes_that_it_can_land_on(
    make_context, tmp_path, monkeypatch, asked, nodes, full_grown, gpus
):
    config = dataclasses.replace(make_context(tmp_path).study, gpus_per_trial=asked)
    known = [Node(str(i), "a node", resources) for i, resources in enumerate(nodes)]
    monkeypatch.setattr("study.cluster.alive_nodes", lambda: known)
    assert _gpus_wanted(config, full_grown) == gpus


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_a_node_that_has_no_gpu_for_its_trials_is_wrong_though_it_was_asked(
    make_context, demands, tmp_path, monkeypatch
):
    context = make_context(tmp_path / "runs")
    own = {"NodeID": "n1", "Resources": {"CPU": 2.0, "GPU": 1.0}}
    monkeypatch.setattr("study.nodes.this_node", lambda: "n1")
    monkeypatch.setattr("study.nodes.ray.nodes", lambda: [own])

    def with_share(gpus, asked=frozenset()):
        study = dataclasses.replace(context.study, gpus_per_trial=gpus)
        return dataclasses.replace(context, study=study, demands=demands, asked=asked)

    for asked in (frozenset(), frozenset({"n1"})):
        with pytest.raises(WrongNode, match="has a share of a GPU there, but torch finds none"):
            check_this_node(with_share(0.5, asked))
    check_this_node(with_share(0.0))
    own["Resources"]["fake_gpus"] = 1.0
    check_this_node(with_share(0.5))
