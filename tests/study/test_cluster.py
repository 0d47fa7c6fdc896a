"""Studies on Ray's cluster within one machine, with fake GPUs: nodes that are asked, that join
later, that are wrong, that are lost; shares of GPUs."""

import contextlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch
from drivers import TINY, records, run
from ray.cluster_utils import Cluster
from rich.console import Console

from study.arguments import parse
from study.cluster import Room, leaving_out, settle
from study.driver import driver_lease
from study.driver_log import RAY_ENVIRONMENT
from study.encoder_needs import encoders_to_make, needed_encoders
from study.encoders import EncoderStore
from study.fits import Fit
from study.gpu_memory import keep_peak, kept_peak, largest_configuration
from study.inputs import prepare
from study.ledger import Ledger
from study.nodes import alive_nodes, demands_of, this_node
from study.packing import Peak
from study.plan import make_plan
from study.preparation import make_encoders
from study.question import open_study
from study.sitting import Sitting
from study.storage import Storage
from study.trials import StudyFolder
from study.tuning import make_context, make_search, make_tuner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GPUS = {"num_cpus": 4, "num_gpus": 2, "resources": {"fake_gpus": 1}}
# Patient, because the machine may be busy with other tests.
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "5000"}
GRID = """
'''Which?'''
CELLS = {"none": {"hsas": "none"}, "1d": {"hsas": "1d"}, "2d": {"hsas": "2d"}}
# At the default rate a cell may diverge, on one kind of processor and not on another.
FIXED = {"ffc_layers": 1, "global_ratio": 0.0, "sgd_learning_rate": 0.01}
"""


@pytest.fixture(scope="module")
def cluster():
    """A head that takes no trial, and a worker with two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in (RAY_ENVIRONMENT | HEALTH).items():
            patch.setenv(variable, value)
        one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        one.add_node(**GPUS)
        patch.setenv("RAY_ADDRESS", one.address)
        ray.init(address=one.address, log_to_driver=False)
        # Workers know no module of tests.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield one
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
        one.shutdown()


@pytest.fixture
def grid(tmp_path):
    """Flags of a grid of three cells."""
    path = tmp_path / "grid.py"
    path.write_text(GRID)
    return [*TINY, "--space", str(path)]


@contextlib.contextmanager
def sitting_of(tmp_path, flags):
    """A study that was begun, as its driver holds it."""
    config, space, _ = parse([*flags, "--storage", str(tmp_path / "runs")])
    config, inputs, _ = prepare(config, space)
    folder = StudyFolder(Storage(config.storage), config.name)
    with driver_lease(folder, Console()) as lease:
        open_study(folder, config, space, inputs, False)
        plan = make_plan(config, space, inputs, folder, Ledger(folder.storage))
        yield Sitting(config, space, inputs, folder, lease, plan, tmp_path / "journal")


def go_through(sitting, room, tmp_path, make_fit=Fit, left_out=None):
    """Runs the trials; returns their records, the fits' ones, and the search."""
    left_out = left_out or leaving_out(sitting.config, room, Console())
    search = make_search(sitting, room, left_out)
    context = make_context(sitting, room)
    path = str(tmp_path / "tune")
    make_tuner(context, search, sitting.plan, path, room.slots, room.gpus, make_fit).fit()
    ledger = Ledger(sitting.folder.storage)
    return sitting.folder.trials(), ledger.read_all(ledger.keys())[0], search


def wait_for_file(name):
    end = time.monotonic() + 200
    while not os.path.exists(name) and time.monotonic() < end:
        time.sleep(0.1)


def tell_when_left_out(left_out, known):
    end = time.monotonic() + 180
    while not left_out.ids and time.monotonic() < end:
        time.sleep(0.1)
    known.touch()


def settled(sitting):
    return settle(sitting, Console(), lambda: False)


