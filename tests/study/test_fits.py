"""A worker's part of a trial, without Ray: what the ledger holds at every moment."""

import contextlib
import dataclasses
import errno
import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from ffcad.model import FrozenEncoder
from ffcad.predictor import Predictor
from study.fits import Fit
from study.lease_holders import current_holder
from study.leases import LeaseLost
from study.ledger import CHECKPOINT, PICTURES, Ledger
from study.outages import Outages, waiting_out
from study.storage import Storage

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


def ledger_of(context):
    return Ledger(Storage(context.study.storage))


def folder_of(context, case):
    return Storage(context.study.storage).local / "ledger" / case.key


def fit(context, configuration, case):
    """Walks a fit; returns its last record, and the progress that was made on the way.

    Whatever the record says must be on the storage by then.
    """
    ledger, made = ledger_of(context), []
    one = Fit(context, 0, configuration, case)
    for progress in one.run():
        read = ledger.read(case.key)
        assert dataclasses.replace(read, writing_seconds=0.0) == dataclasses.replace(
            one.record, writing_seconds=0.0
        )
        if progress is not None:
            made.append(progress)
    assert current_holder(ledger.storage, ledger.folder(case.key)) is None
    return one.record, made


def left_off(context, configuration, case, iteration):
    """A fit that is left off after an iteration."""
    one = Fit(context, 0, configuration, case)
    with contextlib.closing(one.run()) as run:
        for progress in run:
            if progress.iteration == iteration:
                break
    return one.record


def same_numbers(a, b):
    """Whether two records have the same numbers, bit for bit."""

    def strip(r):
        return r.metrics, [{**entry, "time": 0} for entry in r.history]

    return strip(a) == strip(b)


@pytest.fixture(scope="module")
def context(make_context, tmp_path_factory):
    return make_context(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def finished(context, first_fit):
    """A fit that ran to its end, its case, and what it yielded."""
    configuration, case = first_fit(context)
    record, progress = fit(context, configuration, case)
    return configuration, case, record, progress


def test_a_new_fit_ends_finished_with_all_that_the_record_promises(context, finished):
    configuration, case, record, progress = finished
    assert len(progress) == configuration.iterations
    assert (record.status, record.key, record.study) == ("finished", case.key, context.study.name)
    assert (record.category, record.seed, record.iteration) == ("dial", 0, 6)
    assert {"select_pixel_ap", "report_pixel_ap", "report_image_auroc"} <= set(record.metrics)
    assert record.metrics == progress[-1].metrics
    assert [entry["iteration"] for entry in record.history] == [2, 4, 6]
    assert record.began <= record.history[0]["time"] <= record.ended
    assert record.environment["git_sha"] == "abc"
    assert record.random_encoder
    assert 50 < record.peak_memory_mb < 100_000


def test_a_finished_fit_has_a_checkpoint_that_inspects_and_pictures(context, finished):
    configuration, case, _, _ = finished
    folder = folder_of(context, case)
    assert Predictor.load(folder / CHECKPOINT).config == configuration
    assert all((folder / name).stat().st_size > 100 for name in PICTURES)
    # Nothing else: no former checkpoint, no lease, no rubbish.
    assert {p.name for p in folder.iterdir()} == {CHECKPOINT, "record.json", *PICTURES}


def test_a_finished_fit_is_taken_from_the_ledger(context, finished):
    configuration, case, record, _ = finished
    assert fit(context, configuration, case) == (record, [])


def test_another_study_takes_it_from_the_ledger_too(context, finished):
    configuration, case, record, _ = finished
    other = dataclasses.replace(context, study=dataclasses.replace(context.study, name="other"))
    assert fit(other, configuration, case) == (record, [])


@pytest.mark.parametrize("iteration", [1, 2, 3, 4, 5])
def test_a_fit_that_is_left_off_goes_on_there_and_ends_as_if_it_had_not_been(
    finished, first_fit, make_context, tmp_path, iteration
):
    _, _, whole, _ = finished
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    left_off(context, configuration, case, iteration)
    begun = ledger_of(context).read(case.key)
    assert (begun.status, begun.iteration) == ("begun", iteration)
    resumed, made = fit(context, configuration, case)
    assert [progress.iteration for progress in made] == list(range(iteration + 1, 7))
    assert resumed.began == begun.began
    assert [sitting["iteration"] for sitting in resumed.sittings] == [0, iteration]
    assert resumed.notes == []
    assert resumed.key == whole.key
    assert same_numbers(resumed, whole)


def cut_short(folder):
    path = folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])


