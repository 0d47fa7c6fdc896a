"""Weights of the frozen encoder: where they may come from, and what is refused."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from ffcad.encoder_weights import (
    RandomEncoderWarning,
    WeightsError,
    load_encoder_weights,
    load_release_state,
    source_digest,
    state_digest,
)
from ffcad.layers import concatenate
from ffcad.model import FFCAD
from ffcad.predictor import normalise, to_float
from ffcad.resnet import FFCResNet


def encoder(ratio: float = 0.0, layers: int = 2) -> FFCResNet:
    return FFCResNet(ratio, layers).eval()


@pytest.fixture(scope="module")
def torchvisions() -> nn.Module:
    """torchvision's ResNet-18 with random weights and statistics."""
    generator = torch.Generator().manual_seed(0)
    network = resnet18(weights=None).eval()
    for t in network.state_dict().values():
        if t.dim() == 1:
            t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    return network


def features(network: nn.Module, x: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    levels = []
    for layer in (network.layer1, network.layer2, network.layer3):
        x = layer(x)
        levels.append(x)
    return levels


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_without_ffc_it_is_torchvisions_resnet18(torchvisions, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(torchvisions.state_dict(), path)
    else:
        save_file(torchvisions.state_dict(), path)
    own = encoder()
    digest = load_encoder_weights(own, str(path))
    x = torch.randn(2, 3, 65, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = own(x)
        for (local, global_), expected in zip(pairs, features(torchvisions, x), strict=True):
            assert global_ is None
            torch.testing.assert_close(local, expected)
    assert digest == state_digest(own.state_dict())


def test_a_file_of_the_own_names_goes_round_with_its_digest(tmp_path):
    first, second = encoder(0.25, 3), encoder(0.25, 3)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "w.pt")
    assert load_encoder_weights(second, str(tmp_path / "w.pt")) == state_digest(first.state_dict())
    for name, t in first.state_dict().items():
        assert torch.equal(t, second.state_dict()[name]), name


def test_files_without_batch_norms_counters_are_taken(torchvisions):
    """Those that were saved before PyTorch 0.4.1 have none; torchvision's own are among them."""
    state = torchvisions.state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    with_counters, without = encoder(), encoder()
    load_release_state(with_counters, state)
    load_release_state(without, old)
    assert state_digest(without.state_dict()) == state_digest(with_counters.state_dict())


def test_names_of_data_parallel_training_are_taken(torchvisions):
    wrapped = {f"module.{k}": v for k, v in torchvisions.state_dict().items()}
    one, two = encoder(), encoder()
    load_release_state(one, wrapped)
    load_release_state(two, torchvisions.state_dict())
    assert state_digest(one.state_dict()) == state_digest(two.state_dict())


@pytest.mark.parametrize(("ratio", "layers"), [(0.5, 2), (0.0, 1), (0.0, 3)])
def test_torchvisions_weights_fit_no_other_architecture(torchvisions, tmp_path, ratio, layers):
    """Where they are asked for by name, this is said before anything is downloaded."""
    path = tmp_path / "resnet18.pth"
    torch.save(torchvisions.state_dict(), path)
    for source in (str(path), "torchvision"):
        with pytest.raises(WeightsError) as error:
            load_encoder_weights(encoder(ratio, layers), source)
        assert str(error.value).startswith(f"{source}: a plain ResNet-18 fits global_ratio 0")
        assert f"has global_ratio {ratio} and ffc_layers {layers}" in str(error.value)


def test_another_architecture_is_refused_with_its_first_differences(tmp_path):
    path = tmp_path / "quarter.pth"
    torch.save(encoder(0.25).state_dict(), path)
    with pytest.raises(WeightsError) as error:
        load_encoder_weights(encoder(0.5), str(path))
    assert f"{path} belongs to another architecture: " in str(error.value)
    difference = "layer1.0.conv1.ffc.convl2l.weight has shape (48, 64, 3, 3) instead of (32, 64"
    assert difference in str(error.value)
    assert re.search(r"\(and \d+ more\)$", str(error.value))


def test_missing_and_foreign_names_are_refused():
    state = encoder().state_dict()
    gone = state.pop("layer3.1.conv2.bn_l.weight")
    with pytest.raises(WeightsError, match=r"layer3\.1\.conv2\.bn_l\.weight is missing"):
        load_release_state(encoder(), state)
    state |= {"layer3.1.conv2.bn_l.weight": gone, "neck.weight": gone}
    with pytest.raises(WeightsError, match=r"neck\.weight has no place"):
        load_release_state(encoder(), state)


def test_a_refused_file_leaves_the_encoder_as_it_was():
    own = encoder()
    before = state_digest(own.state_dict())
    state = {k: torch.zeros_like(v) for k, v in own.state_dict().items()}
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], torch.nan)
    with pytest.raises(WeightsError, match="state dict holds values that are not finite"):
        load_release_state(own, state)
    assert state_digest(own.state_dict()) == before


