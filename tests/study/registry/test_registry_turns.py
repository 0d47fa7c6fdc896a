"""Versions of a real registry: who may decide, who waits, what is given up."""

import json
import shutil

import pytest
from made_models import NAME, Failing, other_process, printed, state

from study.mlflow_places import make_database
from study.processes import this_process
from study.registry.champions import crown, roll_back
from study.registry.console import comparison
from study.registry.mlflow_registry import Registry
from study.registry.turns import check_ours, discard, wait_turn
from study.registry.versions import (
    CHAMPION,
    DISCARDED,
    FIRST,
    PASSED,
    PENDING,
    REFUSED,
    WAITING,
    RegistryError,
    model_name,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty database; to make one takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    make_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def registry(empty, tmp_path):
    shutil.copy(empty, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def create(registry, promotion, **tags):
    version = registry.create(NAME, "file:///nowhere", None, promotion, "Made up.", {})
    return registry.tag(version, tags) if tags else version


def crowned(registry, promotion, verdict):
    return crown(registry, create(registry, promotion, verdict=verdict))


def test_numbers_are_tickets_and_the_first_promotion_need_not_wait(registry):
    first = create(registry, "a")
    assert wait_turn(registry, first).number == 1
    second = create(registry, "b", promoter="{}")
    registry.tag(first, {"gate": REFUSED})
    assert registry.of_promotion(NAME, "b").number == second.number == 2
    assert registry.of_promotion(NAME, "c") is None


def test_a_later_one_waits_for_a_living_one_and_passes_over_a_dead_one(registry):
    with other_process() as promoter:
        create(registry, "a", promoter=promoter)
        mine, told = create(registry, "b"), []
        with pytest.raises(
            RegistryError, match=f"version 1 of {NAME} is being promoted by process"
        ):
            wait_turn(registry, mine, seconds=0.2, tell=told.append)
        assert len(told) == 1
        pid = json.loads(promoter)["pid"]
        assert f"process {pid}" in told[0]
        with pytest.raises(RegistryError, match=f"--discard {NAME}/1"):
            wait_turn(registry, registry.version(NAME, 1), seconds=0.2)
    assert wait_turn(registry, mine, seconds=0.2).gate == PENDING


def test_who_comes_back_steps_back_for_a_later_one_that_may_have_gone_ahead(registry):
    with other_process() as gone:
        pass
    mine = create(registry, "a", promoter=gone)
    with other_process() as promoter:
        create(registry, "b", promoter=promoter)
        with pytest.raises(RegistryError, match="version 2"):
            wait_turn(registry, mine, seconds=0.2)
        # It does not stand in the way of the later one.
        assert registry.version(NAME, 1).gate == WAITING
    mine = wait_turn(registry, registry.version(NAME, 1), seconds=0.2)
    assert mine.gate == PENDING
    check_ours(registry, mine)


def test_one_that_a_restart_of_the_machine_has_cut_off_is_passed_over(registry, monkeypatch):
    # As on a machine of which nothing else tells it, whatever this one is.
    monkeypatch.setattr("study.processes.own_machine", lambda: "5ca1ab1e")
    before = json.dumps({**this_process(), "place": "an earlier start", "pid": 1})
    create(registry, "a", promoter=before)
    mine = create(registry, "b")
    assert wait_turn(registry, mine, seconds=0.2).gate == PENDING
    registry.tag(mine, {"gate": REFUSED})
    assert wait_turn(registry, registry.version(NAME, 1), seconds=0.2).gate == PENDING


def test_a_refused_one_that_is_asked_again_steps_back_as_well(registry):
    mine = create(registry, "a", gate=REFUSED)
    with other_process() as promoter:
        create(registry, "b", promoter=promoter)
        with pytest.raises(RegistryError, match="version 2"):
            wait_turn(registry, mine, seconds=0.2)
    assert wait_turn(registry, mine, seconds=0.2).gate == PENDING


def test_what_was_taken_over_or_discarded_meanwhile_is_left_alone(registry):
    mine = wait_turn(registry, create(registry, "a"))
    registry.tag(mine, {"gate": DISCARDED})
    with pytest.raises(RegistryError, match="nothing was changed"):
        check_ours(registry, mine)
    with other_process() as promoter:
        registry.tag(mine, {"gate": PENDING, "promoter": promoter})
        with pytest.raises(RegistryError, match="nothing was changed"):
            check_ours(registry, mine)


def test_of_two_versions_for_one_promotion_the_later_one_goes(registry):
    first = create(registry, "a")
    assert create(registry, "a").number == first.number
    assert {n: gate for n, (gate, *_) in state(registry.uri).items()} == {1: PENDING, 2: DISCARDED}


def test_only_an_undecided_version_that_nobody_works_at_is_discarded(registry):
    with other_process() as promoter:
        version = create(registry, "a", promoter=promoter)
        with pytest.raises(RegistryError, match="stop that process first"):
            discard(registry, NAME, 1)
    assert discard(registry, NAME, 1).gate == DISCARDED
    with pytest.raises(RegistryError, match="is not pending: its gate says discarded"):
        discard(registry, NAME, version.number)
    # A process of another machine may be gone, which only the user can know.
    elsewhere = json.dumps({"host": "far", "place": "far/1", "pid": 1, "since_boot": 1.0})
    create(registry, "b", promoter=elsewhere)
    assert discard(registry, NAME, 2).gate == DISCARDED
    with pytest.raises(RegistryError, match="it has 1, 2"):
        discard(registry, NAME, 3)


def test_a_pending_champion_is_completed_and_not_discarded(registry):
    with other_process() as gone:
        pass
    version = create(registry, "a", promoter=gone, verdict=FIRST)
    registry.point(CHAMPION, version)
    assert discard(registry, NAME, 1).gate == FIRST
    assert registry.champion(NAME).number == 1


def test_rolling_back_goes_through_the_champions_in_their_order(registry):
    for promotion, verdict in (("a", FIRST), ("b", PASSED), ("c", PASSED)):
        crowned(registry, promotion, verdict)
    # Version 2 becomes champion once more.
    crown(registry, registry.version(NAME, 2))
    seen = []
    for _ in range(3):
        was, now = roll_back(registry, NAME, "too many false alarms")
        assert was.tags["rolled_back"] == "too many false alarms"
        seen.append((was.number, now.number))
    assert seen == [(2, 3), (3, 2), (2, 1)]
    with pytest.raises(RegistryError, match="no champion before it"):
        roll_back(registry, NAME, "")


def rolled_back(registry):
    return [version.tags.get("rolled_back") for version in registry.versions(NAME)]


@pytest.mark.parametrize("before", [True, False])
def test_a_roll_back_that_the_registry_breaks_off_is_completed_by_the_same_command(
    registry, tmp_path, before
):
    crowned(registry, "a", FIRST)
    crowned(registry, "b", PASSED)

    def copy(name):
        shutil.copy(tmp_path / "mlflow.db", tmp_path / name)
        return Registry(f"sqlite:///{tmp_path / name}")

    whole = copy("whole.db")
    client = whole.client = Failing(whole.client, None, before)
    roll_back(whole, NAME, "too slow")
    expected = state(whole.uri), rolled_back(whole)
    assert expected[1] == [None, "too slow"]
    # Of the last one, which moves the alias, a lost answer cannot be told from a roll-back.
    for n in range(client.calls if before else client.calls - 1):
        broken = copy(f"{n}.db")
        healthy = broken.client
        broken.client = Failing(healthy, n, before)
        with pytest.raises(RegistryError, match="the registry is down"):
            roll_back(broken, NAME, "too slow")
        broken.client = healthy
        champion = broken.champion(NAME)
        assert champion.number == 2
        # Nobody is told that the champion was rolled back.
        assert "rolled_back" not in champion.to_dict()["tags"]
        assert "too slow" not in printed(comparison(NAME, champion, None))
        roll_back(broken, NAME, "too slow")
        assert (state(broken.uri), rolled_back(broken)) == expected, f"died at writing {n}"


def test_who_is_replaced_after_a_roll_back_that_was_broken_off_was_not_rolled_back(registry):
    crowned(registry, "a", FIRST)
    crowned(registry, "b", PASSED)
    healthy = registry.client
    registry.client = Failing(healthy, "set_registered_model_alias", before=True)
    with pytest.raises(RegistryError, match="look with --list which version"):
        roll_back(registry, NAME, "too slow")
    registry.client = healthy
    assert rolled_back(registry) == [None, "too slow"]
    crowned(registry, "c", PASSED)
    assert rolled_back(registry) == [None, None, None]


def test_rolling_back_passes_over_versions_that_were_deleted(registry):
    for promotion in "abc":
        crowned(registry, promotion, PASSED)
    registry.client.delete_model_version(NAME, "2")
    assert roll_back(registry, NAME, "")[1].number == 1


def test_what_is_not_there_is_said_in_one_line(registry, tmp_path):
    with pytest.raises(RegistryError, match="its models are none"):
        roll_back(registry, "bolts", "")
    create(registry, "a")
    with pytest.raises(RegistryError, match=f"no model 'bolts'; its models are {NAME}"):
        roll_back(registry, "bolts", "")
    with pytest.raises(RegistryError, match="has no champion"):
        roll_back(registry, NAME, "")
    with pytest.raises(RegistryError, match=r"there is no .*none\.db"):
        Registry(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    assert registry.version_of(f"models:/{NAME}/1").number == 1
    with pytest.raises(RegistryError, match="no version with the alias 'champion'"):
        registry.version_of(f"models:/{NAME}@champion")
    with pytest.raises(RegistryError, match="names no version"):
        registry.version_of(NAME)


def test_names_are_free_of_what_mlflow_forbids():
    assert model_name("folder", "a/b: c") == "ffcad-folder-a-b- c"
