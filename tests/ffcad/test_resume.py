"""A training that was killed and goes on ends as one that was not, bit for bit on a CPU."""

import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ffcad.training
from ffcad.checkpoint import CheckpointError, load_checkpoint
from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, Textures
from ffcad.resnet import FFCResNet
from ffcad.training import Progress, train

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


@pytest.fixture(scope="module")
def config(tiny) -> TrainConfig:
    """Evaluates, and keeps a checkpoint, at iterations 2, 3 (the change of stage), 4 and 6."""
    return replace(tiny, evaluate_every=2)


@pytest.fixture(scope="module")
def whole(config, dial) -> list[Progress]:
    """A training without interruption."""
    return list(train(config, dial, 5))


@pytest.fixture(scope="module")
def short(config, dial) -> TrainConfig:
    return replace(config, autoencoder_iterations=1, head_iterations=1)


@pytest.fixture(scope="module")
def done(short, dial, tmp_path_factory) -> tuple[bytes, Progress]:
    path = tmp_path_factory.mktemp("done") / "checkpoint.pt"
    *_, final = train(short, dial, 5, checkpoint=path)
    return path.read_bytes(), final


@pytest.fixture
def finished(done, tmp_path) -> tuple[Path, Progress]:
    """The checkpoint and the last progress of a short training."""
    (tmp_path / "checkpoint.pt").write_bytes(done[0])
    return tmp_path / "checkpoint.pt", done[1]


def killed_and_resumed(
    config: TrainConfig, data: CategoryData, path: Path, kill: int
) -> list[Progress]:
    """Stops after iteration `kill`, at once and for good, and trains the rest anew."""
    steps = train(config, data, 5, checkpoint=path)
    for _ in range(kill):
        next(steps)
    steps.close()
    torch.manual_seed(99)  # what else the process has drawn does not matter
    return list(train(config, data, 5, checkpoint=path))


def assert_same_end(resumed: list[Progress], whole: list[Progress]) -> None:
    found, expected = resumed[-1].model.state_dict(), whole[-1].model.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [p.loss for p in resumed] == [p.loss for p in whole[-len(resumed) :]]
    assert resumed[-1].history == whole[-1].history
    assert resumed[-1].metrics == whole[-1].metrics


@pytest.mark.parametrize(
    ("kill", "left"),
    [
        pytest.param(2, 4, id="in stage one", marks=pytest.mark.slow),
        pytest.param(3, 3, id="at the change of stage"),
        pytest.param(4, 2, id="in stage two", marks=pytest.mark.slow),
        pytest.param(5, 1, id="between two checkpoints"),
    ],
)
def test_a_resumed_training_ends_like_a_whole_one(config, dial, whole, tmp_path, kill, left):
    resumed = killed_and_resumed(config, dial, tmp_path / "checkpoint.pt", kill)
    assert len(resumed) == left
    assert_same_end(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [2, 3, 5])
def test_loader_workers_change_nothing(config, dial, whole, tmp_path, kill):
    with_workers = replace(config, loader_workers=2)
    resumed = killed_and_resumed(with_workers, dial, tmp_path / "checkpoint.pt", kill)
    assert_same_end(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [2, 3, 5])
def test_optimizer_schedule_clipping_and_rotation_go_on_too(tiny, dial, tmp_path, kill):
    """Adam's moments and step count, the cosine's position, augmentation and 1-D HSAS."""
    config = replace(
        tiny,
        evaluate_every=2,
        optimizer="adamw",
        lr_schedule="cosine",
        gradient_clip=1.0,
        rotation_degrees=10.0,
        horizontal_flip=True,
        hsas="1d",
        precision="bfloat16",
    )
    whole = list(train(config, dial, 5))
    assert_same_end(killed_and_resumed(config, dial, tmp_path / "c.pt", kill), whole)


@pytest.mark.slow
def test_the_number_of_workers_and_of_evaluations_may_change(config, dial, whole, tmp_path):
    path = tmp_path / "checkpoint.pt"
    steps = train(config, dial, 5, checkpoint=path)
    for _ in range(4):
        next(steps)
    steps.close()
    rest = list(train(replace(config, evaluate_every=100), dial, 5, checkpoint=path))
    assert [p.iteration for p in rest] == [5, 6]
    assert rest[-1].metrics == whole[-1].metrics


