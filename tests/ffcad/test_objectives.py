"""Losses against their formulas, number by number; the learning rate over both stages."""

import math

import pytest
import torch
from torch import nn

from ffcad.config import TrainConfig
from ffcad.objectives import (
    make_optimizer,
    reconstruction_loss,
    segmentation_loss,
    stage_learning_rate,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_reconstruction_is_the_mean_distance_of_each_level_summed():
    target = [noise(2, 3, 4, 5), noise(2, 6, 2, 2)]
    output = [noise(*t.shape, seed=1) for t in target]
    squares = sum(float(((t - o) ** 2).mean()) for t, o in zip(target, output, strict=True))
    assert float(reconstruction_loss(target, output, "l2")) == pytest.approx(squares, rel=1e-5)
    cosines = sum(
        float(1 - torch.cosine_similarity(t, o).mean()) for t, o in zip(target, output, strict=True)
    )
    assert float(reconstruction_loss(target, output, "cosine")) == pytest.approx(cosines, rel=1e-5)


@pytest.mark.parametrize(("gamma", "l1_weight"), [(4.0, 1.0), (0.0, 0.0), (2.0, 0.3)])
def test_segmentation_is_focal_and_l1_loss_cell_by_cell(gamma, l1_weight):
    logits = 3 * noise(2, 1, 3, 4)
    mask = (noise(2, 1, 12, 16, seed=1) > 0).float()
    mask[0, 0, :4, :4] = torch.tensor([1.0, 0.0]).repeat(4, 2)  # exactly half: anomalous
    focal = l1 = 0.0
    for b in range(2):
        for row in range(3):
            for column in range(4):
                cell = mask[b, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                target = float(cell.mean() >= 0.5)
                p = 1 / (1 + math.exp(-float(logits[b, 0, row, column])))
                right = p if target else 1 - p
                focal -= (1 - right) ** gamma * math.log(right) / 24
                l1 += abs(p - target) / 24
    found = float(segmentation_loss(logits, mask, gamma, l1_weight))
    assert found == pytest.approx(focal + l1_weight * l1, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_certain_and_right_costs_nothing_and_has_no_broken_gradient(gamma):
    """A power below one has an infinite slope where the error is 0 exactly."""
    logits = torch.tensor([200.0, -200.0]).reshape(1, 1, 1, 2).requires_grad_()
    mask = torch.tensor([1.0, 0.0]).repeat_interleave(4).expand(4, 8)[None, None]
    loss = segmentation_loss(logits, mask, gamma, 1.0)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_rate_is_a_stages_own(optimizer):
    config = TrainConfig(
        optimizer=optimizer,
        sgd_learning_rate=0.2,
        adamw_learning_rate=0.2,
        head_learning_rate_factor=0.5,
        autoencoder_iterations=4,
        head_iterations=2,
    )
    assert [stage_learning_rate(config, i) for i in range(6)] == [0.2] * 4 + [0.1] * 2


def test_the_cosine_starts_anew_in_each_stage():
    config = TrainConfig(
        sgd_learning_rate=0.2,
        head_learning_rate_factor=0.5,
        autoencoder_iterations=4,
        head_iterations=2,
        lr_schedule="cosine",
    )
    half = 2**-0.5 / 2
    shares = [1, 0.5 + half, 0.5, 0.5 - half, 0.5, 0.25]
    assert [stage_learning_rate(config, i) for i in range(6)] == pytest.approx(
        [0.2 * s for s in shares]
    )


def test_optimizers_get_their_knobs():
    part = nn.Linear(2, 3)
    knobs = dict(momentum=0.7, weight_decay=0.02, sgd_learning_rate=0.3, adamw_learning_rate=0.4)
    sgd = make_optimizer(TrainConfig(**knobs), part)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.7, 0.02)
    adamw = make_optimizer(TrainConfig(optimizer="adamw", **knobs), part)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.4, 0.02)