def test_a_study_goes_through_on_shares_that_a_measured_peak_gives(cluster, grid, tmp_path):
    _, space, _ = parse([*grid, "--storage", str(tmp_path / "runs")])
    largest, storage = largest_configuration(space), Storage(tmp_path / "runs")
    keep_peak(storage, Peak("fake", 0.0, 0.0), largest)
    (path,) = (tmp_path / "runs" / "gpus").glob("*/*.json")
    peak = Peak("fake", 16_000.0, 5_000.0)
    path.write_text(json.dumps(vars(peak)))  # Fake ones have the memory that their file says.
    assert kept_peak(storage, "fake", 0.0, largest) == peak
    code, output = run(tmp_path, *grid, "--gpus-per-trial", "auto")
    assert code == 0, output
    # Two fits find room in 16 GB with 5 GB and head room each, on each of two GPUs.
    assert "4 trials at once, 1 core and 0.5 GPU each" in output
    assert "All nodes have revision " in output
    done = records(tmp_path)
    assert [r["status"] for r in done.values()] == ["finished"] * 3
    assert {r["sittings"][-1]["gpus"] for r in done.values()} == {0.5}
    assert StudyFolder(storage, "mine").read_document()["study"]["gpus_per_trial"] == "auto"


def test_a_share_that_cannot_be_measured_is_said_and_nothing_starts(cluster, grid, tmp_path):
    code, output = run(tmp_path, *grid, "--gpus-per-trial", "auto")
    assert code == 2, output
    assert "the memory of a fit on fake cannot be measured" in " ".join(output.split())
    assert records(tmp_path) == {}


def test_what_each_node_lacks_is_named_and_nothing_starts(cluster, grid, tmp_path):
    bad = cluster.add_node(num_cpus=1, env_vars={"FFCAD_CACHE": "/proc/nowhere"})
    liar = cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        flags = ["--gpus-per-trial", "0", "--tracking-uri", "http://127.0.0.1:9"]
        code, output = run(tmp_path, *grid, *flags)
    finally:
        cluster.remove_node(bad)
        cluster.remove_node(liar)
    assert code == 2, output
    lines = [line for line in output.splitlines() if line.startswith("  ")]
    assert sum("MLflow at 127.0.0.1:9 cannot be reached" in line for line in lines) == 4
    assert sum("/proc/nowhere, cannot be written" in line for line in lines) == 1
    assert sum("it claims 1 GPUs but torch finds 0" in line for line in lines) == 1
    assert records(tmp_path) == {}


def test_the_first_node_is_waited_for_and_asked(cluster, grid, tmp_path):
    flags = [*grid, "--cpus-per-trial", "5", "--gpus-per-trial", "0"]
    with sitting_of(tmp_path, flags) as sitting, ThreadPoolExecutor(1) as thread:
        room = thread.submit(settled, sitting)
        time.sleep(2)
        assert not room.done()
        late = cluster.add_node(num_cpus=6)
        try:
            (node,) = [n for n in alive_nodes() if n.resources.get("CPU") == 6]
            assert (room.result(120).slots, room.result().gpus) == (1, 0.0)
            assert room.result().asked == {node.id}
        finally:
            cluster.remove_node(late)


@contextlib.contextmanager
def joined_wrong(cluster, sitting, tmp_path):
    """The id of a node that can write no cache and that the driver has not asked, as if it had
    joined later; the room with it; and who is left out."""
    asked = frozenset(node.id for node in alive_nodes())
    bad = cluster.add_node(num_cpus=1, env_vars={"FFCAD_CACHE": "/proc/nowhere"})
    try:
        wrong = next(node.id for node in alive_nodes() if node.id not in asked)
        room = Room(5, 0.0, demands_of(sitting.config, []), asked)
        # All cores of the right node are taken until the wrong one is known.
        left_out, known = leaving_out(sitting.config, room, Console()), tmp_path / "known"
        ray.remote(wait_for_file).options(num_cpus=4).remote(str(known))
        with ThreadPoolExecutor(1) as thread:
            thread.submit(tell_when_left_out, left_out, known)
            yield wrong, room, left_out
    finally:
        cluster.remove_node(bad)


