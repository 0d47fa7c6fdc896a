import dataclasses
import json
import os
import stat
import threading

import pytest

from ffcad.checkpoint import save_checkpoint
from ffcad.config import TrainConfig
from study.inputs import Inputs
from study.ledger import FitRecord, Ledger, LedgerError, write_document
from study.outcomes import outcomes
from study.storage import Storage
from study.trials import Case, StudyFolder, TrialRecord, existing_study

INPUTS = Inputs(
    data={"screw@256": "d1", "screw@64": "d2", "nut@256": "d3"},
    textures={},
    weights={"random": "random", "/a/w.pth": "w1", "/b/w.pth": "w1"},
    method_version=1,
)


def record(**changes):
    config = TrainConfig()
    values = dict(
        key="k1", status="begun", study="s", trial=0, configuration=config.to_dict(),
        digest=config.digest(), category="screw", seed=0, select_on="holdout",
        inputs={"data": "d1"}, iterations=10,
    )  # fmt: skip
    return FitRecord(**{**values, **changes})


def key(config=None, category="screw", seed=0, **inputs):
    return dataclasses.replace(INPUTS, **inputs).fit_key(config or TrainConfig(), category, seed)


def test_the_key_of_the_default_fit_stays_what_it_is():
    # A change here makes every fit that was ever done be done again.
    assert key() == "6bb518c4b7c6aa3d"


@pytest.mark.parametrize(
    "other",
    [
        key(TrainConfig(global_ratio=0.25)),
        key(TrainConfig(image_size=64)),
        key(category="nut"),
        key(seed=1),
        key(data={"screw@256": "other"}),
        key(textures={"256": "t"}),
        key(weights={"random": "other"}),
        key(method_version=2),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other):
    assert other != key()


def test_what_changes_no_result_leaves_the_key():
    assert key(TrainConfig(device="cpu", loader_workers=2, evaluate_every=7)) == key()
    # An inactive knob, and the place of a weights file.
    no_hsas = TrainConfig(hsas="none")
    assert key(dataclasses.replace(no_hsas, hsas_probability=0.4)) == key(no_hsas)
    assert key(TrainConfig(encoder_weights="/a/w.pth")) == key(
        TrainConfig(encoder_weights="/b/w.pth")
    )


def test_a_record_reads_back_as_it_was_written(tmp_path):
    ledger = Ledger(Storage(tmp_path))
    whole = record(
        status="finished", metrics={"select_pixel_ap": 0.5}, seconds=1.5, ended=2.0,
        history=[{"iteration": 10, "stage": "head", "loss": 0.1, "time": 1.0}],
    )  # fmt: skip
    ledger.write(whole)
    assert ledger.read("k1") == whole
    assert ledger.read("never begun") is None


def test_a_reader_sees_a_replaced_record(tmp_path):
    ledger = Ledger(Storage(tmp_path))
    for iteration in range(20):
        ledger.write(record(iteration=iteration))
        assert ledger.read("k1").iteration == iteration


def test_readers_never_see_half_a_record(tmp_path):
    path, storage = tmp_path / "record.json", Storage(tmp_path)
    large = {"values": list(range(5_000))}
    write_document(storage, path.name, {**large, "version": 0})
    stop, problems = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                assert len(json.loads(path.read_text())["values"]) == 5_000
            except (ValueError, OSError, AssertionError) as e:
                problems.append(e)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(20):
        write_document(storage, path.name, {**large, "version": version})
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"nonsense": 1}'])
def test_an_unreadable_record_is_named(tmp_path, text):
    ledger = Ledger(Storage(tmp_path))
    ledger.write(record())
    (tmp_path / "ledger" / "k1" / "record.json").write_text(text)
    with pytest.raises(LedgerError, match=r"record\.json cannot be read"):
        ledger.read("k1")


def test_only_what_nothing_else_holds_waits_for_the_disk(tmp_path, monkeypatch):
    forced, fsync = [], os.fsync

    def noted(file):
        fsync(file)
        forced.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", noted)
    storage = Storage(tmp_path)
    ledger, folder = Ledger(storage), StudyFolder(storage, "s")

    def forces(act, *arguments, **options) -> list[str]:
        forced.clear()
        act(*arguments, **options)
        return list(forced)

    # The name of a file is its folder's.
    both = ["file", "folder"]
    assert forces(ledger.write, record()) == []
    assert ledger.read("k1") == record()
    for status in ("finished", "stopped", "failed"):
        assert forces(ledger.write, record(status=status)) == both
    assert forces(folder.write_document, {}) == both
    assert forces(folder.write_trial, trial(0)) == both
    assert forces(save_checkpoint, tmp_path / "checkpoint.pt", {"optimizer": None}) == both
    assert forces(storage.create, "lease-000001.json", b"{}") == []
    assert forces(storage.write, "optuna.journal", b"{}", durable=False) == []


def trial(number, **changes):
    values = dict(
        number=number, state="begun", drawn={"ffc_layers": 1}, configuration={},
        digest=f"c{number}", cases=(Case("screw", 0, "k1"),), began=1.0,
    )  # fmt: skip
    return TrialRecord(**{**values, **changes})


def test_trials_read_back_in_the_order_of_their_numbers(tmp_path):
    folder = StudyFolder(Storage(tmp_path), "s")
    written = [trial(n, intermediate={1: 0.5, 2: 0.25}) for n in (10_000, 2, 999)]
    for one in written:
        folder.write_trial(one)
    assert folder.trials() == sorted(written, key=lambda t: t.number)
    (tmp_path / "studies" / "s" / "trials" / "0002.json").write_text("{")
    trials, unreadable = folder.read_trials()
    assert [t.number for t in trials] == [999, 10_000]
    assert list(unreadable) == [2]
    assert "0002.json cannot be read" in unreadable[2]


def test_an_unknown_study_is_told_which_there_are(tmp_path):
    StudyFolder(Storage(tmp_path), "first").write_document({"study": {}, "inputs": {}})
    with pytest.raises(LedgerError, match=r"no study 'second' in .*; there are first"):
        existing_study(Storage(tmp_path), "second")


def test_a_grids_configuration_is_finished_when_all_its_cases_are():
    def one(number, seed, state, value=None):
        return trial(number, state=state, value=value, digest="c", cases=(Case("a", seed, "k"),))

    both = [one(0, 0, "finished", 0.2), one(1, 1, "finished", 0.4)]
    (whole,) = outcomes(both, cases=2)
    assert (whole.state, whole.first.number, len(whole.cases)) == ("finished", 0, 2)
    assert whole.value == pytest.approx(0.3)
    assert [o.state for o in outcomes(both, cases=3)] == ["begun"]
    assert [o.state for o in outcomes([both[0], one(1, 1, "failed")], 2)] == ["failed"]
    assert [o.state for o in outcomes([both[0], one(1, 1, "begun")], 2)] == ["begun"]
    assert outcomes([one(0, 0, "retired")], 1) == []


def test_each_study_spent_what_its_own_sittings_did():
    sittings = [
        {"study": "first", "iteration": 0},
        {"study": "first", "iteration": 60},
        {"study": "second", "iteration": 240},
    ]
    one = dataclasses.replace(record(), sittings=sittings, iteration=320)
    assert one.spent_by("first") == 240
    assert one.spent_by("second") == 80
    assert one.spent_by("third") == 0
