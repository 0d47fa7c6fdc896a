"""A storage that is away for a moment is waited for by who runs a study, and by nobody else."""

import errno
import os
import threading
import time

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from fsspec.implementations.memory import MemoryFileSystem
from s3fs.errors import translate_boto_error

from study.lease_holders import Follower, Silence
from study.leases import LeaseLost, Waiter
from study.outages import (
    LIMIT_SECONDS,
    LONGEST_SECONDS,
    Outages,
    StorageAway,
    asking_first,
    waiting_out,
)
from study.storage import Storage, StorageError


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


class AwayUntil(MemoryFileSystem):
    """An object store that answers every request with an error until a time."""

    cachable = False

    def __init__(self, clock, until, error):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]  # Else all of a process share one.
        self.clock, self.until, self.error, self.asked = clock, until, error, 0

    def _answer(self, method, *args, **options):
        self.asked += 1
        if self.clock() < self.until:
            raise self.error
        return getattr(super(), method)(*args, **options)

    def cat_file(self, *args, **options):
        return self._answer("cat_file", *args)

    def pipe_file(self, *args, **options):
        return self._answer("pipe_file", *args, **options)

    def ls(self, *args, **options):
        return self._answer("ls", *args, **options)

    def info(self, *args, **options):
        return self._answer("info", *args, **options)

    def rm_file(self, *args):
        return self._answer("rm_file", *args)


REFUSED = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def answered(code, status):
    """What s3fs makes of an answer."""
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "GetObject"))


def fail(error):
    raise error


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said(clock):
    """The lines that are said while this process waits."""
    lines = []
    with waiting_out(Outages(lines.append, clock, clock.sleep)):
        yield lines


def away(clock, seconds, error=REFUSED):
    """An object store that is away for so long from now."""
    storage = Storage("s3://bucket/studies")
    storage._fs = AwayUntil(clock, clock() + seconds, error)
    return storage


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        TimeoutError("timed out"),
        answered("SlowDown", 503),
        answered("InternalError", 500),
        answered("BadGateway", 502),
        answered("ConditionalRequestConflict", 409),
        OSError(errno.ECONNRESET, "reset"),
    ],
)
def test_a_minute_without_the_storage_is_waited_out(clock, said, error):
    storage = away(clock, 60.0, error)
    storage.write("a/b.json", b"1")
    assert storage.read("a/b.json") == b"1"
    assert 60.0 <= sum(clock.slept) < 60.0 + LONGEST_SECONDS
    # They grow, up to a limit.
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[0] <= 1.0
    assert clock.slept[-1] == LONGEST_SECONDS
    begun, over = said
    assert begun.startswith("Waiting for the storage, 2 minutes at most: s3://bucket/studies/a/b")
    assert over == f"The storage answers again, after {sum(clock.slept):.0f} s."


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.ENOSPC, "full"),
        NoCredentialsError(),
        answered("AccessDenied", 403),
        answered("InvalidAccessKeyId", 403),
        answered("NoSuchBucket", 404),
        answered("InvalidRequest", 400),
        answered("NotKnownToAnybody", 400),
    ],
)
def test_what_does_not_pass_fails_at_once(clock, said, error):
    storage = away(clock, 60.0, error)
    with pytest.raises(StorageError) as e:
        storage.write("a", b"1")
    assert not isinstance(e.value, StorageAway)
    assert clock.slept == said == []


def test_after_the_limit_it_fails_and_nobody_waits_as_long_again(clock, said):
    storage = away(clock, 1000.0)
    with pytest.raises(StorageAway, match="cannot be written: EndpointConnectionError"):
        storage.write("a", b"1")
    assert sum(clock.slept) == pytest.approx(LIMIT_SECONDS)
    assert len(said) == 1
    waited = len(clock.slept)
    with pytest.raises(StorageAway):
        storage.create("a", b"1")
    assert len(clock.slept) == waited
    # The next time that it is away is another time.
    clock.now += 1000.0
    storage.write("a", b"1")
    storage._fs.until = clock() + 20.0
    storage.write("a", b"2")
    assert [line.partition(" ")[0] for line in said] == ["Waiting", "The", "Waiting", "The"]