def truncated(path: Path) -> None:
    torch.save(encoder().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])


def truncated_safetensors(path: Path) -> None:
    save_file(encoder().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])


def text(path: Path) -> None:
    path.write_text("no weights\n")


def empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cut.pth", truncated),
        ("cut.safetensors", truncated_safetensors),
        ("text.pth", text),
        ("text.safetensors", text),
        ("empty.pt", empty),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(WeightsError) as error:
        load_encoder_weights(encoder(), str(tmp_path / name))
    assert f"{tmp_path / name} cannot be read as weights: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match="no such file of weights; give one"):
            load_encoder_weights(encoder(), str(path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": 1}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth is no state dict"):
        load_encoder_weights(encoder(), str(tmp_path / "other.pth"))


class Attack:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_code_in_a_file_is_refused_and_never_run(tmp_path):
    trace = tmp_path / "ran"
    pickle.loads(pickle.dumps(Attack(trace)))
    assert trace.exists()  # the attack works where pickles are trusted
    trace.unlink()
    torch.save({"conv1.weight": Attack(trace)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Attack(trace)))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            load_encoder_weights(encoder(), str(tmp_path / name))
    assert not trace.exists()


def test_random_weights_warn_and_are_the_same_for_every_seed(tiny):
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        own = FFCAD(replace(tiny, global_ratio=0.25)).encoder
        state = torch.random.get_rng_state()
        with pytest.warns(RandomEncoderWarning, match="results say little about the method"):
            digests.add(load_encoder_weights(own, "random"))
        assert torch.equal(torch.random.get_rng_state(), state)  # the caller's numbers go on
    # The statistics of the batch norms differ between processors in their last bits.
    assert digests == {state_digest(dict(own.named_parameters()))}


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_random_features_keep_their_scale_through_the_levels(ratio, dial):
    """With untouched statistics the third level's spread is 27 times the first's at ratio 0.5."""
    own = encoder(ratio)
    with pytest.warns(RandomEncoderWarning):
        load_encoder_weights(own, "random")
    images = normalise(to_float(np.array(dial.train.images[:4]), torch.device("cpu")))
    with torch.no_grad():
        spreads = [float(concatenate(pair).std()) for pair in own(images)]
    assert max(spreads) < 5 * min(spreads)


def test_the_digest_sees_names_shapes_and_values():
    t = torch.arange(6.0)
    states = [{"a": t}, {"b": t}, {"a": t.reshape(2, 3)}, {"a": t + 1}, {"a": t.double()}]
    assert len({state_digest(s) for s in states}) == len(states)
    assert state_digest({"b": t, "a": t}) == state_digest({"a": t, "b": t.clone()})


def test_a_source_is_named_by_its_content(tmp_path):
    assert source_digest("random") == "random"
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    a, b, c = (source_digest(str(tmp_path / n)) for n in "abc")
    assert a == b != c
    with pytest.raises(WeightsError, match="none: No such file"):
        source_digest(str(tmp_path / "none"))