@pytest.mark.slow
def test_the_encoders_file_may_lie_elsewhere_but_not_be_another(config, dial, tmp_path):
    paths = [tmp_path / name for name in ("here.pth", "there.pth", "other.pth")]
    state = FFCResNet(0.5).state_dict()
    for path in paths[:2]:
        torch.save(state, path)
    torch.save(state | {"bn1.bias": state["bn1.bias"] + 1}, paths[2])
    here, there, other = (replace(config, encoder_weights=str(path)) for path in paths)
    checkpoint = tmp_path / "checkpoint.pt"
    steps = train(here, dial, 5, checkpoint=checkpoint)
    for _ in range(4):
        next(steps)
    steps.close()
    paths[0].unlink()
    with pytest.raises(CheckpointError, match="another training: its encoder_digest is"):
        next(train(other, dial, 5, checkpoint=checkpoint))
    assert [p.iteration for p in train(there, dial, 5, checkpoint=checkpoint)] == [5, 6]


def test_the_seconds_of_earlier_sittings_count(config, dial, tmp_path):
    path = tmp_path / "checkpoint.pt"
    steps = train(config, dial, 5, checkpoint=path)
    next(steps)
    before = next(steps).seconds
    steps.close()
    assert before < next(train(config, dial, 5, checkpoint=path)).seconds < 2 * before + 60


def test_a_finished_training_gives_its_last_progress_again(finished, short, dial):
    path, final = finished
    content = path.read_bytes()
    (again,) = train(short, dial, 5, checkpoint=path)
    for name in ("stage", "iteration", "iterations", "loss", "seconds", "metrics", "history"):
        assert getattr(again, name) == getattr(final, name), name
    assert again.final
    found, expected = again.model.state_dict(), final.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert path.read_bytes() == content


def test_a_finished_trainings_checkpoint_holds_no_optimizer(finished):
    assert load_checkpoint(finished[0])["optimizer"] is None


def test_a_checkpoint_of_another_configuration_is_refused(finished, short, dial):
    path, _ = finished
    other = replace(short, hsas="1d")
    with pytest.raises(CheckpointError, match=r"another configuration: hsas '2d' \(here '1d'\)"):
        next(train(other, dial, 5, checkpoint=path))


def test_a_checkpoint_of_another_case_is_refused(finished, short, dial, monkeypatch):
    path, _ = finished
    textures = Textures(images=dial.train.images, digest="t")

    def refused(what: str, data: CategoryData = dial, seed: int = 5, **more) -> None:
        with pytest.raises(CheckpointError, match=f"another training: its {what} is "):
            next(train(short, data, seed, checkpoint=path, **more))

    refused("seed", seed=6)
    refused("data_digest", replace(dial, digest="other"))
    refused("textures_digest", textures=textures)
    monkeypatch.setattr(ffcad.training, "METHOD_VERSION", ffcad.training.METHOD_VERSION + 1)
    refused("method_version")


def test_a_truncated_checkpoint_is_refused_and_kept(finished, short, dial):
    path, _ = finished
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        next(train(short, dial, 5, checkpoint=path))
    assert path.exists()


KILLED = """
import pickle, sys, warnings
from pathlib import Path
from ffcad.training import train
warnings.simplefilter("ignore")
config, data = pickle.loads(Path(sys.argv[1]).read_bytes())
for progress in train(config, data, 5, checkpoint=Path(sys.argv[2])):
    print(progress.iteration, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_can_be_resumed(tiny, dial, tmp_path):
    """SIGKILL at whatever it is doing, a checkpoint at every iteration; then to the end."""
    config = replace(tiny, evaluate_every=1, autoencoder_iterations=6, head_iterations=6)
    (tmp_path / "case").write_bytes(pickle.dumps((config, dial)))
    path = tmp_path / "checkpoint.pt"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "case"), str(path)]
    for pause in (0.0, 0.13, 0.31):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert 1 <= load_checkpoint(path)["iteration"] < config.iterations
    assert_same_end(list(train(config, dial, 5, checkpoint=path)), list(train(config, dial, 5)))