def test_an_outage_that_ends_in_a_refusal_is_over(clock, said):
    storage = away(clock, 0.0)
    errors = [REFUSED, PermissionError(errno.EACCES, "denied")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage._fs, "pipe_file", lambda *args, **options: fail(errors.pop(0)))
        with pytest.raises(StorageError, match="denied"):
            storage.write("a", b"1")
    # So the next one is waited for from its own beginning.
    clock.now += 1000.0
    storage._fs.until = clock() + 60.0
    storage.write("a", b"2")
    assert [line.partition(" ")[0] for line in said] == ["Waiting", "The", "Waiting", "The"]


def test_what_somebody_else_has_taken_over_meanwhile_is_not_written(clock, said):
    storage, asked = away(clock, 60.0), []

    def ask():
        asked.append(clock())
        # To ask is to read, which waits in its turn and asks nothing itself.
        if storage.read("holder") != b"me":
            raise LeaseLost("another one is at it")

    storage._fs.until = 0.0
    storage.write("holder", b"another one")
    storage._fs.until = clock() + 60.0
    with asking_first(ask), pytest.raises(LeaseLost):
        storage.write("record", b"mine")
    assert len(asked) == 1
    with pytest.raises(FileNotFoundError):
        storage.read("record")


def test_several_threads_wait_together_and_it_is_said_once(clock, said):
    storage = away(clock, 60.0)
    threads = [threading.Thread(target=storage.write, args=(f"{i}", b"1")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(storage.files("")) == ["/0", "/1", "/2", "/3"]
    assert len(said) == 2


def test_who_only_looks_is_told_at_once(clock, said):
    storage = away(clock, 60.0)
    with pytest.raises(StorageAway):
        storage.at_once.read("a")
    with waiting_out(None), pytest.raises(StorageAway):
        storage.read("a")
    assert clock.slept == said == []


def test_a_network_folder_is_waited_for_too(clock, said, tmp_path, monkeypatch):
    replace, until = os.replace, clock() + 60.0

    def stale(*paths):
        if clock() < until:
            raise OSError(errno.ESTALE, "Stale file handle")
        replace(*paths)

    monkeypatch.setattr(os, "replace", stale)
    Storage(tmp_path).write("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert "cannot be written: Stale file handle" in said[0]


def test_a_creation_that_failed_only_in_its_answer_is_ones_own(clock, said):
    storage = away(clock, 0.0)
    pipe = storage._fs.pipe_file

    def written_and_lost(*args, **options):
        if not storage._fs.store:
            pipe(*args)
            raise REFUSED
        raise FileExistsError

    storage._fs.pipe_file = written_and_lost
    assert storage.create("lease", b"mine")
    assert len(said) == 2


def test_a_lease_outlives_a_storage_that_is_away(clock):
    storage = away(clock, 0.0)
    lease = Waiter(storage, "thing", {}, beat=0.01, stale=0.05).attempt()
    storage._fs.until = clock() + 60.0
    follower = Follower(storage.at_once, lease.name, stale=0.05)
    began, beats = time.monotonic(), []
    real, lost = storage._fs.ls, lease.lost

    def listed(*args, **options):
        if threading.current_thread() is lease._thread:
            beats.append(time.monotonic())
        return real(*args, **options)

    storage._fs.ls = listed
    while sum(beat > began + 0.2 for beat in list(beats)) < 2:  # Long after it would be stale.
        with pytest.raises(StorageAway):
            follower.holder()
        assert not lost.wait(0.01)
    clock.now += 60.0
    lease.check()
    assert follower.holder() is not None
    lease.release()


def test_nobody_is_silent_while_he_cannot_be_heard(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("study.lease_holders.time.monotonic", lambda: now[0])
    silence = Silence(beat=10.0)
    assert silence.seconds_after("first") == 0.0
    now[0] += 100.0  # The storage was away, and the holder cannot have written yet.
    assert silence.seconds_after("first") == 10.0
    for _ in range(6):
        now[0] += 9.0
        seconds = silence.seconds_after("first")
    assert seconds == 64.0
    assert silence.seconds_after("second") == 0.0
