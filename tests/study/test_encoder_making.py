"""A worker's making of an encoder, without Ray: what the store holds at every moment."""

import contextlib
import dataclasses
import threading

import pytest
from safetensors.torch import load_file, save_file

from ffcad.encoder_weights import read_card, state_digest
from study.encoder_making import Making, encoder_file, wrong_with
from study.encoders import EncoderStore
from study.fits import Fit
from study.lease_holders import current_holder
from study.leases import LeaseLost
from study.ledger import Ledger
from study.storage import Storage

RATIO = "--set global_ratio=0.25"


def store_of(context):
    return EncoderStore(Storage(context.study.storage))


def need_of(context, first_fit, **knobs):
    return context.inputs.encoder_need(first_fit(context, **knobs)[0])


def made(context, need, again=False):
    """Makes an encoder; returns its card and the progress on the way.

    Whatever the card says must be on the storage by then.
    """
    store, steps = store_of(context), []
    making = Making(context, need, again)
    for progress in making.run():
        assert store.read(need.key) == making.record
        if progress is not None:
            steps.append(progress)
    assert current_holder(store.storage, store.folder(need.key)) is None
    return making.record, steps


def left_off(context, need, iteration):
    with contextlib.closing(Making(context, need).run()) as run:
        for progress in run:
            if progress.iteration == iteration:
                return


def same_numbers(a, b):
    """Whether two cards are of the same weights and evaluations, bit for bit."""

    def strip(r):
        return r.weights, r.figures, [{**entry, "time": 0} for entry in r.history]

    return strip(a) == strip(b)


@pytest.fixture(scope="module")
def context(make_context, recipe, tmp_path_factory):
    return make_context(tmp_path_factory.mktemp("storage"), f"{recipe} {RATIO}")


@pytest.fixture(scope="module")
def need(context, first_fit):
    return need_of(context, first_fit)


@pytest.fixture(scope="module")
def finished(context, need):
    """An encoder that was made without a disturbance."""
    return made(context, need)[0]


def test_a_new_encoder_ends_finished_with_all_that_its_card_promises(context, need, finished):
    store = store_of(context)
    assert (finished.status, finished.key) == ("finished", need.key)
    assert finished.study == context.study.name
    assert finished.architecture == {"ratio": 0.25, "layers": 1, "lfu": False}
    assert (finished.recipe["method"], finished.recipe["image_size"]) == ("distilled", 32)
    assert (finished.teacher, finished.corpus) == (need.teacher, need.corpus)
    assert [entry["iteration"] for entry in finished.history] == [0, 2, 4]
    assert finished.began <= finished.history[0]["time"] <= finished.ended
    assert {"level1_cosine", "level3_global_cka", "level2_dead"} <= set(finished.figures)
    assert finished.images["trained"] > finished.images["held_out"] >= 1
    assert 50 < finished.peak_memory_mb < 100_000
    assert finished.environment["git_sha"] == "abc"
    assert finished.agreement().startswith("cosine ")
    # The file is that encoder, and knows itself where it came from.
    path = store.storage.local / store.weights(need.key)
    assert wrong_with(path, finished) is None
    assert read_card(path)["key"] == need.key
    names = {p.name for p in path.parent.iterdir()}
    assert names == {path.name, "card.json", "checkpoint.pt"}


def test_a_finished_encoder_is_taken_from_the_store_by_every_study(context, need, finished):
    assert made(context, need) == (finished, [])
    other = dataclasses.replace(context, study=dataclasses.replace(context.study, name="other"))
    assert made(other, need) == (finished, [])


@pytest.mark.parametrize("iteration", [0, 1, 2, 3])
def test_a_making_that_is_left_off_goes_on_there_and_ends_as_if_it_had_not_been(
    make_context, recipe, need, finished, tmp_path, iteration
):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    left_off(context, need, iteration)
    begun = store_of(context).read(need.key)
    assert (begun.status, begun.iteration) == ("begun", iteration)
    resumed, steps = made(context, need)
    # Of the very beginning there is nothing to go on from.
    assert [s.iteration for s in steps if not s.final] == list(
        range(iteration + (iteration > 0), 5)
    )
    assert [sitting["iteration"] for sitting in resumed.sittings] == [0, iteration]
    assert resumed.began == begun.began
    assert resumed.notes == finished.notes
    assert same_numbers(resumed, finished)


