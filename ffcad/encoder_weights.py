"""Where the frozen encoder's weights come from: a file, torchvision, or nowhere (random).

The paper does not say. An encoder without FFC and with two layers per block is torchvision's
ResNet-18; any other architecture needs weights of its own.
"""

import hashlib
import json
import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.durable import force_names
from ffcad.resnet import FFCResNet

# Every fit of an architecture shares its frozen encoder, so random weights ignore the case's seed.
RANDOM_ENCODER_SEED = 20250821


class WeightsError(ValueError):
    """Weights that cannot be read or do not belong to the architecture."""


class RandomEncoderWarning(UserWarning):
    """The frozen encoder has random weights: the results say little about the method."""


def load_encoder_weights(encoder: FFCResNet, source: str) -> str:
    """Gives the encoder its weights.

    Args:
        encoder: a frozen encoder, or any `FFCResNet`.
        source: 'random', 'torchvision' (ResNet-18, ImageNet, downloaded once), or the path of a
            state dict (.pth, .pt or .safetensors) with torchvision's or the FFC release's names.

    Returns:
        A digest of the weights, 64 hexadecimal digits.

    Raises:
        WeightsError: if the file is missing or unreadable, or belongs to another architecture.
    """
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_ENCODER_SEED)
            fresh = _random_encoder(encoder.architecture)
        encoder.load_state_dict(fresh.state_dict())
        warnings.warn(
            "the frozen encoder has random weights; results say little about the method "
            "(give weights with encoder_weights)",
            RandomEncoderWarning,
            stacklevel=2,
        )
        # The drawn numbers alone: the statistics' last bits are the processor's, and a training
        # must be able to go on on another one.
        return state_digest(dict(encoder.named_parameters()))
    if source == "torchvision":
        _check_takes_resnet18(encoder, "torchvision")
    state = _download() if source == "torchvision" else _read(Path(source))
    load_release_state(encoder, state, source)
    return state_digest(encoder.state_dict())


@dataclass(frozen=True)
class Teacher:
    """A ResNet-18 whose features are targets.

    Attributes:
        network: three stages, frozen, in eval mode.
        digest: names its weights.
    """

    network: FFCResNet
    digest: str


def load_teacher(source: str) -> Teacher:
    """A ResNet-18 from torchvision or a file.

    Args:
        source: 'torchvision' (ImageNet, downloaded once), or the path of a state dict.

    Raises:
        WeightsError: if they cannot be had, or are of another network.
    """
    if source == "random":
        raise WeightsError("a teacher cannot be random; give torchvision or a ResNet-18's file")
    network = FFCResNet(0.0)
    digest = load_encoder_weights(network, source)
    return Teacher(network.requires_grad_(False).eval(), digest)


