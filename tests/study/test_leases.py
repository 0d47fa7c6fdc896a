"""Of several processes one holds a lease; one that is gone is succeeded."""

import json
import subprocess
import sys
import threading
import time

import psutil
import pytest

from study.lease_holders import Follower, current_holder
from study.leases import LeaseLost, Waiter
from study.processes import is_gone, this_process
from study.storage import Storage

BEAT, STALE = 0.1, 0.6


def waiter(storage, study="mine"):
    return Waiter(storage, "thing", {"study": study}, beat=BEAT, stale=STALE)


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def elsewhere(storage, lease):
    """Rewrites a lease as if its holder were on another machine."""
    document = json.loads(storage.read(lease))
    storage.write(lease, json.dumps({**document, "place": "another", "pid": 1}).encode())


def test_one_at_a_time_and_the_next_when_it_is_given_back(storage):
    first = waiter(storage).attempt()
    second = waiter(storage, "yours")
    assert second.attempt() is None
    assert second.holder["study"] == "mine"
    assert second.is_alive()
    assert current_holder(storage, "thing")["study"] == "mine"
    first.release()
    assert current_holder(storage, "thing") is None
    lease = second.attempt()
    assert lease is not None
    assert current_holder(storage, "thing")["study"] == "yours"
    # Numbers only go up, and what came before is removed.
    assert list(storage.files("thing")) == ["thing/lease-000002.json"]
    lease.forget()
    assert storage.files("thing") == {}


def test_of_many_that_try_at_once_one_gets_it(storage):
    for _ in range(3):
        taken, barrier = [], threading.Barrier(6)

        def attempt(taken=taken, barrier=barrier):
            mine = waiter(storage)
            barrier.wait()
            lease = mine.attempt()
            if lease is not None:
                taken.append(lease)

        threads = [threading.Thread(target=attempt) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].check()
        taken[0].release()


def test_a_killed_process_of_this_machine_is_succeeded_at_once(storage):
    code = (
        "import sys, time; from study.storage import Storage; from study.leases import Waiter\n"
        "assert Waiter(Storage(sys.argv[1]), 'thing', {'study': 'gone'}).attempt()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, storage.where], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    mine = waiter(storage)
    assert mine.attempt() is None
    process.kill()
    process.wait()
    lease = mine.attempt()
    assert lease is not None
    lease.release()


def test_a_silent_holder_elsewhere_is_succeeded_and_learns_of_it(storage):
    lost = waiter(storage).attempt()
    mine = waiter(storage, "yours")
    elsewhere(storage, lost.name)
    assert mine.attempt() is None
    # As long as it beats it holds: its heartbeats say again who it is.
    end = time.monotonic() + 2 * STALE
    while time.monotonic() < end:
        assert mine.attempt() is None
        time.sleep(BEAT)
    lost._beat = 60.0  # It falls silent, as a suspended machine does.
    lost._wake.set()
    time.sleep(3 * BEAT)
    elsewhere(storage, lost.name)
    assert mine.attempt() is None
    wait_until(lambda: mine.attempt() is not None)
    lost._wake.set()  # It wakes up.
    assert lost.lost.wait(5)
    with pytest.raises(Exception, match="was taken over by another process"):
        lost.check()
    lost.release()
    assert current_holder(storage, "thing")["study"] == "yours"


def test_a_worker_that_is_started_again_elsewhere_waits_for_nobody(storage):
    def worker(name):
        return Waiter(storage, "thing", {"study": "mine", "worker": name}, beat=BEAT, stale=STALE)

    former = worker("trial 3 of lease-000001").attempt()
    elsewhere(storage, former.name)
    assert worker("trial 4 of lease-000001").attempt() is None
    assert worker("trial 3 of lease-000002").attempt() is None
    assert worker(None).attempt() is None
    again = worker("trial 3 of lease-000001").attempt()
    assert again is not None
    assert former.lost.wait(5)  # It is cut off, and not dead.
    again.check()
    again.release()


def test_workers_without_a_name_are_not_each_others_former_selves(storage):
    first = Waiter(storage, "thing", {"worker": None}, beat=BEAT, stale=STALE).attempt()
    elsewhere(storage, first.name)
    assert Waiter(storage, "thing", {"worker": None}, beat=BEAT, stale=STALE).attempt() is None
    first.release()


def test_a_holder_that_cannot_write_any_more_gives_up(tmp_path):
    lease = waiter(Storage(tmp_path)).attempt()
    (tmp_path / "thing").rename(tmp_path / "away")
    (tmp_path / "thing").write_bytes(b"no folder")
    assert lease.lost.wait(10)


@pytest.mark.parametrize("again", [False, True])
def test_a_holder_whose_successor_is_done_for_good_learns_of_it(storage, again):
    # At once, not when it is stale.
    lost = Waiter(storage, "thing", {"study": "mine"}, beat=BEAT, stale=60.0).attempt()
    # Another one took it as 2 and removed that at its end; then numbers may begin anew.
    storage.delete(lost.name)
    if again:
        document = {"study": "yours", "token": "another", "place": "another", "pid": 1}
        storage.write(lost.name, json.dumps(document).encode())
    assert lost.lost.wait(5)
    lost.forget()
    holder = current_holder(storage, "thing")
    assert (holder and holder["study"]) == ("yours" if again else None)


def test_a_lease_given_back_is_ones_own(storage):
    """A process that was suspended may wake up where it gives its lease back."""
    lost = Waiter(storage, "thing", {"study": "mine"}, beat=60.0).attempt()
    document = {"study": "yours", "token": "another", "place": "another", "pid": 1}
    storage.write(lost.name, json.dumps(document).encode())
    lost.forget()
    assert current_holder(storage, "thing")["study"] == "yours"


def test_followers_see_what_is_said_and_the_end(storage):
    lease = waiter(storage).attempt()
    follower = Follower(storage, lease.name, stale=STALE)
    assert follower.holder()["study"] == "mine"
    lease.say(stopping=True)
    wait_until(lambda: follower.holder().get("stopping"))
    lease.release()
    assert follower.holder() is None


def test_followers_of_a_silent_holder_elsewhere_see_its_end(storage):
    lease = waiter(storage).attempt()
    lease._beat = 60.0
    lease._wake.set()
    time.sleep(3 * BEAT)
    elsewhere(storage, lease.name)
    follower = Follower(storage, lease.name, stale=STALE)
    assert follower.holder() is not None
    wait_until(lambda: follower.holder() is None)
    lease.release()


def test_a_lease_that_cannot_be_read_becomes_stale(storage):
    storage.write("thing/lease-000001.json", b"{ no json")
    mine = waiter(storage)
    assert mine.attempt() is None
    wait_until(lambda: mine.attempt() is not None)


def test_a_clock_that_is_set_makes_no_living_process_look_dead(monkeypatch):
    mine, before = this_process(), psutil._psplatform.boot_time()
    # What a daemon that sets the clock does to psutil's times: all move with the time of the start.
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: before + 3600)
    assert psutil.Process().create_time() - before > 3600 - 1
    assert not is_gone(mine)
    assert is_gone({**mine, "since_boot": mine["since_boot"] - 5})


def test_a_holder_that_was_suspended_looks_before_it_writes(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    lease = Waiter(storage, "thing", {}, beat=1000, stale=STALE).attempt()
    assert storage.create("thing/lease-000002.json", b"{}")
    lease.check()  # It has just taken it: no need to look.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * STALE)
    with pytest.raises(LeaseLost):
        lease.check()