def test_a_making_without_a_sound_checkpoint_is_begun_anew_and_says_so(
    make_context, recipe, need, finished, tmp_path
):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    left_off(context, need, 3)
    folder = tmp_path / "encoders" / need.key
    for path in folder.glob("checkpoint*.pt"):
        path.write_bytes(b"nonsense")
    (folder / "card.json").write_text('{"key": ')
    again, steps = made(context, need)
    assert [s.iteration for s in steps] == [0, 1, 2, 3, 4, 4]
    assert any("card.json cannot be read" in note for note in again.notes)
    assert any(note.endswith("the encoder was begun anew") for note in again.notes)
    assert same_numbers(again, finished)


def test_two_makers_of_one_encoder_make_it_once(make_context, recipe, need, finished, tmp_path):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    first = Making(context, need)
    run = first.run()
    assert next(run).iteration == 0
    other = dataclasses.replace(context, study=dataclasses.replace(context.study, name="other"))
    second, seen = Making(other, need), []
    thread = threading.Thread(target=lambda: seen.extend(second.run()))
    thread.start()
    for _ in run:
        pass
    thread.join()
    assert set(seen) == {None}
    assert second.record == first.record
    assert second.record.study == context.study.name
    assert len(second.record.sittings) == 1
    assert same_numbers(second.record, finished)


@pytest.mark.parametrize("iteration", [1, 2])  # The next one is an evaluation, or is none.
def test_a_maker_that_was_succeeded_leaves_everything_to_the_other(
    make_context, recipe, need, notice_loss, tmp_path, iteration
):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    run = Making(context, need).run()
    while next(run).iteration < iteration:
        pass
    folder = tmp_path / "encoders" / need.key
    before = {p.name: p.read_bytes() for p in folder.iterdir() if "lease" not in p.name}
    assert Storage(tmp_path).create(f"encoders/{need.key}/lease-000002.json", b"{}")
    notice_loss()
    with pytest.raises(LeaseLost, match="was taken over by another process"):
        next(run)
    after = {p.name: p.read_bytes() for p in folder.iterdir() if "lease" not in p.name}
    assert after == before


def test_a_recipe_that_cannot_work_fails_once_in_a_study_and_so_do_its_fits(
    make_context, recipe, first_fit, tmp_path
):
    context = make_context(tmp_path, f"{recipe} {RATIO} --pretrain learning_rate=1e30")
    configuration, case = first_fit(context)
    need = context.inputs.encoder_need(configuration)
    failed, _ = made(context, need)
    assert failed.status == "failed"
    assert "PretrainError: the loss became" in failed.error
    assert "lower learning_rate" in failed.error
    assert made(context, need) == (failed, [])
    fit = Fit(context, 0, configuration, case)
    assert list(fit.run()) == []
    assert fit.record.status == "failed"
    assert "its encoder could not be made: PretrainError: the loss became" in fit.record.error
    # Another study may have another machine; and one may ask for it.
    other = dataclasses.replace(context, study=dataclasses.replace(context.study, name="other"))
    assert made(other, need)[0].study == "other"
    assert len(made(other, need, again=True)[0].sittings) == 3
    assert len(made(other, need)[0].sittings) == 3


@pytest.mark.slow
def test_a_worker_whose_images_differ_makes_nothing(context, need, make_context, tmp_path):
    elsewhere = dataclasses.replace(need, corpus="0" * 64)
    with pytest.raises(RuntimeError, match="this worker's corpus is not the driver's"):
        made(context, elsewhere)
    record = store_of(context).read(elsewhere.key)
    # It is the machine's fault, and it may be tried again.
    assert (record.status, record.error[:12]) == ("begun", "RuntimeError")


def test_a_fit_makes_the_encoder_that_it_needs(make_context, recipe, first_fit, tmp_path):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    configuration, case = first_fit(context)
    need = context.inputs.encoder_need(configuration)
    fit = Fit(context, 0, configuration, case)
    with contextlib.closing(fit.run()) as run:
        assert next(run) is None
        assert next(run) is None
    # It was left off while its encoder was made: both go on.
    assert store_of(context).read(need.key).status == "begun"
    assert fit.record.status == "begun"
    seen = list((fit := Fit(context, 0, configuration, case)).run())
    card = store_of(context).read(need.key)
    assert card.status == "finished"
    assert [p for p in seen if p is not None] == seen[seen.count(None) :]
    assert fit.record.status == "finished"
    assert fit.record.configuration["encoder_weights"] == "distilled"
    assert not fit.record.random_encoder
    assert fit.record.inputs["weights"] == need.key
    assert fit.record.inputs["encoder"] == card.weights
    assert Ledger(Storage(tmp_path)).read(case.key) == fit.record