def test_trials_come_back_from_a_node_that_joined_wrong_and_go_elsewhere(cluster, grid, tmp_path):
    with (
        sitting_of(tmp_path, grid) as sitting,
        joined_wrong(cluster, sitting, tmp_path) as (wrong, room, left_out),
    ):
        trials, fits, search = go_through(sitting, room, tmp_path, left_out=left_out)
    assert search.left_out.ids == [wrong]
    assert search.fatal is None
    assert [trial.state for trial in trials] == ["finished"] * 3
    assert [len(fit.sittings) for fit in fits] == [1] * 3


@contextlib.contextmanager
def sitting_of_one_encoder(tmp_path, recipe):
    """A study that needs one encoder, which is not made yet; with its store and what is needed."""
    space = tmp_path / "one.py"
    space.write_text(
        "'Which?'\nCELLS = {'a': {'global_ratio': 0.25}}\n"
        "FIXED = {'ffc_layers': 1, 'sgd_learning_rate': 0.01}\n"
    )
    with sitting_of(tmp_path, [*TINY, "--space", str(space), *recipe.split()]) as sitting:
        store = EncoderStore(sitting.folder.storage)
        needs = needed_encoders(sitting.space, sitting.inputs, sitting.plan)
        yield sitting, store, encoders_to_make(needs, store)[0]


def test_encoders_leave_a_node_that_joined_wrong(cluster, recipe, tmp_path):
    with (
        sitting_of_one_encoder(tmp_path, recipe) as (sitting, store, needs),
        joined_wrong(cluster, sitting, tmp_path) as (wrong, room, left_out),
    ):
        ending = SimpleNamespace(stopping=threading.Event(), fatal=None)
        make_encoders(needs, make_context(sitting, room), (5, 0.0), ending, left_out, Console())
    assert left_out.ids == [wrong]
    assert ending.fatal is None
    (record,) = store.read_all(list(needs))[0]
    assert (record.status, len(record.sittings)) == ("finished", 1)


@contextlib.contextmanager
def all_taken():
    """Somebody else's work, on all cores and GPUs of the workers."""

    class Holder:
        def here(self):
            return True

    holder = ray.remote(num_cpus=GPUS["num_cpus"], num_gpus=GPUS["num_gpus"])(Holder).remote()
    ray.get(holder.here.remote(), timeout=120)
    try:
        yield
    finally:
        ray.kill(holder)


def told_to_end(ending, begun):
    """Has a sitting end three seconds after something of it has begun; returns the thread."""

    def tell():
        end = time.monotonic() + 120
        while not begun() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(3)
        ending.stopping.set()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    return thread


def test_a_sitting_that_is_to_end_waits_for_no_place(cluster, grid, tmp_path):
    with sitting_of(tmp_path, grid) as sitting:
        room = settled(sitting)
        search, context = make_search(sitting, room), make_context(sitting, room)
        tuner = make_tuner(context, search, sitting.plan, str(tmp_path / "tune"), 4, room.gpus)
        with all_taken():
            teller = told_to_end(search, lambda: search.running)
            done = threading.Event()
            threading.Thread(target=lambda: (tuner.fit(), done.set()), daemon=True).start()
            teller.join()
            assert done.wait(60), "Tune waits for trials that wait for a place"
    assert {trial.state for trial in sitting.folder.trials()} == {"begun"}
    ledger = Ledger(sitting.folder.storage)
    assert ledger.read_all(ledger.keys())[0] == []


