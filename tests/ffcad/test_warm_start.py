"""ResNet-18's kernels in an FFC encoder."""

import pytest
import torch
from encoders import clouds, make_teacher

from ffcad.agreement import measure
from ffcad.layers import concatenate
from ffcad.resnet import FFCResNet
from ffcad.warm_start import is_exact, warm_start


@pytest.fixture(scope="module")
def teacher() -> FFCResNet:
    return make_teacher().network


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    return [clouds(8, 32, seed) for seed in (3, 4)]


def random_and_started(teacher, batches, ratio, layers, lfu=False):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random, started = (FFCResNet(ratio, layers, lfu=lfu) for _ in range(2))
    warm_start(started, teacher, batches)
    return random.eval(), started.eval()


@pytest.mark.parametrize("layers", [2, 3])
def test_without_a_global_branch_it_is_the_resnet18(teacher, layers):
    """Of three layers the middle one is the identity, which a ReLU before it makes harmless."""
    encoder = FFCResNet(0.0, layers).eval()
    assert is_exact(encoder)
    warm_start(encoder, teacher, [])
    images = clouds(2, 48, seed=5)
    with torch.no_grad():
        for (found, none), (expected, _) in zip(encoder(images), teacher(images), strict=True):
            assert none is None
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_spatial_paths_have_the_blocks_of_the_kernels(teacher, batches):
    """Channel c of both branches together stands for ResNet-18's channel c."""
    _, encoder = random_and_started(teacher, batches, 0.25, 2)
    ffc = encoder.layer2[1].conv2.ffc
    kernel = teacher.layer2[1].conv2.ffc.convl2l.weight
    assert torch.equal(ffc.convl2l.weight, kernel[:96, :96])
    assert torch.equal(ffc.convl2g.weight, kernel[96:, :96])
    assert torch.equal(ffc.convg2l.weight, kernel[:96, 96:])


def test_the_spectral_path_has_the_best_factorisation_of_the_kernels_sum(teacher, batches):
    _, encoder = random_and_started(teacher, batches, 0.25, 2)
    path = encoder.layer3[1].conv1.ffc.convg2g
    found = path.conv2.weight[..., 0, 0] @ path.conv1[0].weight[..., 0, 0]
    wanted = teacher.layer3[1].conv1.ffc.convl2l.weight[192:, 192:].sum(dim=(2, 3))
    left_out = torch.linalg.svdvals(wanted)[32:]  # half of the 64 channels
    error = torch.linalg.norm(found - wanted)
    torch.testing.assert_close(error, torch.linalg.norm(left_out), rtol=1e-3, atol=1e-4)


def test_the_stem_is_that_of_a_teacher_whose_norms_are_folded_into_its_kernels(batches):
    """Such a norm has nothing of the images: its statistics must not be taken for theirs."""
    teacher = make_teacher().network
    stem = teacher.bn1
    with torch.no_grad():
        gain = stem.weight / (stem.running_var + stem.eps).sqrt()
        teacher.conv1.weight *= gain[:, None, None, None]
        stem.bias -= gain * stem.running_mean
        stem.running_mean.zero_()
        stem.running_var.fill_(1 - stem.eps)
        stem.weight.fill_(1)
    _, encoder = random_and_started(teacher, batches, 0.5, 2)
    with torch.no_grad():
        images = torch.cat(batches)
        expected = stem(teacher.conv1(images))
        torch.testing.assert_close(
            encoder.bn1(encoder.conv1(images)), expected, rtol=0.01, atol=0.01 * expected.std()
        )


@pytest.mark.parametrize(("ratio", "layers"), [(0.5, 2), (0.25, 3), (0.75, 2)])
def test_it_agrees_with_its_teacher_far_better_than_a_random_encoder(
    teacher, batches, ratio, layers
):
    random, started = random_and_started(teacher, batches, ratio, layers)
    fresh = [clouds(8, 32, seed=6)]
    before, after = (measure(encoder, teacher, fresh) for encoder in (random, started))
    for level in (1, 2, 3):
        for part in ("", "local_", "global_"):
            name = f"level{level}_{part}"
            assert after[f"{name}cosine"] > before[f"{name}cosine"], name
            assert after[f"{name}cka"] > before[f"{name}cka"], name
            assert after[f"{name}dead"] == 0
    for level in (1, 2, 3):
        assert 1 - after[f"level{level}_explained"] < 0.7 * (1 - before[f"level{level}_explained"])


def test_a_single_layer_and_the_local_fourier_unit_work_too(teacher, batches):
    for layers, lfu in ((1, False), (2, True)):
        random, started = random_and_started(teacher, batches, 0.5, layers, lfu)
        fresh = [clouds(8, 32, seed=6)]
        before, after = (measure(encoder, teacher, fresh) for encoder in (random, started))
        for level in (1, 2, 3):
            assert after[f"level{level}_explained"] > before[f"level{level}_explained"]


def test_features_have_the_teachers_scale(teacher, batches):
    """Channel by channel, on images that the norms have not seen."""
    _, started = random_and_started(teacher, batches, 0.5, 2)
    images = clouds(16, 32, seed=7)
    with torch.no_grad():
        for pair, (expected, _) in zip(started(images), teacher(images), strict=True):
            found = concatenate(pair).mean(dim=(0, 2, 3))
            wanted = expected.mean(dim=(0, 2, 3))
            assert (found / wanted).log2().abs().median() < 0.5
