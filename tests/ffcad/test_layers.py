"""FFC: against the release's numbers, against its definition, and its properties."""

import hashlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.encoder_weights import load_release_state
from ffcad.layers import FFC, FFCNormAct, FourierUnit, SpectralTransform, StridedPointwise
from ffcad.resnet import FFCResNet

CASES = json.loads(Path(__file__).with_name("ffc_reference.json").read_text())["cases"]
BY_RATIO = pytest.mark.parametrize("case", CASES, ids=lambda case: f"ratio {case['ratio']}")
CLASSIFIER = {"fc.weight": (1000, 512), "fc.bias": (1000,)}
ODD_SIZES = [(33, 47), (65, 63), (5, 8), (1, 1), (1, 6)]


def release(case: dict) -> FFCResNet:
    """The release's ffc_resnet18 without its classifier."""
    return FFCResNet(case["ratio"], stages=4, last_ratio=0.0).eval()


def reference_weights(shapes: dict[str, tuple]) -> dict[str, Tensor]:
    """The weights that the reference features were made with, from each tensor's name and rank."""
    state = {}
    for i, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        j = np.arange(math.prod(shape), dtype=np.float64)
        s = np.sin(0.37 * j * (1 + 0.01 * i) + i)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            s = 1 + 0.5 * s
        elif name.endswith("running_mean"):
            s = 0.1 * s
        elif len(shape) == 1:
            s = 1 + 0.2 * s if name.endswith(".weight") else 0.1 * s
        else:
            s = s * np.sqrt(2 / math.prod(shape[1:]))
        state[name] = torch.from_numpy(s.reshape(shape)).float()
    return state


def reference_image(height: int, width: int) -> Tensor:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = [
        np.sin(0.11 * (c + 1) * x + 0.07 * y) + 0.5 * np.cos(0.05 * (c + 2) * x * y / 32)
        for c in range(3)
    ]
    return torch.from_numpy(np.stack(planes)[None]).float()


def shapes_of(network: nn.Module) -> dict[str, tuple]:
    return {name: tuple(t.shape) for name, t in network.state_dict().items()}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms that do something: their statistics and parameters are random."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for name, t in part.state_dict().items():
                if t.dim():
                    low = 0.5 if name in ("weight", "running_var") else -0.5
                    t.copy_(low + torch.rand(t.shape, generator=generator))
    return module.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@BY_RATIO
def test_features_are_the_releases(case):
    encoder = release(case)
    weights = reference_weights(shapes_of(encoder) | CLASSIFIER)
    load_release_state(encoder, weights)
    with torch.no_grad():
        features = encoder(reference_image(case["height"], case["width"]))
    seen = 0
    for level, pair in enumerate(features, start=1):
        for branch, found in zip(("local", "global"), pair, strict=True):
            expected = case["features"].get(f"layer{level}/{branch}")
            if expected is None:
                assert found is None
                continue
            seen += 1
            within = 1e-5 * expected["std"]
            assert list(found.shape) == expected["shape"]
            assert abs(found.double().mean() - expected["mean"]) < within
            assert abs(found.double().std(correction=0) - expected["std"]) < within
            for index, value in expected["probes"]:
                assert abs(found.flatten()[index] - value) < within + 1e-7
    assert seen == len(case["features"]) == 7


@BY_RATIO
def test_names_and_shapes_are_the_releases(case):
    shapes = shapes_of(release(case)) | CLASSIFIER
    lines = [f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items()]
    assert len(lines) == case["state_dict_entries"] == 402
    assert {
        "layer1.0.conv1.ffc.convl2g.weight",
        "layer1.0.downsample.bn_g.running_mean",
        "layer2.0.conv1.ffc.convg2l.weight",
        "layer2.0.conv1.ffc.convg2g.conv1.0.weight",
        "layer3.1.conv2.ffc.convg2g.conv1.1.bias",
        "layer3.1.conv2.ffc.convg2g.fu.conv_layer.weight",
        "layer3.1.conv2.ffc.convg2g.fu.bn.running_var",
        "layer3.1.conv2.ffc.convg2g.conv2.weight",
        "layer4.1.conv2.bn_l.weight",
    } <= set(shapes)
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert digest == case["state_dict_sha256"]


