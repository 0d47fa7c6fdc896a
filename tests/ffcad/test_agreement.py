"""Figures of agreement between two sets of features."""

import pytest
import torch
import torch.nn.functional as F

from ffcad.agreement import Agreement


def figures(features, targets, batches=1):
    """Of one level; features are a pair."""
    agreement = Agreement()
    for chunk in range(batches):
        pair = tuple(None if f is None else f.chunk(batches)[chunk] for f in features)
        agreement.add([pair], [targets.chunk(batches)[chunk]])
    return agreement.figures()


@pytest.fixture
def target():
    return torch.rand(6, 8, 5, 4, generator=torch.Generator().manual_seed(0))


def test_equal_features_agree_in_every_figure(target):
    found = figures((target[:, :6], target[:, 6:]), target)
    for part in ("", "local_", "global_"):
        assert found[f"level1_{part}cosine"] == pytest.approx(1, abs=1e-6)
        assert found[f"level1_{part}cka"] == pytest.approx(1)
        assert found[f"level1_{part}explained"] == pytest.approx(1)
        assert found[f"level1_{part}dead"] == 0


def test_a_rotation_and_a_shift_keep_the_kernel_alignment_alone(target):
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    turned = torch.einsum("dc,bchw->bdhw", rotation, target) + 3
    found = figures((turned, None), target)
    assert found["level1_cka"] == pytest.approx(1, abs=1e-6)
    assert found["level1_explained"] < 0


def test_constant_channels_are_dead_and_the_mean_explains_nothing(target):
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    found = figures((target[:, :6], mean[:, 6:]), target)
    assert found["level1_global_dead"] == 1
    assert found["level1_local_dead"] == 0
    assert found["level1_dead"] == pytest.approx(0.25)
    assert found["level1_global_explained"] == pytest.approx(0, abs=1e-6)
    assert found["level1_global_cka"] == pytest.approx(0, abs=1e-6)


def test_batches_add_up_to_the_whole_by_the_definitions(target):
    noisy = target + 0.3 * torch.rand(target.shape, generator=torch.Generator().manual_seed(2))
    found = figures((noisy, None), target, batches=3)
    x, y = (t.permute(0, 2, 3, 1).reshape(-1, 8).double() for t in (noisy, target))
    cosine = F.cosine_similarity(x, y).mean().item()
    xc, yc = x - x.mean(0), y - y.mean(0)
    cka = (xc.T @ yc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    explained = 1 - (x - y).square().sum() / yc.square().sum()
    assert found["level1_cosine"] == pytest.approx(cosine, rel=1e-5)
    assert found["level1_cka"] == pytest.approx(cka.item(), rel=1e-9)
    assert found["level1_explained"] == pytest.approx(explained.item(), rel=1e-9)


def test_without_a_global_branch_there_are_no_figures_of_branches(target):
    assert not [name for name in figures((target, None), target) if "local" in name]
