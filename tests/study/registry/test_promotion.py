"""Promotions into a real registry: champions, challengers, what is broken off, two at once."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_models import (
    CALIBRATION,
    CONFIG,
    NAME,
    Failing,
    MadeSource,
    deciding_images,
    detector,
    state,
)
from mlflow.models import Model

from ffcad.datasets import DataError
from ffcad.datasets.records import SIMULATED
from ffcad.detector import Detector
from ffcad.model import FFCAD
from study.machine import machine_in_words
from study.registry.champions import roll_back
from study.registry.command import _target
from study.registry.console import of_promoted
from study.registry.from_registry import FromRegistry
from study.registry.mlflow_registry import Registry
from study.registry.model_files import fetch_detector
from study.registry.promotion import Promotion
from study.registry.scoring import content
from study.registry.source import digest_of_files
from study.registry.terms import Terms
from study.registry.turns import discard
from study.registry.versions import RegistryError, is_of_decision

pytestmark = [
    pytest.mark.slow,
    # MLflow's models say so when they are imported.
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]

CHAMPION, CHALLENGER = ("champion",), ("challenger",)
GOOD, BAD = 1, -1


def promote(registry, folder, identity, skill=GOOD, dry_run=False, **more):
    """A promotion; terms among `more` are the promotion's, the rest the source's."""
    terms = {k: more.pop(k) for k in list(more) if k in Terms.__dataclass_fields__}
    source = MadeSource(folder, identity, skill, **more)
    return Promotion(source, registry, Terms(**terms), wait=5.0).run(dry_run=dry_run)


@pytest.fixture(scope="module")
def with_champion(tmp_path_factory):
    """A registry with a champion that sees nothing much, and a run in which the next is logged."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", make=True)
    assert promote(registry, folder, "first").verdict == "first"
    registry.client = Failing(registry.client, "create_model_version", before=True)
    with pytest.raises(RegistryError, match="the same command goes on where this one ended"):
        promote(registry, folder, "next")
    assert state(registry.uri) == {1: ("first", CHAMPION, "")}
    return folder


