"""Whole studies whose encoders are made first, killed in the making, shared, and that fail."""

import contextlib
import dataclasses
import json
import re
import signal

import psutil
import pytest
from drivers import SECONDS, TINY, kill, mlflow_runs, records, run, start, wait_for

from study.arguments import parse
from study.context import StudyContext
from study.encoder_making import Making
from study.encoders import EncoderStore
from study.inputs import prepare
from study.storage import Storage

pytestmark = pytest.mark.slow

GRID = """
'''Which ratio?'''
CELLS = {
    "a": {"global_ratio": 0.25}, "b": {"global_ratio": 0.5},
    "c": {"global_ratio": 0.5, "hsas": "none"},
}
# At the default rate a cell may diverge, on one kind of processor and not on another.
FIXED = {"ffc_layers": 1, "sgd_learning_rate": 0.001}
"""
LONG = ["--pretrain", "iterations=60", "--pretrain", "evaluate_every=15"]
# The card of an encoder that a worker has not come to yet.
NOTHING = {"iteration": 0, "history": [], "sittings": [], "status": "begun"}


@pytest.fixture
def grid(tmp_path, recipe):
    """Flags of three cells that need two encoders."""
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    return [*TINY, "--space", str(path), *recipe.split()]


def cards(folder):
    found = {}
    for path in (folder / "runs" / "encoders").glob("*/card.json"):
        with contextlib.suppress(FileNotFoundError):
            found[path.parent.name] = json.loads(path.read_text())
    return found


def encoder_runs(folder, name="mine"):
    runs = mlflow_runs(folder, name)
    (study,) = [r.info.run_id for r in runs if r.data.tags["level"] == "study"]
    found = {r.data.tags["encoder"]: r for r in runs if r.data.tags["level"] == "encoder"}
    assert {r.data.tags["mlflow.parentRunId"] for r in found.values()} <= {study}
    return found


def undisturbed(folder, flags, key):
    """The card of the same encoder, made in this process on another storage."""
    config, space, _ = parse([*flags, "--storage", str(folder)])
    config, inputs, _ = prepare(config, space)
    needs = {n.key: n for c in space.corners([]) if (n := inputs.encoder_need(c))}
    context = StudyContext(config, inputs, 0, 1, {})
    for _ in (making := Making(context, needs[key])).run():
        pass
    return making.record