def save_encoder(path: Path, encoder: FFCResNet, card: dict[str, Any]) -> None:
    """Writes an encoder as safetensors, whole or not at all; the card goes into the file's header.

    Args:
        path: ends in .safetensors; its folder is made.
        encoder: of three stages.
        card: JSON types, as `ffcad.pretrain` gives them.
    """
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    try:
        # Not its `save_file`, whose files only their owner can read.
        with open(temporary, "wb") as f:
            f.write(save(state, metadata={"card": json.dumps(card)}))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        force_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_card(path: Path) -> dict[str, Any]:
    """The card in an encoder's file; empty where there is none.

    Raises:
        WeightsError: if the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("card", "{}"))
    except (OSError, SafetensorError, ValueError) as e:
        raise WeightsError(f"{path} cannot be read as weights: {e}") from e


def load_release_state(encoder: FFCResNet, state: dict[str, Tensor], source: str = "state dict"):
    """Loads the FFC release's `ffc_resnet18`, or torchvision's `resnet18` where ratio is 0.

    The classifier, and stages that the encoder does not have, are left out.

    Args:
        encoder: of the same ratio, layers and width.
        state: name -> tensor.
        source: what messages call it.

    Raises:
        WeightsError: if names or shapes differ, with the first of them.
    """
    names = {k.removeprefix("module."): v for k, v in state.items()}
    if "layer1.0.conv1.weight" in names:
        _check_takes_resnet18(encoder, source)
        names = {_from_torchvision(k): v for k, v in names.items()}
    own = encoder.state_dict()
    # Files from before PyTorch 0.4.1, torchvision's own among them, have no such counters.
    names |= {k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in names}
    unused = ("fc.", *(f"layer{i}." for i in range(encoder.stages + 1, 5)))
    names = {k: v for k, v in names.items() if not k.startswith(unused)}
    wrong = [
        f"{k} has shape {tuple(v.shape)} instead of {tuple(own[k].shape)}"
        for k, v in names.items()
        if k in own and v.shape != own[k].shape
    ]
    wrong += [f"{k} is missing" for k in own if k not in names]
    wrong += [f"{k} has no place" for k in names if k not in own]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{source} belongs to another architecture: {'; '.join(wrong[:3])}{more}"
        )
    if any(not torch.isfinite(v).all() for v in names.values()):
        raise WeightsError(f"{source} holds values that are not finite")
    encoder.load_state_dict(names)


def _random_encoder(architecture: dict[str, Any]) -> FFCResNet:
    """Random weights whose batch norms know the statistics of random, cloudy images.

    A frozen encoder never trains its batch norms; with their initial statistics the features of
    random weights grow from block to block until no learning rate suits them.
    """
    encoder = FFCResNet(**architecture).train()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch that follows
    clouds = F.interpolate(torch.randn(8, 3, 8, 8), size=64, mode="bilinear")
    with torch.no_grad():
        encoder(clouds + 0.1 * torch.randn(8, 3, 64, 64))
    return encoder


def _check_takes_resnet18(encoder: FFCResNet, source: str) -> None:
    ratio, layers = encoder.architecture["ratio"], encoder.architecture["layers"]
    if ratio != 0 or layers != 2:
        raise WeightsError(
            f"{source}: a plain ResNet-18 fits global_ratio 0 (or ffc_encoder off) with "
            f"ffc_layers 2 only, but the encoder has global_ratio {ratio} and ffc_layers {layers}; "
            "give weights of that architecture, or encoder_weights 'random'"
        )


def source_digest(source: str) -> str:
    """What names the weights in a fit's key: a file's content, or the word itself."""
    if source in ("random", "torchvision"):
        return source
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError as e:
        raise WeightsError(f"{source}: {e.strerror or e}") from e


def state_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file of weights; give one, or 'torchvision', or, as encoder_weights "
            "alone, 'random'"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of a pickle: it is refused anyway
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise WeightsError(
            f"{path} cannot be read as weights: it holds something else than tensors, which might "
            "be code and was not run; give a state dict, best as .safetensors"
        ) from e
    except Exception as e:  # whatever a truncated or foreign file makes the reader raise
        reason = str(e).splitlines()[0].partition(". ")[0] if str(e) else type(e).__name__
        raise WeightsError(
            f"{path} cannot be read as weights: it is truncated or of another kind ({reason})"
        ) from e
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is no state dict (names and tensors)")
    return state


def _download() -> dict[str, Tensor]:
    from torchvision.models import ResNet18_Weights

    try:
        return ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: what came has another checksum
        raise WeightsError(
            f"torchvision's ResNet-18 weights could not be downloaded ({e}); download them "
            "elsewhere and give the file's path as encoder_weights"
        ) from e


def _from_torchvision(name: str) -> str:
    """layer2.0.bn1.weight -> layer2.0.conv1.bn_l.weight, and so on; the stem keeps its names."""
    if not name.startswith("layer"):
        return name
    name = name.replace(".downsample.0.", ".downsample.ffc.convl2l.")
    name = name.replace(".downsample.1.", ".downsample.bn_l.")
    for i in ("1", "2"):
        name = name.replace(f".bn{i}.", f".conv{i}.bn_l.")
        name = name.replace(f".conv{i}.weight", f".conv{i}.ffc.convl2l.weight")
    return name
