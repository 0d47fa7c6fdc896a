"""cluster/gpu.yaml through Ray's own provider for AWS, up to the machines, on an AWS emulator."""

import copy
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import (
    STATUS_UNINITIALIZED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "cluster" / "gpu.yaml"


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """An account with the role that the file names; keys go to a home folder of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    (tmp_path / ".ssh").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                boto3.client("iam").create_instance_profile(InstanceProfileName="ffcad-study")
                break
            except Exception:
                assert process.poll() is None
                assert time.monotonic() < end, "the emulator does not answer"
                time.sleep(0.3)
        yield tmp_path
    finally:
        process.terminate()
        process.wait()


def test_ray_gets_every_kind_of_machine(aws):
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    config = AWSNodeProvider.fillout_available_node_types_resources(config)
    validate_config(config)
    config = AWSNodeProvider.bootstrap_config(config)
    # What AWS says of the instance types agrees with what the file says.
    resources = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert resources["head"] == {"CPU": 0}
    assert resources["gpu_spot"] == resources["gpu_on_demand"]
    assert (resources["gpu_spot"]["CPU"], resources["gpu_spot"]["GPU"]) == (4, 1)
    assert (aws / ".ssh" / "ray-autoscaler_us-east-1.pem").is_file()

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    machines = {}
    for name, kind in config["available_node_types"].items():
        tags = {
            TAG_RAY_NODE_KIND: "head" if name == "head" else "worker",
            TAG_RAY_USER_NODE_TYPE: name,
            TAG_RAY_NODE_NAME: name,
            TAG_RAY_NODE_STATUS: STATUS_UNINITIALIZED,
        }
        made = provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1)
        (machines[name],) = made.values()
    assert machines["gpu_spot"].instance_lifecycle == "spot"
    assert machines["gpu_on_demand"].instance_lifecycle is None
    for name, machine in machines.items():
        assert machine.instance_type == ("m6i.xlarge" if name == "head" else "g6.xlarge")
        assert machine.iam_instance_profile["Arn"].endswith("/ffcad-study")
    # From everywhere one reaches SSH only; the machines reach one another.
    (group,) = machines["head"].security_groups
    rules = boto3.resource("ec2").SecurityGroup(group["GroupId"]).ip_permissions
    open_to_all = [r["FromPort"] for r in rules if r.get("IpRanges")]
    assert open_to_all == [22]