def test_encoders_are_made_once_through_a_stop_and_a_kill_and_shared(tmp_path, grid):
    flags = [*grid, *LONG]

    def under_way():
        return [c for c in cards(tmp_path).values() if c["status"] == "begun" and c["iteration"]]

    process = start(tmp_path, *flags)
    try:
        wait_for(under_way, process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 130, output
    assert "2 encoders: 2 to make" in output
    assert "--resume mine" in output
    assert not records(tmp_path)
    stopped = cards(tmp_path)
    assert {r.info.status for r in encoder_runs(tmp_path).values()} <= {"KILLED", "FINISHED"}

    process = start(tmp_path, "--resume", "mine")
    try:
        wait_for(
            lambda: any(
                c["iteration"] > stopped.get(c["key"], NOTHING)["iteration"] for c in under_way()
            ),
            process,
        )
    finally:
        assert kill(process) == []
    killed = cards(tmp_path)

    code, output = run(tmp_path, "--resume", "mine")
    assert code == 0, output
    # A fast machine may have finished both before the kill arrived.
    states = [c["status"] for c in killed.values()]
    counts = [(states.count("finished"), "finished"), (states.count("begun"), "begun")]
    assert f"2 encoders: {', '.join(f'{n} {word}' for n, word in counts if n)}" in output
    finished = {k for k, c in killed.items() if c["status"] == "finished"}
    # The run that makes an encoder says how like its teacher it is, and the killed one may have.
    for card in (c for k, c in cards(tmp_path).items() if k not in finished):
        ratio = card["architecture"]["ratio"]
        assert re.search(
            rf"ratio {ratio}, 1 layer: cosine (\d.\d{{3}} ){{2}}\d.\d{{3}}, CKA ", output
        )
    commands = [line for line in output.splitlines() if line.startswith("  ")]
    assert max(len(x) for x in output.splitlines() if x not in commands) <= 80
    made, fits = cards(tmp_path), records(tmp_path)
    assert {c["status"] for c in made.values()} == {"finished"}
    assert len(made) == 2
    for key, card in made.items():
        # What was done was not done again.
        before = killed.get(key, NOTHING)
        assert card["history"][: len(before["history"])] == before["history"]
        taken_up = before["status"] == "begun"
        assert len(card["sittings"]) == len(before["sittings"]) + taken_up
        alone = undisturbed(tmp_path / "alone", flags, key)
        assert alone.weights == card["weights"]
        times = [{**entry, "time": 0} for entry in card["history"]]
        assert [{**entry, "time": 0} for entry in alone.history] == times
    assert sorted(f["inputs"]["weights"] for f in fits.values()) == sorted(
        [*made, next(k for k, c in made.items() if c["architecture"]["ratio"] == 0.5)]
    )
    for f in fits.values():
        assert f["inputs"]["encoder"] == made[f["inputs"]["weights"]]["weights"]
    runs = encoder_runs(tmp_path)
    assert set(runs) == set(made)
    for key, r in runs.items():
        assert r.info.status == "FINISHED"
        assert r.data.params["method"] == "distilled"
        assert r.data.params["ratio"] == str(made[key]["architecture"]["ratio"])
        assert r.data.metrics["final_level2_cka"] == made[key]["figures"]["level2_cka"]
        assert r.data.metrics["level2_cka"] == made[key]["history"][-1]["level2_cka"]

    # Another study on the storage makes none, and says whose it took.
    other = ["yours" if flag == "mine" else flag for flag in flags]
    code, output = run(tmp_path, *other, "--seeds", "1")
    assert code == 0, output
    assert "2 encoders: 2 finished" in output
    assert cards(tmp_path) == made
    assert {r.data.tags["reused_from"] for r in encoder_runs(tmp_path, "yours").values()} == {
        "mine"
    }
    # Another recipe is another study.
    code, output = run(tmp_path, *flags, "--pretrain", "learning_rate=0.01")
    assert code == 2
    assert "makings.distilled.recipe.learning_rate was 0.002 and is now 0.01" in output
    assert len(cards(tmp_path)) == 2


@pytest.mark.proof
def test_a_search_over_a_range_of_ratios_makes_what_it_draws(tmp_path, recipe):
    path = tmp_path / "ratios.py"
    path.write_text(
        '"""Which ratio?"""\n'
        "from optuna.distributions import CategoricalDistribution, FloatDistribution\n"
        'SEARCH = {"global_ratio": FloatDistribution(0.25, 0.26),\n'
        '          "hsas": CategoricalDistribution(("none", "1d", "2d"))}\n'
        'FIXED = {"ffc_layers": 1, "sgd_learning_rate": 0.001}\n'
    )
    flags = [*TINY, "--space", str(path), *recipe.split(), "--num-trials", "3"]
    code, output = run(tmp_path, *flags, "--seeds", "0,1", "--no-early-stopping")
    assert code == 0, output
    assert "Encoders are made by the fits that need them." in output
    assert "encoders 0/" not in output
    made, fits = cards(tmp_path), records(tmp_path)
    assert len(fits) == 6
    # int(256 r) is 64, 65 or 66.
    assert {c["architecture"]["ratio"] for c in made.values()} <= {64 / 256, 65 / 256, 66 / 256}
    assert [len(c["sittings"]) for c in made.values()] == [1] * len(made)
    assert (
        {f["inputs"]["weights"] for f in fits.values()} == set(made) == set(encoder_runs(tmp_path))
    )


def test_an_encoder_that_cannot_be_made_fails_its_fits_and_no_others(tmp_path, grid):
    (tmp_path / "grid.py").write_text(
        "CELLS = {'plain': {'ffc_encoder': False}, 'ffc': {'global_ratio': 0.25}}\n"
        "FIXED = {'ffc_layers': 2, 'sgd_learning_rate': 0.001}\n"
    )
    code, output = run(tmp_path, *grid, "--pretrain", "learning_rate=1e30")
    text = " ".join(output.split())
    assert code == 3, output
    assert "encoder ratio 0.25, 2 layers could not be made: PretrainError: the loss" in text
    assert "dial, seed 0: EncoderError: its encoder could not be made: PretrainError" in text
    assert sorted(f["status"] for f in records(tmp_path).values()) == ["failed", "finished"]
    (failed,) = [c for c in cards(tmp_path).values() if c["status"] == "failed"]
    assert len(failed["sittings"]) == 1
    statuses = {k: r.info.status for k, r in encoder_runs(tmp_path).items()}
    assert statuses.pop(failed["key"]) == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}
    # The same again tries neither again.
    code, output = run(tmp_path, "--resume", "mine")
    assert code == 3
    assert len(cards(tmp_path)[failed["key"]]["sittings"]) == 1


@pytest.mark.proof
def test_encoders_alone_are_made_by_a_command_whatever_dies(tmp_path, grid):
    command = ("-m", "study", "encoders", "make")
    process = start(tmp_path, *grid, *LONG, command=command)
    try:
        wait_for(lambda: any(c["iteration"] for c in cards(tmp_path).values()), process)
        family = psutil.Process(process.pid).children(recursive=True)
        workers = [p for p in family if "make_encoder" in " ".join(p.cmdline())]
        assert workers
        workers[0].kill()
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 0, output
    made = cards(tmp_path)
    assert {c["status"] for c in made.values()} == {"finished"}
    assert sorted(len(c["sittings"]) for c in made.values()) == [1, 2]
    assert not records(tmp_path)
    assert {r.info.status for r in encoder_runs(tmp_path).values()} == {"FINISHED"}
    # By the study's name: one that is gone is made again, with the same weights.
    store = EncoderStore(Storage(tmp_path / "runs"))
    key = next(iter(made))
    store.remove(key)
    code = start(tmp_path, "mine", command=command).wait(SECONDS)
    assert code == 0
    assert store.read(key).weights == made[key]["weights"]
    assert dataclasses.asdict(store.read(key))["figures"] == made[key]["figures"]
