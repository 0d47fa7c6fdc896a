"""Stopping on purpose loses nothing, and a spoilt checkpoint costs no more than the one before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ffcad.checkpoint import UnreadableCheckpoint, load_checkpoint, previous_checkpoint
from ffcad.config import TrainConfig
from ffcad.training import NonFiniteLoss, Progress, train

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")

SEED = 5


@pytest.fixture(scope="module")
def config(tiny) -> TrainConfig:
    """Evaluates at iterations 3, 4 (the change of stage), 6 and 8; losses are averaged over them.

    Adam has more of a state than SGD.
    """
    return replace(
        tiny,
        evaluate_every=3,
        autoencoder_iterations=4,
        head_iterations=4,
        optimizer="adamw",
        lr_schedule="cosine",
    )


@pytest.fixture(scope="module")
def whole(config, dial) -> list[Progress]:
    """A training without interruption."""
    return list(train(config, dial, SEED))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoint.pt"


def steps(config: TrainConfig, data, path: Path, count: int) -> Iterator[Progress]:
    """A training after so many iterations."""
    training = train(config, data, SEED, checkpoint=path)
    for _ in range(count):
        next(training)
    return training


def assert_same_end(resumed: list[Progress], whole: list[Progress]) -> None:
    found, expected = resumed[-1].model.state_dict(), whole[-1].model.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [p.loss for p in resumed] == [p.loss for p in whole[-len(resumed) :]]
    assert resumed[-1].history == whole[-1].history
    assert resumed[-1].metrics == whole[-1].metrics


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(1, id="first iteration", marks=pytest.mark.slow),
        pytest.param(2, id="mid stage one"),
        pytest.param(3, id="after an evaluation", marks=pytest.mark.slow),
        pytest.param(4, id="change of stage"),
        pytest.param(5, id="mid stage two"),
        pytest.param(6, id="after an evaluation of stage two", marks=pytest.mark.slow),
        pytest.param(7, id="before the last", marks=pytest.mark.slow),
    ],
)
def test_closed_anywhere_it_goes_on_from_there(config, dial, whole, path, stop):
    steps(config, dial, path, stop).close()
    state = load_checkpoint(path)
    assert state["iteration"] == stop
    since = max(e for e in (0, 3, 4, 6) if e <= stop)
    assert state["losses"] == [p.loss for p in whole[since:stop]]
    resumed = list(train(config, dial, SEED, checkpoint=path))
    assert [p.resumed_at for p in resumed] == [stop] * (config.iterations - stop)
    assert {p.note for p in resumed} == {None}
    assert_same_end(resumed, whole)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "one file is enough at the end"


@pytest.mark.slow
def test_it_may_be_stopped_after_every_single_iteration(config, dial, whole, path):
    seen = []
    for _ in range(config.iterations):
        for progress in train(config, dial, SEED, checkpoint=path):
            seen.append(progress)
            break
    assert [p.resumed_at for p in seen] == list(range(config.iterations))
    assert_same_end(seen, whole)


def test_closing_writes_only_what_is_not_written(config, dial, path):
    steps(config, dial, path, 3).close()
    assert not previous_checkpoint(path).exists(), "the evaluation's was the newest already"
    content = path.read_bytes()
    train(config, dial, SEED, checkpoint=path).close()  # never begun
    assert path.read_bytes() == content
    training = train(config, dial, SEED)
    next(training)
    training.close()  # without a checkpoint


def test_an_exception_inside_writes_nothing(config, dial, path):
    """Whether the training raises it or gets it thrown in, as by Ctrl-C in the middle."""
    training = steps(config, dial, path, 2)
    with pytest.raises(KeyboardInterrupt):
        training.throw(KeyboardInterrupt)
    assert not path.exists()
    wild = replace(config, optimizer="sgd", sgd_learning_rate=1e30, evaluate_every=100)
    with pytest.raises(NonFiniteLoss):
        list(train(wild, dial, SEED, checkpoint=path))
    assert not path.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


@pytest.mark.parametrize("damage", [truncate, garbage])
def test_a_spoilt_checkpoint_costs_what_came_after_the_one_before(
    config, dial, whole, path, damage
):
    steps(config, dial, path, 5).close()
    damage(path)
    good = previous_checkpoint(path).read_bytes()  # of iteration 4
    training = train(config, dial, SEED, checkpoint=path)
    resumed = [next(training), next(training)]  # the second is an evaluation
    assert load_checkpoint(path)["iteration"] == 6
    assert previous_checkpoint(path).read_bytes() == good, "the spoilt one is not kept as such"
    resumed += training
    assert [p.resumed_at for p in resumed] == [4] * 4
    (note,) = {p.note for p in resumed}
    assert note.startswith(f"{path} cannot be read as a checkpoint: ")
    assert note.endswith(f"; {previous_checkpoint(path)} of iteration 4 was taken")
    assert "\n" not in note
    assert_same_end(resumed, whole)


def test_after_a_spoilt_one_every_checkpoint_is_kept_again(config, dial, path):
    steps(config, dial, path, 5).close()
    garbage(path)
    steps(config, dial, path, 3).close()  # writes 6 over the spoilt one, then 7
    iterations = [load_checkpoint(p)["iteration"] for p in (path, previous_checkpoint(path))]
    assert iterations == [7, 6]


def test_where_neither_can_be_read_both_are_named_and_kept(config, dial, path):
    steps(config, dial, path, 5).close()
    truncate(path)
    garbage(previous_checkpoint(path))
    with pytest.raises(UnreadableCheckpoint) as error:
        next(train(config, dial, SEED, checkpoint=path))
    assert f"{path} cannot be read" in str(error.value)
    assert f"{previous_checkpoint(path)} cannot be read" in str(error.value)
    assert "\n" not in str(error.value)
    assert path.exists()
    assert previous_checkpoint(path).exists()


def test_a_kill_between_the_two_renames_is_survived(config, dial, whole, path):
    """Then the older file has its new name already, and the newer one is not yet in its place."""
    steps(config, dial, path, 5).close()
    path.rename(path.with_name(f".{path.name}.0123abcd.tmp"))
    resumed = list(train(config, dial, SEED, checkpoint=path))
    assert resumed[0].resumed_at == 4
    assert "no such checkpoint; " in resumed[0].note
    assert_same_end(resumed, whole)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