def test_the_local_fourier_unit_has_the_releases_names():
    """Their `SpectralTransform(..., enable_lfu=True)` adds these and nothing else."""
    with_unit = shapes_of(SpectralTransform(32, 64, enable_lfu=True))
    without = shapes_of(SpectralTransform(32, 64, enable_lfu=False))
    assert with_unit.keys() - without.keys() == {
        "lfu.conv_layer.weight",
        *(f"lfu.bn.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "lfu.bn.num_batches_tracked",
    }
    assert with_unit["lfu.conv_layer.weight"] == (64, 64, 1, 1)


def test_arguments_reach_the_paths():
    ffc = FFC(16, 32, 3, 0.5, 0.25, 2, 2, 2, 4, True, True)  # in the release's order
    assert shapes_of(ffc)["convl2g.weight"] == (8, 2, 3, 3)
    for path in (ffc.convl2l, ffc.convl2g, ffc.convg2l):
        assert (path.stride, path.padding, path.dilation) == ((2, 2), (2, 2), (2, 2))
        assert path.groups == 4
        assert path.bias is not None
    assert ffc.convg2g.conv1[0].groups == ffc.convg2g.fu.conv_layer.groups == 2
    assert ffc.convg2g.conv1[0].bias is None
    assert ffc.convg2g.lfu is not None


def test_each_output_is_the_sum_of_its_two_paths():
    ffc = randomised(FFC(16, 24, 3, 0.5, 0.25, padding=1, enable_lfu=False))
    local, global_ = noise(2, 8, 6, 7), noise(2, 8, 6, 7)
    with torch.no_grad():
        out_local, out_global = ffc((local, global_))
        plain = [F.conv2d(local, w.weight, padding=1) for w in (ffc.convl2l, ffc.convl2g)]
        crossed = F.conv2d(global_, ffc.convg2l.weight, padding=1)
        torch.testing.assert_close(out_local, plain[0] + crossed)
        torch.testing.assert_close(out_global, plain[1] + ffc.convg2g(global_))


@pytest.mark.parametrize(("ratio_in", "ratio_out"), list(itertools.product((0, 0.5, 1), repeat=2)))
def test_an_absent_branch_is_none(ratio_in, ratio_out):
    layer = FFCNormAct(8, 16, 3, ratio_in, ratio_out, padding=1)
    paths = {
        "convl2l": ratio_in < 1 and ratio_out < 1,
        "convl2g": ratio_in < 1 and ratio_out > 0,
        "convg2l": ratio_in > 0 and ratio_out < 1,
        "convg2g": ratio_in > 0 and ratio_out > 0,
    }
    for name, present in paths.items():
        assert (getattr(layer.ffc, name) is not None) == present
    assert (layer.bn_l is None, layer.bn_g is None) == (ratio_out == 1, ratio_out == 0)
    channels = int(8 * ratio_in)
    local = None if ratio_in == 1 else noise(2, 8 - channels, 4, 4)
    global_ = None if ratio_in == 0 else noise(2, channels, 4, 4)
    for outputs in (layer((local, global_)), layer.ffc((local, global_))):
        assert (outputs[0] is None, outputs[1] is None) == (ratio_out == 1, ratio_out == 0)


@pytest.mark.parametrize("enable_lfu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), ODD_SIZES)
def test_all_paths_agree_on_the_size_of_odd_sides(height, width, stride, enable_lfu):
    ffc = FFC(16, 32, 3, 0.5, 0.5, stride, padding=1, enable_lfu=enable_lfu).eval()
    outputs = ffc((noise(1, 8, height, width), noise(1, 8, height, width)))
    for out in outputs:
        assert out.shape == (1, 16, math.ceil(height / stride), math.ceil(width / stride))
        assert out.isfinite().all()


def test_pooling_averages_what_is_there_at_odd_sides():
    pool = SpectralTransform(1, 8, stride=2).downsample
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    windows = [
        [[0, 1, 5, 6], [2, 3, 7, 8], [4, 9]],
        [[10, 11], [12, 13], [14]],
    ]
    expected = torch.tensor([[np.mean(w) for w in row] for row in windows]).float()
    torch.testing.assert_close(pool(image)[0, 0], expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (9, 5), (1, 1)])
def test_there_and_back_a_fourier_unit_loses_nothing(height, width):
    """Weights that treat real and imaginary parts alike, and a bias so high that ReLU lets all
    pass, leave a plain 1x1 convolution of the image."""
    unit, weight = FourierUnit(4, 6).eval(), noise(6, 4)
    with torch.no_grad():
        unit.conv_layer.weight.copy_(torch.kron(weight, torch.eye(2))[..., None, None])
        unit.bn.bias.fill_(50.0)
        x = noise(2, 4, height, width)
        found = unit(x) - unit(torch.zeros_like(x))
        expected = F.conv2d(x, weight[..., None, None]) / math.sqrt(1 + unit.bn.eps)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


def test_a_fourier_unit_sees_the_whole_input():
    unit = randomised(FourierUnit(4, 6))
    x = noise(1, 4, 9, 10)
    other = x.clone()
    other[..., 0, 0] += 1
    with torch.no_grad():
        changed = (unit(x) - unit(other)).abs().sum(dim=(0, 1)) > 1e-6
    assert changed.all()


def test_a_fourier_unit_stays_in_float32_under_autocast():
    """Half-precision FFTs do not exist on the CPU, nor for these sides on a GPU."""
    unit = randomised(FourierUnit(4, 6))
    x = noise(2, 4, 9, 10).bfloat16()
    with torch.no_grad():
        expected = unit(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = unit(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())


def local_unit_of_quarters(transform: SpectralTransform, x: Tensor) -> Tensor:
    """The local Fourier unit pixel by pixel: of the first quarter of the channels, the quarters
    above-left, below-left, above-right, below-right are the unit's input; each pixel of its answer
    goes to the four places half a side apart."""
    b, c, h, w = x.shape
    high, wide = -(-h // 2), -(-w // 2)
    corners = [(0, 0), (h - high, 0), (0, w - wide), (h - high, w - wide)]
    quarters = torch.cat([x[:, : c // 4, t : t + high, s : s + wide] for t, s in corners], dim=1)
    answer = transform.lfu(quarters)
    out = torch.empty(b, answer.shape[1], h, w)
    for row, column in itertools.product(range(h), range(w)):
        out[..., row, column] = answer[..., row % high, column % wide]
    return out


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 6), (4, 10), (7, 9), (5, 6), (1, 3)])
def test_the_spectral_transform_is_a_sum_of_its_input_and_both_units(height, width):
    """At even squares this is the release's arithmetic; elsewhere it is the definition here."""
    transform = randomised(SpectralTransform(8, 32, enable_lfu=True))
    x = noise(2, 8, height, width)
    with torch.no_grad():
        inner = transform.conv1(x)
        units = transform.fu(inner) + local_unit_of_quarters(transform, inner)
        expected = transform.conv2(inner + units)
        torch.testing.assert_close(transform(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(stride=3), "stride must be 1 or 2 but got 3"),
        (dict(ratio_gin=1.5), "ratio_gin must be within 0 and 1 but got 1.5"),
        (dict(ratio_gout=-0.5), "ratio_gout must be within 0 and 1 but got -0.5"),
        (dict(ratio_gout=1 / 16), "at least 2 output channels but got 1"),
        (dict(ratio_gout=0.25, enable_lfu=True), "divisible by 8 but got 4"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    given = dict(ratio_gin=0.5, ratio_gout=0.5, enable_lfu=False) | arguments
    with pytest.raises(ValueError, match=message):
        FFC(16, 16, 3, **given)


GRADIENTS_IN_CHANNELS_LAST = """
import torch
from ffcad.layers import FFC

torch.set_num_threads(1)
for channels in (8, 16, 30):  # Half of them local, half global.
    ffc = FFC(channels, 2 * channels, 1, 0.5, 0.5, stride=2, enable_lfu=False)
    x = torch.randn(2, channels // 2, 64, 64).contiguous(memory_format=torch.channels_last)
    for _ in range(5):
        local, global_ = ffc((x, x))
        (local.sum() + global_.sum()).backward()
print("sound")
"""


def test_narrow_strided_1x1_convolutions_keep_to_their_memory():
    """oneDNN writes past its workspace there (uxlfoundation/oneDNN#6035), so in another process."""
    command = [sys.executable, "-c", GRADIENTS_IN_CHANNELS_LAST]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "sound\n", (
        f"the process ended with {result.returncode} and {result.stderr[-300:]!r}: no strided 1x1 "
        "convolution of fewer than 16 channels may reach oneDNN; see StridedPointwise"
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
def test_picking_pixels_first_is_the_same_convolution(size):
    usual = nn.Conv2d(12, 20, 1, stride=2, groups=2)
    other = StridedPointwise(12, 20, 1, stride=2, groups=2)
    other.load_state_dict(usual.state_dict())
    gradients = []
    for convolution in (usual, other):
        x = noise(3, 12, *size).requires_grad_()
        y = convolution(x)
        gradients.append(torch.autograd.grad((y**2).sum(), [x, *convolution.parameters()]))
        assert y.shape[-2:] == tuple((side + 1) // 2 for side in size)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