def test_an_encoder_that_waits_for_a_place_holds_up_no_end(cluster, recipe, tmp_path):
    with sitting_of_one_encoder(tmp_path, recipe) as (sitting, store, needs):
        room = settled(sitting)
        ending = SimpleNamespace(stopping=threading.Event(), fatal=None)
        left_out = leaving_out(sitting.config, room, Console())
        with all_taken():
            teller = told_to_end(ending, lambda: True)
            make = [needs, make_context(sitting, room), (5, 0.0), ending, left_out, Console()]
            making = threading.Thread(target=make_encoders, args=make, daemon=True)
            making.start()
            teller.join()
            making.join(60)
            assert not making.is_alive(), "the sitting waits for a making that waits for a place"
    assert store.read_all(list(needs))[0] == []


class HungryFit(Fit):
    """Finds too little memory after four iterations, unless it has a whole GPU."""

    def _followed(self, *arguments):
        for progress in super()._followed(*arguments):
            yield progress
            if progress.iteration == 4 and self.context.study.gpus_per_trial < 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_fits_that_run_out_of_memory_come_back_with_a_larger_share(cluster, grid, tmp_path):
    with sitting_of(tmp_path, [*grid, "--gpus-per-trial", "0.5"]) as sitting:
        room = settled(sitting)
        assert (room.slots, room.gpus) == (4, 0.5)
        trials, fits, _ = go_through(sitting, room, tmp_path, HungryFit)
    assert [(trial.state, trial.gpus) for trial in trials] == [("finished", 1.0)] * 3
    for fit in fits:
        # It went on where it was.
        shares = [(sitting["iteration"], sitting["gpus"]) for sitting in fit.sittings]
        assert shares == [(0, 0.5), (4, 1.0)]


class DoomedFit(Fit):
    """Stays between two evaluations for ever on the node that is to be lost, and elsewhere until a
    fit has come so far there.

    Attributes:
        doomed: id of that node.
        reached: file that says that its fit has come so far.
    """

    doomed = reached = None

    def _followed(self, *arguments):
        for progress in super()._followed(*arguments):
            yield progress
            if progress.iteration == 10:
                if this_node() == self.doomed:
                    Path(self.reached).touch()
                    while True:
                        time.sleep(0.1)
                wait_for_file(self.reached)


def kill(cluster, node):
    """As a power cut would: nobody there gives anything back."""
    cluster.remove_node(node, allow_graceful=False)


def cut_off(cluster, node):
    """Nobody there answers any more; all would go on if they could."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (raylet, *raylet.children(recursive=True)):
        process.suspend()


@pytest.mark.parametrize("loss", [kill, cut_off])
def test_fits_of_a_node_that_is_lost_go_on_elsewhere_and_need_no_retry(
    cluster, grid, tmp_path, loss
):
    before = {node.id for node in alive_nodes()}
    node = cluster.add_node(num_cpus=1, num_gpus=1, resources={"fake_gpus": 1})
    (doomed,) = {node.id for node in alive_nodes()} - before
    reached = str(tmp_path / "reached")
    make_fit = type("DoomedFit", (DoomedFit,), {"doomed": doomed, "reached": reached})

    def lose():
        wait_for_file(reached)
        loss(cluster, node)

    flags = [*grid, "--retries", "0"]
    with sitting_of(tmp_path, flags) as sitting, ThreadPoolExecutor(1) as thread:
        room = settled(sitting)
        # One for each cell, so that the doomed node has one.
        assert room.slots == 3
        lost = thread.submit(lose)
        try:
            trials, fits, search = go_through(sitting, room, tmp_path, make_fit)
        finally:
            lost.result()
            if loss is cut_off:
                kill(cluster, node)
    assert search.left_out.ids == []
    assert [trial.state for trial in trials] == ["finished"] * 3
    # No fit was done twice, and the lost one went on where its last evaluation was.
    starts = sorted([taken["iteration"] for taken in fit.sittings] for fit in fits)
    assert starts == [[0], [0], [0, 8]]
    for fit in fits:
        assert (fit.status, fit.iteration) == ("finished", 12)
        assert [entry["iteration"] for entry in fit.history] == [4, 8, 12]
