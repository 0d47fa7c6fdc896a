"""What a driver does while Tune runs, beside Tune."""

import time

import pytest
import ray
from optuna.distributions import CategoricalDistribution

from study.config import StudyError
from study.lease_holders import Follower
from study.leases import Waiter
from study.ledger import Ledger
from study.ray_session import start_ray
from study.search import OptunaSearch
from study.spaces import checked
from study.storage import Storage, StorageError
from study.trials import Case
from study.tuning import _stopping_without, is_taken

SPACE = checked("mine", "why?", {"hsas": CategoricalDistribution(("none", "2d"))}, {})


@pytest.fixture
def lease(tmp_path):
    held = Waiter(Storage(tmp_path), "driver", {"study": "mine"}, beat=0.1).attempt()
    yield held
    held.release()


@pytest.fixture
def search():
    return OptunaSearch(
        SPACE, lambda config: (Case("c", 0, config.digest()),), [], lambda record: record
    )


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_driver_that_was_succeeded_ends_its_search(lease, search):
    with _stopping_without(lease, search):
        assert search.suggest("a") != "FINISHED"
        lease.storage.create("driver/lease-000002.json", b'{"study": "mine"}')
        wait_until(search.stopping.is_set)
        assert search.suggest("b") == "FINISHED"
    assert "another driver took this study over" in search.fatal
    # What it says from then on reaches nobody.
    lease.say(stopping=True)
    time.sleep(0.3)
    assert lease.storage.read("driver/lease-000002.json") == b'{"study": "mine"}'


def test_a_storage_that_is_away_decides_no_order(tmp_path, search, monkeypatch):
    def away(*args):
        raise StorageError("the storage is away")

    search.suggest("a")
    ledger = Ledger(Storage(tmp_path))
    assert not is_taken(ledger, "mine", search.records[0])
    monkeypatch.setattr(ledger.storage, "read", away)
    assert not is_taken(ledger, "mine", search.records[0])


def test_a_disk_that_one_worker_found_full_is_told_to_the_others(lease, search):
    follower = Follower(lease.storage, lease.name)
    search.suggest("a")
    search.suggest("b")
    with _stopping_without(lease, search):
        assert not follower.holder().get("stopping")
        search.on_trial_complete("a", {"fatal": "x cannot be written: full", "final": True})
        wait_until(lambda: follower.holder().get("stopping"))
    # Neither trial is decided: both are gone on with.
    assert [record.state for record in search.records.values()] == ["begun", "begun"]
    assert search.fatal == "x cannot be written: full"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Exception("The current node timed out during startup."), "timed out during startup."),
        (TimeoutError(), "Ray does not start: TimeoutError"),
        (ValueError("Traceback\n  at\nTypeError: it is odd\n"), "start: TypeError: it is odd"),
    ],
)
def test_whatever_keeps_ray_from_starting_is_said_in_one_line(monkeypatch, error, said):
    def fail(**options):
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(StudyError) as caught:
        start_ray()
    assert str(caught.value).endswith(said)
    assert "\n" not in str(caught.value)
