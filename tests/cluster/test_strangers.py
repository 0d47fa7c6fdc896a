"""Who has no token gets in by none of the doors of Ray that a cluster has: tried on loopback."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("grpc", "aiohttp_cors")),
        reason="no port for clients, or no dashboard; pip install 'ray[default]'",
    ),
]

TOKEN = "0123456789abcdef" * 4
OWN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
SECRETS = [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"}]
# How long Ray may take to start, on a machine that may have much else to do.
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
}
WRONG, RIGHT = ({"Authorization": f"Bearer {token}"} for token in ("guessed", TOKEN))
# Ray with what the head of a cluster has beside it, until its input ends.
HEAD = """
import json, socket, sys
import ray
from ray._private import services

def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

context = ray.init(
    address="local", num_cpus=1, object_store_memory=100_000_000, log_to_driver=False,
    include_dashboard=True, dashboard_port=free_port(), _temp_dir=sys.argv[1],
)
node, port = ray._private.worker.global_worker.node, free_port()
client = services.start_ray_client_server(
    node.gcs_address, "127.0.0.1", port, fate_share=True,
    runtime_env_agent_address=node.runtime_env_agent_address,
)
print(json.dumps({
    "gcs": node.gcs_address, "client": f"127.0.0.1:{port}",
    "dashboard": context.dashboard_url,
}), flush=True)
sys.stdin.read()
client.process.kill()
"""
ENTER = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('inside')"


def environment(home, secret):
    """That of somebody with nothing but this secret."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **PATIENCE, "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(home), **secret}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder without a token."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def doors(home):
    """The addresses by which one gets in: 'gcs', 'client', 'dashboard'; and the 'head' process."""
    folder = tempfile.mkdtemp(prefix="ffcad-ray-")  # pytest's own are too long for Ray's sockets.
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD, folder],
        env=environment(home, OWN), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (line := process.stdout.readline()).startswith("{"):
            assert line, "Ray did not start; its reason is above"
        yield {**json.loads(line), "head": process}
    finally:
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def attempt(home, secret, door):
    """What a program says that tries to get in."""
    done = subprocess.run(
        [sys.executable, "-c", ENTER, door],
        env=environment(home, secret), capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_program_gets_in_by_the_token_alone(doors, home):
    assert "inside" in attempt(home, OWN, doors["gcs"])
    for secret in SECRETS:
        said = attempt(home, secret, doors["gcs"])
        assert "inside" not in said
        assert "uthenticat" in said, said[-3000:]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, "UNAUTHENTICATED"), (WRONG, "UNAUTHENTICATED"), (RIGHT, "OK")],
)
def test_the_port_of_clients_answers_by_the_token_alone(doors, headers, status):
    """By what a client asks first; it would try three times and then say 'connection timeout'."""
    import grpc  # Where these are missing the module is still collected.
    from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

    metadata = [("client_id", "stranger"), *((k.lower(), v) for k, v in headers.items())]
    question = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
    with grpc.insecure_channel(doors["client"]) as channel:
        stub = ray_client_pb2_grpc.RayletDriverStub(channel)
        try:
            stub.ClusterInfo(question, metadata=metadata, wait_for_ready=True)
            got = grpc.StatusCode.OK
        except grpc.RpcError as e:
            got = e.code()
    assert got.name == status


def test_a_node_does_not_join_without_the_token(doors, home):
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    for secret in SECRETS:
        done = subprocess.run(
            [*program, f"--address={doors['gcs']}"],
            env=environment(home, secret), capture_output=True, text=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "Ray runtime started" not in said
        assert "uthenticat" in said, said[-3000:]


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (WRONG, 403), (RIGHT, 200)])
def test_the_job_api_answers_by_the_token_alone(doors, headers, status):
    request = urllib.request.Request(f"http://{doors['dashboard']}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            got = answer.status
    except urllib.error.HTTPError as e:
        got = e.code
    assert got == status


def test_the_dashboard_listens_on_loopback_alone(doors):
    port = int(doors["dashboard"].rpartition(":")[2])
    family = psutil.Process(doors["head"].pid).children(recursive=True)
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]
