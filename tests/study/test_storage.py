"""The same promises on a local folder and on an object store (an S3 emulator)."""

import http.client
import http.server
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import s3fs

from study.leases import Waiter
from study.storage import Storage, StorageError


def test_what_is_written_is_read_listed_replaced_and_removed(storage):
    assert storage.version("a/b.json") is None
    assert storage.files("a") == {}
    assert storage.folders("a") == []
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.json")
    storage.write("a/b.json", b"1")
    storage.write("a/c/d.json", b"2")
    before = storage.version("a/b.json")
    assert before is not None
    assert storage.read("a/b.json") == b"1"
    assert storage.files("a") == {"a/b.json": before}
    assert storage.folders("a") == ["c"]
    storage.write("a/b.json", b"3")
    assert storage.read("a/b.json") == b"3"
    assert storage.version("a/b.json") != before
    storage.copy("a/b.json", "a/e.json")
    storage.write("a/b.json", b"4")
    assert storage.read("a/e.json") == b"3"
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert set(storage.files("a")) == {"a/e.json"}


def test_files_come_and_go(storage, tmp_path):
    path = tmp_path / "mine.bin"
    path.write_bytes(b"x" * 100_000)
    storage.upload(path, "f/mine.bin")
    with storage.at_hand("f/mine.bin") as found:
        assert found.name == "mine.bin"
        assert found.read_bytes() == path.read_bytes()
    with pytest.raises(FileNotFoundError), storage.at_hand("f/yours.bin"):
        pass


def test_only_one_creates_a_file(storage):
    assert storage.create("x/lease", b"1")
    assert not storage.create("x/lease", b"2")
    assert storage.read("x/lease") == b"1"
    storage.check()
    assert storage.files("") == {}


def _create(where, number, barrier, results):
    storage = Storage(where)
    barrier.wait()
    results.put((number, storage.create("race/lease", str(number).encode())))


def test_of_many_that_create_at_once_one_succeeds(storage):
    context = multiprocessing.get_context("fork" if storage.local else "spawn")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_create, args=(storage.where, i, barrier, results)) for i in range(4)
    ]
    for worker in workers:
        worker.start()
    outcomes = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    (winner,) = [number for number, created in outcomes.items() if created]
    assert storage.read("race/lease") == str(winner).encode()


def test_ones_own_file_is_known_again(storage):
    assert storage.create("x/lease", b"mine")
    assert storage.create("x/lease", b"mine")
    assert not storage.create("x/lease", b"yours")


def test_the_age_of_a_file_is_the_storages(storage):
    assert storage.age("a") is None
    storage.write("a", b"1")
    time.sleep(2.5)
    storage.write("b", b"1")
    assert storage.age("a") >= 1.5  # An object store's times are whole seconds.
    assert storage.age("b") < storage.age("a")
    assert {name.strip("/") for name in storage.files("")} == {"a", "b"}


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the emulator, and closes the connection instead of giving the first
    answer to an exclusive creation."""

    protocol_version = "HTTP/1.1"  # The client asks whether to go on before it sends.
    lost, refused = 0, 0

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        emulator = http.client.HTTPConnection(os.environ["AWS_ENDPOINT_URL"].partition("://")[2])
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        emulator.request(self.command, self.path, body, headers)
        answer = emulator.getresponse()
        content = answer.read()
        if self.headers.get("If-None-Match"):
            Proxy.refused += answer.status == 412
            Proxy.lost += 1
            if Proxy.lost == 1:
                self.close_connection = True
                return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_DELETE = do_POST = do_PUT

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_lease_whose_creation_was_not_answered_is_ones_own(bucket, tmp_path):
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    storage = Storage(f"{bucket}/{tmp_path.name}")
    storage._fs = s3fs.S3FileSystem(
        endpoint_url=f"http://127.0.0.1:{proxy.server_port}",
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    try:
        lease = Waiter(storage, "thing", {"study": "mine"}).attempt()
        # The answer was lost, and what the client sent again was refused.
        assert (Proxy.lost, Proxy.refused) == (2, 1)
        assert lease is not None
        lease.check()
        assert Waiter(storage, "thing", {"study": "yours"}).attempt() is None
        lease.release()
    finally:
        proxy.shutdown()
        proxy.server_close()


KILLED_WRITER = """
import itertools, sys
from pathlib import Path
from study.storage import Storage
storage = Storage(sys.argv[1])
print("uploading", flush=True)
for path in itertools.cycle(sys.argv[2:]):
    storage.upload(Path(path), "fit/checkpoint.pt")
"""


def read_soon(storage):
    """The file, as soon as the emulator does not close its own one while it sends it: it refuses to
    be read while the request that the killed writer left behind replaces the object."""
    end = time.monotonic() + 20
    while True:
        try:
            return storage.read("fit/checkpoint.pt")
        except StorageError:
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_a_whole_file(storage, tmp_path):
    contents = [letter * 100_000_000 for letter in (b"a", b"b")]
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    storage.upload(paths[0], "fit/checkpoint.pt")
    for delay in (0.02, 0.1, 0.3, 0.7, 1.1):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, storage.where, *map(str, reversed(paths))],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout.readline() == "uploading\n"
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # What is read, at once and ever after, is one of both and whole.
        for _ in range(3):
            assert read_soon(storage) in contents
        assert list(storage.files("fit")) == ["fit/checkpoint.pt"]


@pytest.mark.slow
def test_a_large_file_that_is_replaced_meanwhile_is_read_as_one(storage, tmp_path):
    contents = [letter * 100_000_000 for letter in (b"a", b"b")]
    for name, content in zip("ab", contents, strict=True):
        (tmp_path / name).write_bytes(content)
    storage.upload(tmp_path / "a", "fit/checkpoint.pt")
    over = threading.Event()

    def replace():
        for name in itertools.cycle("ba"):
            if over.is_set():
                return
            storage.upload(tmp_path / name, "fit/checkpoint.pt")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(8):
            content = read_soon(storage)
            assert content in contents, sorted(set(content[::1_000_000]))
    finally:
        over.set()
        writer.join()
    with storage.at_hand("fit/checkpoint.pt") as path:
        assert path.read_bytes() in contents


def test_what_cannot_be_used_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"unknown scheme 'ftp'; give a folder, s3://"):
        Storage("ftp://host/folder")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/x cannot be written: (Not a directory|File exi)"):
        Storage(tmp_path / "file").write("x", b"")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"needs another package: pip install 'ffcad-study\[gcs"):
        Storage("gs://bucket/folder")


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket):
    with pytest.raises(StorageError, match=r"--storage s3://nowhere/mine cannot be written: "):
        Storage("s3://nowhere/mine").check()