def overwrite_all(folder):
    for path in folder.glob("checkpoint*.pt"):
        path.write_bytes(b"nonsense")


def test_a_fit_that_another_study_goes_on_with_is_kept_as_it_was_left(
    first_fit, make_context, tmp_path
):
    mine, other = (make_context(tmp_path, f"--study {name}") for name in ("mine", "other"))
    configuration, case = first_fit(mine)
    ledger = Ledger(Storage(tmp_path))
    for iteration in (2, 4):  # One's own sittings are all in the record.
        left_off(mine, configuration, case, iteration)
    assert ledger.left(case.key, "mine") is None
    left = ledger.read(case.key)
    record, _ = fit(other, configuration, case)
    assert (record.study, record.status) == ("other", "finished")
    assert ledger.left(case.key, "mine") == left
    assert [sitting["study"] for sitting in record.sittings] == ["mine", "mine", "other"]


@pytest.mark.parametrize(
    ("damage", "begins", "said"),
    [
        (cut_short, 3, "checkpoint.previous.pt of iteration 2 was taken"),
        (overwrite_all, 1, "the fit was begun anew"),
    ],
)
def test_a_broken_checkpoint_is_replaced_by_the_one_before_it_or_by_beginning_anew(
    finished, first_fit, make_context, tmp_path, damage, begins, said
):
    _, _, whole, _ = finished
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    left_off(context, configuration, case, 4)
    damage(folder_of(context, case))
    resumed, made = fit(context, configuration, case)
    assert [progress.iteration for progress in made] == list(range(begins, 7))
    (note,) = resumed.notes
    assert "checkpoint.pt cannot be read" in note
    assert note.endswith(said)
    assert same_numbers(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", '{"key": "k", "sta', "[]"])
def test_a_broken_record_is_written_anew_from_the_checkpoint(
    finished, first_fit, make_context, tmp_path, text
):
    _, _, whole, _ = finished
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    fit(context, configuration, case)
    (folder_of(context, case) / "record.json").write_text(text)
    mended, made = fit(context, configuration, case)
    assert len(made) == 1
    assert mended.status == "finished"
    assert "record.json cannot be read" in mended.notes[0]
    assert same_numbers(mended, whole)


def test_two_workers_that_need_one_fit_do_it_once(finished, first_fit, make_context, tmp_path):
    _, _, whole, _ = finished
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    first = Fit(context, 0, configuration, case)
    run = first.run()
    assert next(run).iteration == 1
    other = dataclasses.replace(context, study=dataclasses.replace(context.study, name="other"))
    result = []
    thread = threading.Thread(target=lambda: result.append(fit_waiting(other, configuration, case)))
    thread.start()
    for _progress in run:
        pass
    thread.join()
    ((record, waited, made),) = result
    assert waited
    assert not made
    assert record == first.record
    assert record.study == context.study.name
    assert same_numbers(record, whole)


def fit_waiting(context, configuration, case):
    one = Fit(context, 0, configuration, case)
    seen = list(one.run())
    return one.record, seen.count(None), [p for p in seen if p is not None]


def test_the_best_checkpoint_is_kept_where_it_is_asked_for(first_fit, make_context, tmp_path):
    context = make_context(tmp_path, "--log-checkpoints best")
    configuration, case = first_fit(context)
    record, _ = fit(context, configuration, case)
    values = {e["iteration"]: e["select_pixel_ap"] for e in record.history if e["iteration"] > 2}
    assert record.best_iteration == max(values, key=values.get)
    model = Predictor.load(folder_of(context, case) / "best_checkpoint.pt")
    assert model.config == configuration


@pytest.mark.parametrize("kept", [True, False])
def test_a_best_checkpoint_that_a_kill_came_before_is_kept_later(
    kept, first_fit, make_context, tmp_path
):
    context = make_context(tmp_path, "--log-checkpoints best")
    configuration, case = first_fit(context)
    record = left_off(context, configuration, case, 4)
    assert record.best_iteration == 4
    # As it stands between the checkpoint and its copy, or between that and the record.
    ledger_of(context).write(dataclasses.replace(record, best_iteration=None))
    best = folder_of(context, case) / "best_checkpoint.pt"
    if not kept:
        best.unlink()
    assert left_off(context, configuration, case, 5).best_iteration == 4
    assert Predictor.load(best).use_head


@pytest.mark.slow
def test_an_object_store_serves_as_well(finished, first_fit, make_context, bucket):
    _, _, whole, _ = finished
    context = make_context(f"{bucket}/fits", "--log-checkpoints best")
    configuration, case = first_fit(context)
    left_off(context, configuration, case, 5)
    storage = Storage(context.study.storage)
    names = {name.rpartition("/")[2] for name in storage.files(f"ledger/{case.key}")}
    assert {"checkpoint.pt", "checkpoint.previous.pt", "best_checkpoint.pt"} <= names
    # Twice: the good one before must not be replaced by the broken one.
    storage.write(f"ledger/{case.key}/checkpoint.pt", b"broken")
    left_off(context, configuration, case, 5)
    storage.write(f"ledger/{case.key}/checkpoint.pt", b"broken")
    resumed, made = fit(context, configuration, case)
    assert [progress.iteration for progress in made] == [5, 6]
    assert same_numbers(resumed, whole)
    names = {name.rpartition("/")[2] for name in storage.files(f"ledger/{case.key}")}
    assert names == {"checkpoint.pt", "best_checkpoint.pt", "record.json", *PICTURES}


def test_a_configuration_that_cannot_work_is_failed_with_its_reason(context, first_fit):
    configuration, case = first_fit(context, optimizer="sgd", sgd_learning_rate=1e30)
    record, _ = fit(context, configuration, case)
    assert record.status == "failed"
    assert record.error.startswith("NonFiniteLoss: the loss became")
    assert "\n" not in record.error


def test_a_worker_with_other_images_than_the_driver_says_so(context, first_fit):
    configuration, case = first_fit(context, momentum=0.5)
    data = dict.fromkeys(context.inputs.data, "another digest")
    other = dataclasses.replace(context, inputs=dataclasses.replace(context.inputs, data=data))
    with pytest.raises(RuntimeError, match="this worker's files of dial are not the driver's"):
        fit(other, configuration, case)
    # The machine's trouble is not the configuration's: the fit can be gone on with.
    record = ledger_of(context).read(case.key)
    assert record.status == "begun"
    assert "not the driver's" in record.error
    assert fit(context, configuration, case)[0].status == "finished"


def test_a_worker_with_another_version_of_the_method_says_so(context, first_fit):
    configuration, case = first_fit(context, momentum=0.6)
    inputs = dataclasses.replace(context.inputs, method_version=context.inputs.method_version + 1)
    with pytest.raises(RuntimeError, match="install the same code on every machine"):
        fit(dataclasses.replace(context, inputs=inputs), configuration, case)


def test_rungs_begin_after_the_latest_change_of_stage(context, first_fit, make_context, tmp_path):
    configuration, _ = first_fit(context)
    assert context.rungs == 2
    assert [context.rung(configuration, i) for i in (2, 4, 6)] == [0, 1, 2]
    assert make_context(tmp_path, "--seeds 0,1,2").rungs == 3


@pytest.mark.parametrize(
    ("iteration", "leave_off"),
    # Before an evaluation, before an iteration without one, and left off with one to be kept.
    [(3, next), (4, next), (3, Generator.close)],
)
def test_a_worker_that_was_succeeded_leaves_everything_to_the_other(
    first_fit, make_context, notice_loss, tmp_path, iteration, leave_off
):
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    run = Fit(context, 0, configuration, case).run()
    while next(run).iteration < iteration:
        pass
    folder, storage = folder_of(context, case), Storage(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if "lease" not in p.name}
    # Another worker takes the next number; the heartbeat would notice it within seconds.
    assert storage.create(f"ledger/{case.key}/lease-000002.json", b"{}")
    notice_loss()
    with pytest.raises(LeaseLost, match="was taken over by another process"):
        leave_off(run)
    after = {p.name: p.read_bytes() for p in folder.iterdir() if "lease" not in p.name}
    assert after == before


@pytest.mark.slow
def test_a_configuration_that_needs_more_memory_than_there_is_fails_once(context, first_fit):
    # Not even the first layer's weights have a place.
    configuration, case = first_fit(context, autoencoder_channels=10**12)
    record, _ = fit(context, configuration, case)
    assert record.status == "failed"
    assert "DefaultCPUAllocator: can't allocate memory" in record.error
    assert len(record.error) <= 500


class HungryFit(Fit):
    """Finds too little memory after two iterations."""

    def _followed(self, *arguments):
        for progress in super()._followed(*arguments):
            yield progress
            if progress.iteration == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_fit_that_may_have_more_memory_is_gone_on_with_and_fails_else(
    first_fit, make_context, tmp_path
):
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    more = dataclasses.replace(context, more_memory=True)
    with pytest.raises(torch.OutOfMemoryError):
        list(HungryFit(more, 0, configuration, case).run())
    record = ledger_of(context).read(case.key)
    assert (record.status, record.iteration) == ("begun", 2)
    assert "out of memory" in record.error
    one = HungryFit(context, 0, configuration, case)
    list(one.run())
    assert one.record.status == "finished"  # It went on behind what it stumbled over.
    configuration, case = first_fit(context, momentum=0.7)
    one = HungryFit(context, 0, configuration, case)
    list(one.run())
    assert one.record.status == "failed"
    assert "out of memory" in one.record.error


def test_a_fit_knows_its_weights_in_another_place(first_fit, make_context, tmp_path):
    here, there = tmp_path / "here.pth", tmp_path / "there.pth"
    plain = {"ffc_encoder": False, "ffc_layers": 1}
    flags = "--set ffc_encoder=false --set ffc_autoencoder=false --encoder"
    context = make_context(tmp_path)
    torch.manual_seed(0)  # With some random weights a training this small is not finite.
    encoder = FrozenEncoder(dataclasses.replace(first_fit(context)[0], **plain))
    torch.save(encoder.state_dict(), here)
    context = make_context(tmp_path, f"{flags} {here}")
    configuration, case = first_fit(context)
    left_off(context, configuration, case, 4)
    here.rename(there)
    context = make_context(tmp_path, f"{flags} {there}")
    moved, same = first_fit(context)
    assert same == case
    assert moved.encoder_weights != configuration.encoder_weights
    record, made = fit(context, moved, same)
    assert [progress.iteration for progress in made] == [5, 6]
    assert record.status == "finished"
    assert record.configuration["encoder_weights"] == str(there)


def test_a_fit_whose_folder_is_away_while_it_writes_goes_on_from_its_checkpoint(
    finished, first_fit, make_context, tmp_path, monkeypatch
):
    _, _, whole, _ = finished
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    now, until, written, lines = [0.0], [0.0], [], []

    def network(call):
        def answer(*paths):
            if now[0] < until[0]:
                raise OSError(errno.ESTALE, "Stale file handle")
            if Path(paths[1]).name == CHECKPOINT:
                written.append(paths[1])
                if len(written) == 2:
                    until[0] = now[0] + 60.0
                    raise OSError(errno.EIO, "Input/output error")
            return call(*paths)

        return answer

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(os, "replace", network(os.replace))
    monkeypatch.setattr(os, "link", network(os.link))
    with waiting_out(Outages(lines.append, lambda: now[0], sleep)):
        record, _ = fit(context, configuration, case)
    assert record.status == "finished"
    assert same_numbers(record, whole)
    # It lost what it had done since the evaluation that the storage has.
    assert [sitting["iteration"] for sitting in record.sittings] == [0, 2]
    assert record.error is None
    assert now[0] >= 60.0
    assert len(lines) == 2


def test_a_folder_that_is_there_and_fails_again_is_a_machines_trouble(
    first_fit, make_context, tmp_path, monkeypatch
):
    context = make_context(tmp_path)
    configuration, case = first_fit(context)
    tries = []

    def broken(path, state, **options):
        tries.append(state["iteration"])
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ffcad.iterated_work.save_checkpoint", broken)
    with pytest.raises(OSError, match="Input/output error"):
        fit(context, configuration, case)
    assert tries == [2, 2]
    record = ledger_of(context).read(case.key)
    assert (record.status, record.error) == ("begun", "OSError: [Errno 5] Input/output error")