@pytest.mark.slow
@pytest.mark.parametrize("file_is", ["missing", "truncated", "another"])
def test_a_file_that_is_not_what_its_card_says_is_mended_when_it_is_needed(
    make_context, recipe, first_fit, need, finished, tmp_path, file_is
):
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    made(context, need)
    path = tmp_path / store_of(context).weights(need.key)
    whole = path.read_bytes()
    if file_is == "missing":
        path.unlink()
    elif file_is == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        state = load_file(path)
        state["bn1.bias"] = state["bn1.bias"] + 1
        save_file(state, path)
    file, waited = needed(context, need, tmp_path)
    assert waited
    assert file == path
    mended = store_of(context).read(need.key)
    *before, note = mended.notes
    assert note.endswith("it was written anew")
    assert before == finished.notes
    assert same_numbers(mended, finished)
    assert wrong_with(path, mended) is None
    # From its checkpoint, which is sound: nothing was trained. And only once.
    assert mended.sittings[-1]["iteration"] == mended.iteration
    assert needed(context, need, tmp_path) == (path, 0)


def test_a_fit_that_began_with_an_encoder_that_was_made_again_begins_anew(
    make_context, recipe, first_fit, tmp_path
):
    """On another machine the same making may differ in the last bits."""
    context = make_context(tmp_path, f"{recipe} {RATIO}")
    configuration, case = first_fit(context)
    with contextlib.closing((fit := Fit(context, 0, configuration, case)).run()) as run:
        for progress in run:
            if progress is not None and progress.iteration == 3:
                break
    assert fit.record.iteration == 3
    store, need = store_of(context), context.inputs.encoder_need(configuration)
    path, card = tmp_path / store.weights(need.key), store.read(need.key)
    state = load_file(path)
    state["bn1.bias"] = state["bn1.bias"] + 1e-6
    save_file(state, path)
    store.write(dataclasses.replace(card, weights=state_digest(state)))
    for _ in (fit := Fit(context, 0, configuration, case)).run():
        pass
    assert fit.record.status == "finished"
    assert fit.record.sittings[-1]["iteration"] == 0
    (note,) = fit.record.notes
    assert "its encoder_digest is" in note
    assert note.endswith("the fit was begun anew")
    assert fit.record.inputs["encoder"] == state_digest(state)


def needed(context, need, folder):
    """The file that a fit gets, and how often it had to wait."""
    run, waited = encoder_file(context, need, folder), 0
    while True:
        try:
            waited += next(run) is None
        except StopIteration as e:
            return e.value, waited


def test_a_plain_resnet18_is_the_teacher_itself(make_context, recipe, first_fit, tmp_path):
    context = make_context(tmp_path, f"{recipe} --set ffc_layers=2")
    record, _ = made(context, need_of(context, first_fit))
    assert record.iteration == 0
    assert record.figures["level3_cosine"] == pytest.approx(1)
    assert record.weights == record.teacher


@pytest.mark.slow
def test_an_object_store_serves_as_well(make_context, recipe, first_fit, need, finished, bucket):
    context = make_context(f"{bucket}/encoders", f"{recipe} {RATIO}")
    left_off(context, need, 3)
    store = store_of(context)
    store.storage.write(f"{store.folder(need.key)}/checkpoint.pt", b"broken")
    resumed, steps = made(context, need)
    assert [s.iteration for s in steps] == [3, 4, 4]
    assert same_numbers(resumed, finished)
    names = {n.rpartition("/")[2] for n in store.storage.files(store.folder(need.key))}
    assert names == {"card.json", "checkpoint.pt", f"{need.key}.safetensors"}
    store.storage.write(store.weights(need.key), b"broken")
    configuration, case = first_fit(context)
    for _ in (fit := Fit(context, 0, configuration, case)).run():
        pass
    assert fit.record.status == "finished"
    assert same_numbers(store.read(need.key), finished)
    store.remove(need.key)
    assert not store.storage.files(store.folder(need.key))