@pytest.fixture
def registry(with_champion, tmp_path):
    """A copy of it; files of models stay where they are."""
    shutil.copy(with_champion / "mlflow.db", tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_the_first_version_says_what_it_is(registry):
    version = registry.champion(NAME)
    assert version.description == "Made as first."
    assert version.tags["verdict"] == "first"
    assert registry.seen_images(version) == {"none"}
    assert "gate_checks" not in version.tags
    run = registry.client.get_run(version.run)
    assert (run.info.status, run.data.tags["level"]) == ("FINISHED", "promotion")
    model = Model.load(
        registry.client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    )
    assert {"image", "path"} <= set(model.signature.inputs.input_names())
    assert {"score", "defect", "anomaly_map"} <= set(model.signature.outputs.input_names())
    assert model.saved_input_example_info is not None


def test_a_better_one_becomes_champion_and_the_same_command_changes_nothing(registry, tmp_path):
    done = promote(registry, tmp_path, "next")
    assert (done.verdict, done.version, done.against, done.champion) == ("passed", 2, 1, True)
    assert state(registry.uri) == {1: ("first", (), ""), 2: ("passed", CHAMPION, "1")}
    source = MadeSource(tmp_path, "next")
    again = Promotion(source, registry, Terms()).run()
    assert (again.unchanged, again.version, source.made) == (True, 2, 0)
    # A reason that nothing needs is not kept, and that is said.
    again = promote(registry, tmp_path, "next", force="for the show")
    assert (again.unchanged, again.force_unused) == (True, True)
    said = of_promoted(again)[-1].plain
    assert said.endswith("is the champion; --force was not needed, and its reason is not kept")
    assert "force_reason" not in registry.champion(NAME).tags
    # Whatever was rolled back stays so, unless there is a reason.
    roll_back(registry, NAME, "too slow")
    assert not promote(registry, tmp_path, "next").champion
    assert promote(registry, tmp_path, "next", force="it is fast enough").champion
    assert registry.champion(NAME).tags["force_reason"] == "it is fast enough"


def test_a_worse_one_is_challenger_until_it_is_forced(registry, tmp_path):
    done = promote(registry, tmp_path, "next", BAD)
    assert (done.verdict, done.champion) == ("refused", False)
    assert state(registry.uri) == {1: ("first", CHAMPION, ""), 2: ("refused", CHALLENGER, "")}
    tags = registry.version(NAME, 2).tags
    auroc, _ = json.loads(tags["gate_figures"])
    assert (auroc["details"]["challenger"], auroc["passed"]) == (0.0, False)
    assert "missed by" in tags["gate_checks"]
    assert tags["gate_champion"] == "1"
    assert tags["gate_images"] == "the report split: 12 normal, 18 defective"
    # Asked again it is looked at again, as the same version.
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    forced = promote(registry, tmp_path, "next", BAD, force="the camera is new")
    assert (forced.verdict, forced.champion, forced.version) == ("forced", True, 2)
    assert state(registry.uri) == {1: ("first", (), ""), 2: ("forced", CHAMPION, "1")}
    assert registry.champion(NAME).tags["force_reason"] == "the camera is new"


def of_decision(registry, number):
    """A version's tags that tell what was decided about it, and its description."""
    version = registry.version(NAME, number)
    tags = {tag: value for tag, value in version.tags.items() if is_of_decision(tag)}
    return tags, version.description


def test_tags_and_description_are_those_of_the_last_look(registry, tmp_path):
    """Not of an earlier one on other images, against another champion, forced or broken off."""
    first = MadeSource(tmp_path, "next")
    made = first.make()
    earlier = dataclasses.replace(
        made, description="Of other images.", tags=made.tags | {"gate_pixel_ap": "0.1"}
    )
    first.make = lambda: earlier
    limits = {"most_latency_ms": 1.0}
    done = Promotion(first, registry, Terms(**limits)).run()
    assert done.verdict == "refused"
    assert of_decision(registry, 2)[0]["gate_pixel_ap"] == "0.1"
    # Forced, and broken off before the alias moves.
    registry.client = Failing(registry.client, "set_registered_model_alias", before=True)
    with pytest.raises(RegistryError):
        promote(registry, tmp_path, "next", force="the camera is new", **limits)
    registry = Registry(registry.uri)
    assert registry.version(NAME, 2).tags["verdict"] == "forced"
    assert promote(registry, tmp_path, "next", speed=10.0).verdict == "passed"
    tags, description = of_decision(registry, 2)
    assert description == "Made as next."
    assert set(tags) == {"gate_checks", "gate_figures", "gate_champion", "gate_images"}
    assert "latency" not in tags["gate_checks"]


def test_without_a_champion_nothing_is_said_of_the_one_that_was(registry, tmp_path):
    assert promote(registry, tmp_path, "next", BAD).against == 1
    registry.unpoint("champion", registry.version(NAME, 1))
    done = promote(registry, tmp_path, "next", BAD)
    assert (done.verdict, done.against) == ("first", None)
    assert of_decision(registry, 2)[0] == {}


def test_a_decided_version_whose_look_is_broken_off_in_the_middle_is_undecided(registry, tmp_path):
    """Its tags are of two decisions, so `gate` must not tell the first one."""
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    stopped = Failing(registry.client, "delete_model_version_tag", False, KeyboardInterrupt())
    registry.client = stopped
    with pytest.raises(KeyboardInterrupt):
        promote(registry, tmp_path, "next", BAD)
    assert state(registry.uri)[2] == ("waiting", CHALLENGER, "")
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    assert state(registry.uri)[2] == ("refused", CHALLENGER, "")


def test_who_is_champion_again_was_not_rolled_back(registry, tmp_path):
    assert promote(registry, tmp_path, "next").champion
    roll_back(registry, NAME, "too slow")
    assert registry.version(NAME, 2).tags["rolled_back"] == "too slow"
    assert promote(registry, tmp_path, "next", force="it is fast enough").champion
    assert "rolled_back" not in registry.version(NAME, 2).tags
    assert promote(registry, tmp_path, "third").champion
    roll_back(registry, NAME, "too many false alarms")
    roll_back(registry, NAME, "too slow after all")
    assert promote(registry, tmp_path, "third", force="mended").champion
    roll_back(registry, NAME, "not mended")
    rolled = [version.tags.get("rolled_back") for version in registry.versions(NAME)]
    assert rolled == [None, "too slow after all", "not mended"]


def test_what_the_reported_images_chose_is_champion_by_force_only(tmp_path):
    """The first version too, which leaves the model to a later one."""
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", make=True)

    def chosen_under_paper(**terms):
        source = MadeSource(tmp_path, "paper")
        source.why_refused = "its configuration was chosen under 'paper'"
        return Promotion(source, registry, Terms(**terms)).run()

    done = chosen_under_paper()
    assert (done.verdict, done.champion, done.against) == ("refused", False, None)
    assert of_promoted(done)[-1].plain == f"  {NAME} version 1 was refused and is challenger"
    assert state(registry.uri) == {1: ("refused", CHALLENGER, "")}
    assert registry.version(NAME, 1).tags["gate_checks"] == done.checks[0].text
    assert promote(registry, tmp_path, "other").verdict == "first"
    forced = chosen_under_paper(force="only for the demonstration")
    assert (forced.verdict, forced.champion, forced.against) == ("forced", True, 2)
    tags = registry.champion(NAME).tags
    assert tags["force_reason"] == "only for the demonstration"
    assert tags["gate_checks"].startswith("its configuration was chosen under 'paper'")


def test_a_dry_run_says_the_same_and_writes_nothing(registry, tmp_path):
    before = state(registry.uri)
    assert promote(registry, tmp_path, "next", dry_run=True).verdict == "passed"
    refused = promote(registry, tmp_path, "other", BAD, dry_run=True)
    assert (refused.verdict, refused.version, refused.against) == ("refused", None, 1)
    assert state(registry.uri) == before


def test_limits_hold_for_everyone(registry, tmp_path):
    done = promote(registry, tmp_path, "next", most_latency_ms=5.0, most_size_mb=1000.0)
    assert done.verdict == "refused"
    assert [check.text for check in done.checks if not check.passed] == [
        "latency 10 ms, at most 5 allowed: 5 too much"
    ]


def test_images_that_made_the_champion_do_not_decide(registry, tmp_path):
    images = deciding_images(32)
    seen = tuple(sorted(content(images)))[:7]
    assert promote(registry, tmp_path, "other", seen=seen, force="none else is there").champion
    done = promote(registry, tmp_path, "third")
    assert done.verdict == "refused"
    failed = [check for check in done.checks if not check.passed]
    assert failed[0].name == "images"
    assert f"on 7 of the {len(images)} images that decide" in failed[0].text


def test_images_that_made_the_model_itself_do_not_decide(registry, tmp_path):
    images = deciding_images(32)
    done = promote(registry, tmp_path, "next", seen=tuple(sorted(content(images)))[:3])
    failed = [check for check in done.checks if not check.passed]
    assert [check.name for check in failed] == ["images"]
    assert failed[0].text.startswith(
        f"the model itself was trained or chosen on 3 of the {len(images)}"
    )


@pytest.mark.parametrize("terms", [{}, {"most_latency_ms": 5.0}])
def test_the_same_command_while_the_model_is_made_finds_the_version_decided(
    registry, tmp_path, terms
):
    """Somebody else gives it, and is faster."""
    source, asked = MadeSource(tmp_path, "next"), Terms(**terms)
    make, others = source.make, []

    def slowly():
        others.append(promote(Registry(registry.uri), tmp_path, "next"))
        return make()

    source.make = slowly
    done = Promotion(source, registry, asked).run()
    assert [other.verdict for other in others] == ["passed"]
    assert (done.verdict, done.champion, done.unchanged) == ("passed", True, True)
    assert state(registry.uri) == {1: ("first", (), ""), 2: ("passed", CHAMPION, "1")}
    assert registry.champion(NAME).tags["gate_champion"] == "1"


def test_a_champion_without_its_files_is_passed_by_force_only(tmp_path):
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", make=True)
    promote(registry, tmp_path, "first")
    files = registry.client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    shutil.rmtree(files)
    done = promote(registry, tmp_path, "next")
    assert done.verdict == "refused"
    assert done.checks[0].text.startswith("champion version 1 cannot be asked: ")
    assert promote(registry, tmp_path, "next", force="its files are lost").champion


def test_who_ends_with_an_error_lets_the_others_go_ahead(registry, tmp_path):
    source = MadeSource(tmp_path, "next")
    asked = []

    def not_any_more(image_size):
        asked.append(image_size)
        raise DataError("the images are gone")

    source.deciding_images = not_any_more
    with pytest.raises(DataError, match="the images are gone"):
        Promotion(source, registry, Terms()).run()
    assert asked
    assert state(registry.uri)[2] == ("waiting", (), "")
    assert promote(registry, tmp_path, "other").champion
    assert promote(registry, tmp_path, "next").champion


def test_a_version_that_was_decided_stays_so_when_another_look_fails(registry, tmp_path):
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    before = state(registry.uri)
    source = MadeSource(tmp_path, "next", BAD)

    def gone(image_size):
        raise DataError("the images are gone")

    source.deciding_images = gone
    with pytest.raises(DataError):
        Promotion(source, registry, Terms()).run()
    assert state(registry.uri) == before


def test_other_thresholds_or_weights_are_another_version(registry, tmp_path):
    """A version's tags and files are of one detector."""
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    source = MadeSource(tmp_path, "next", BAD)
    later = dataclasses.replace(source.make(), detector=detector(seed=1), description="Seen again.")
    source.make = lambda: later
    assert Promotion(source, registry, Terms()).run().verdict == "refused"
    assert state(registry.uri) == {
        1: ("first", CHAMPION, ""),
        2: ("discarded", (), ""),
        3: ("refused", CHALLENGER, ""),
    }
    version = registry.version(NAME, 3)
    assert version.description == "Seen again."
    fetched = fetch_detector(version.uri, tmp_path / "files", registry.uri)
    assert digest_of_files(Detector.load(fetched.folder)) == version.tags["detector_digest"]


def test_a_former_champion_keeps_its_tags_when_the_same_fit_makes_other_files(registry, tmp_path):
    assert promote(registry, tmp_path, "next").champion
    roll_back(registry, NAME, "too slow")
    before = registry.version(NAME, 2).tags
    source = MadeSource(tmp_path, "next", GOOD)
    later = dataclasses.replace(source.make(), detector=detector(seed=1))
    source.make = lambda: later
    assert Promotion(source, registry, Terms(force="mended")).run().version == 3
    assert [number for number, of in state(registry.uri).items() if of[1] == CHAMPION] == [3]
    after = registry.version(NAME, 2).tags
    assert after == {key: value for key, value in before.items() if key != "promotion"}
    assert Promotion(source, registry, Terms()).run().unchanged


def test_a_discarded_version_is_no_challenger(registry, tmp_path):
    assert promote(registry, tmp_path, "next", BAD).verdict == "refused"
    registry.tag(registry.version(NAME, 2), {"gate": "waiting", "promoter": "{}"})
    discard(registry, NAME, 2)
    assert state(registry.uri)[2] == ("discarded", (), "")


def test_a_dry_run_makes_no_registry(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    with _target(uri, dry_run=True) as registry:
        assert registry.names() == []
    assert list(tmp_path.iterdir()) == []
    with _target(uri, dry_run=False) as registry:
        assert registry.uri == uri
    assert (tmp_path / "new" / "mlflow.db").exists()


def test_files_that_cannot_be_had_for_now_refuse_nobody(registry, tmp_path, monkeypatch):
    def away(**more):
        raise ConnectionError("the store is away")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", away)
    with pytest.raises(RegistryError, match="the store is away; when it can be had, give the same"):
        promote(registry, tmp_path, "next", force="latency")
    assert state(registry.uri) == {1: ("first", CHAMPION, ""), 2: ("waiting", (), "")}


def outcome(registry):
    """The state, and that no undecided or second version is left."""
    found = state(registry.uri)
    assert [v.tags["verdict"] for v in registry.versions(NAME)] == [g for g, *_ in found.values()]
    return found


@pytest.mark.parametrize(("skill", "before"), [(GOOD, True), (GOOD, False), (BAD, False)])
def test_whenever_the_registry_dies_the_same_command_completes_it(
    with_champion, tmp_path, skill, before
):
    def copy(name):
        shutil.copy(with_champion / "mlflow.db", tmp_path / name)
        return Registry(f"sqlite:///{tmp_path / name}")

    whole = copy("whole.db")
    client = whole.client = Failing(whole.client, None, before)
    promote(whole, tmp_path, "next", skill)
    expected = outcome(whole)
    assert client.calls >= 8
    for n in range(client.calls):
        registry = copy(f"{n}.db")
        healthy = registry.client
        registry.client = Failing(healthy, n, before)
        with pytest.raises(RegistryError, match="the registry is down"):
            promote(registry, tmp_path, "next", skill)
        # At every moment there is one champion that has passed, or is the former one.
        champion = Registry(registry.uri).champion(NAME)
        assert champion.number == 1 or (skill == GOOD and champion.tags["verdict"] == "passed")
        registry.client = healthy
        promote(registry, tmp_path, "next", skill)
        assert outcome(registry) == expected, f"died at writing {n}"


@pytest.mark.parametrize("before", [True, False])
def test_whenever_the_registry_dies_the_very_first_version_is_completed(tmp_path, before):
    """From the experiment and the run on, which a later promotion may find there."""
    Registry(f"sqlite:///{tmp_path / 'empty.db'}", make=True)

    def fresh(name):
        shutil.copy(tmp_path / "empty.db", tmp_path / name)
        return Registry(f"sqlite:///{tmp_path / name}")

    whole = fresh("whole.db")
    client = whole.client = Failing(whole.client, None, before)
    promote(whole, tmp_path, "first")
    expected = state(whole.uri)
    assert expected == {1: ("first", CHAMPION, "")}
    assert client.calls >= 10
    for n in range(client.calls):
        registry = fresh(f"{n}.db")
        healthy = registry.client
        registry.client = Failing(healthy, n, before)
        with pytest.raises(RegistryError, match="the registry is down"):
            promote(registry, tmp_path, "first")
        champion = Registry(registry.uri).champion(NAME)
        assert champion is None or champion.tags["verdict"] == "first"
        registry.client = healthy
        promote(registry, tmp_path, "first")
        assert state(registry.uri) == expected, f"died at writing {n}"
        runs = healthy.search_runs([e.experiment_id for e in healthy.search_experiments()])
        assert [run.data.tags["level"] for run in runs] == ["promotion"], f"died at writing {n}"


def test_whenever_it_is_interrupted_nobody_waits_and_the_same_command_completes_it(
    with_champion, tmp_path
):
    def copy(name):
        shutil.copy(with_champion / "mlflow.db", tmp_path / name)
        return Registry(f"sqlite:///{tmp_path / name}")

    whole = copy("whole.db")
    client = whole.client = Failing(whole.client, None, before=True)
    promote(whole, tmp_path, "next")
    expected = outcome(whole)
    for n in range(client.calls):
        registry = copy(f"{n}.db")
        healthy = registry.client
        # The first one makes the model, which is there: its answer is another error.
        registry.client = Failing(healthy, n, n == 0, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            promote(registry, tmp_path, "next")
        registry.client = healthy
        left = state(registry.uri)
        # Either somebody else may go ahead, or it is done but for the word that says so.
        assert left.get(2, ("waiting", (), ""))[0] == "waiting" or left[2][1] == CHAMPION
        promote(registry, tmp_path, "next")
        assert outcome(registry) == expected, f"interrupted at writing {n}"


SCRIPT = """
import sys, time
from pathlib import Path
from made_models import MadeSource
from study.registry.promotion import Promotion
from study.registry.terms import Terms
from study.registry.mlflow_registry import Registry
from study.registry.model_files import fetch_detector
uri, folder, identity, other, skill = sys.argv[1:]
registry, source = Registry(uri), MadeSource(Path(folder), identity, int(skill))
made = source.make()
source.make = lambda: made
(Path(folder) / identity).touch()
while not (Path(folder) / other).exists():
    time.sleep(0.01)
print(Promotion(source, registry, Terms()).run().verdict)
"""


def both_at_once(registry, folder, right):
    """The verdicts of two promotions at once, of a good model and of one with another skill."""
    sides = (("left", "right", GOOD), ("right", "left", right))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, registry.uri, str(folder), *map(str, side)],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in sides
    ]
    return [process.communicate(timeout=500)[0].strip() for process in processes]


def test_of_two_promotions_at_once_the_worse_one_loses(registry, tmp_path):
    assert both_at_once(registry, tmp_path, BAD) == ["passed", "refused"]
    good, bad = sorted(registry.versions(NAME)[1:], key=lambda version: version.gate)
    assert (good.gate, good.aliases) == ("passed", CHAMPION)
    assert (bad.gate, bad.aliases) == ("refused", CHALLENGER)


def test_two_promotions_at_once_are_held_one_against_the_other(registry, tmp_path):
    assert both_at_once(registry, tmp_path, GOOD) == ["passed", "passed"]
    # Not both against the first one: the later one against the winner of the two.
    assert state(registry.uri) == {
        1: ("first", (), ""),
        2: ("passed", (), "1"),
        3: ("passed", CHAMPION, "1,2"),
    }
    against = [version.tags.get("gate_champion") for version in registry.versions(NAME)]
    assert against == [None, "1", "2"]


def test_a_champion_goes_to_another_registry_and_is_held_against_the_one_there(
    with_champion, registry, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    there = Registry(f"sqlite:///{other / 'mlflow.db'}", make=True)

    def copy(**terms):
        version, asked = registry.version_of(f"models:/{NAME}@champion"), Terms(**terms)
        return Promotion(FromRegistry(version, registry, other, asked), there, asked).run()

    done = copy()
    assert (done.verdict, done.version, done.champion) == ("first", 1, True)
    copied, original = there.champion(NAME), registry.champion(NAME)
    # What was measured there stays said, and what was measured here is said to be.
    assert copied.description.startswith(f"{original.description}\n\nCopied from version 1 of ")
    assert copied.tags["measured_on"] == machine_in_words()
    assert f"on {machine_in_words()}: one image " in copied.description
    assert copied.tags["fit_key"] == original.tags["fit_key"]
    assert there.seen_images(copied) == registry.seen_images(original)
    assert copied.tags["copied_from"] == registry.uri
    files = there.client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    assert copy().unchanged
    # Its files are there, and not only a link to those of the first registry.
    assert not Path(files).is_relative_to(with_champion)
    promote(registry, tmp_path, "next")
    refused = copy()
    assert (refused.verdict, refused.champion, refused.version) == ("refused", False, 2)
    assert refused.checks[0].text.endswith("give --gate-data")
    assert copy(force="staging has shown it").champion
    assert there.champion(NAME).tags["copied_gate"] == "passed"
    # A champion that its own registry forced is told from others there.
    promote(registry, tmp_path, "third", BAD, force="it is for the fair")
    assert copy(force="so it is").champion
    tags = there.champion(NAME).tags
    assert (tags["copied_gate"], tags["force_reason"]) == ("forced", "so it is")
    assert tags["copied_force_reason"] == "it is for the fair"


def test_a_version_with_other_files_is_another_copy(registry, tmp_path):
    version = registry.champion(NAME)
    other = dataclasses.replace(version, tags=version.tags | {"detector_digest": "0" * 16})
    one, two = (FromRegistry(v, registry, tmp_path, Terms()).identity for v in (version, other))
    assert one != two


def test_a_champion_whose_run_is_deleted_for_good_is_replaced_by_force(registry, tmp_path):
    version = registry.champion(NAME)
    registry.client.delete_run(version.run)
    registry.client._tracking_client.store._hard_delete_run(version.run)
    assert registry.seen_images(version) is None
    done = promote(registry, tmp_path, "next")
    assert (done.verdict, done.champion) == ("refused", False)
    assert "it is not known what champion version 1 was made of" in done.checks[0].text
    assert promote(registry, tmp_path, "next", force="the old one is lost").champion


def test_a_roll_back_makes_way_for_a_promotion_that_came_first(registry, tmp_path, monkeypatch):
    promote(registry, tmp_path, "next")
    champion, tag = registry.champion(NAME), registry.tag

    def tag_and_lose(version, tags):
        done = tag(version, tags)
        if "champions_before" in tags or version.number == 1:
            registry.point("champion", registry.version(NAME, 1))
        return done

    monkeypatch.setattr(registry, "tag", tag_and_lose)
    with pytest.raises(RegistryError, match="changed meanwhile, from version 2 to 1; nothing was"):
        roll_back(registry, NAME, "too slow")
    assert "rolled_back" not in registry.version(NAME, champion.number).tags


def test_a_champion_is_rolled_back_for_good_whose_last_word_was_lost(registry, tmp_path):
    registry.client = Failing(registry.client, "set_registered_model_alias", before=False)
    with pytest.raises(RegistryError):
        promote(registry, tmp_path, "next")
    registry = Registry(registry.uri)
    assert state(registry.uri)[2] == ("pending", CHAMPION, "1")
    roll_back(registry, NAME, "too slow")
    assert state(registry.uri) == {1: ("first", CHAMPION, ""), 2: ("passed", (), "1")}
    assert not promote(registry, tmp_path, "next").champion


class LargerSource(MadeSource):
    """Of a model that sees larger images than the champion; their defects are simulated, or not."""

    simulated = False

    def deciding_images(self, image_size):
        images = deciding_images(image_size)
        if not self.simulated:
            return images
        types = [SIMULATED if label else "good" for label in images.labels]
        return dataclasses.replace(images, defect_types=types)

    def make(self):
        larger = FFCAD(dataclasses.replace(CONFIG, image_size=64))
        images, one = deciding_images(64), Detector(larger, CALIBRATION, use_head=True)
        scored = dataclasses.replace(super().make().scored, labels=images.labels)
        scored = dataclasses.replace(scored, maps=images.masks.astype("f"), masks=images.masks)
        return dataclasses.replace(super().make(), detector=one, scored=scored)


def test_models_of_two_sizes_are_compared_on_real_defects_alone(registry, tmp_path):
    source = LargerSource(tmp_path, "next")
    assert Promotion(source, registry, Terms()).run(dry_run=True).verdict == "passed"
    source.simulated = True
    done = Promotion(source, registry, Terms()).run(dry_run=True)
    assert done.verdict == "refused"
    assert "sees images of 32 pixels and the model of 64" in done.checks[-1].text
