"""What each stage minimises, and with what: losses, optimizer, learning rate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.config import TrainConfig
from ffcad.model import cosine_distance


def make_optimizer(config: TrainConfig, part: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over a part's parameters; the rate is set at every iteration."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(part.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(part.parameters(), lr=rate, momentum=config.momentum, weight_decay=decay)


def stage_learning_rate(config: TrainConfig, iteration: int) -> float:
    """The learning rate of iteration `iteration` (from 0, both stages counted)."""
    rate, length, position = config.learning_rate, config.autoencoder_iterations, iteration
    if iteration >= config.autoencoder_iterations:
        rate *= config.head_learning_rate_factor
        length, position = config.head_iterations, iteration - length
    if config.lr_schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * position / length))
    return rate


def reconstruction_loss(target: list[Tensor], output: list[Tensor], kind: str) -> Tensor:
    """Distance of the reconstructed features from the frozen ones, summed over the levels.

    Args:
        target, output: three levels of (B, C_k, H_k, W_k).
        kind: 'l2' is the mean squared difference (Eq. 2); 'cosine' the mean cosine distance of the
            channel vectors (DeSTSeg).

    Returns:
        A scalar.
    """
    if kind == "cosine":
        return sum(cosine_distance(t, o).mean() for t, o in zip(target, output, strict=True))
    return sum(F.mse_loss(o.float(), t.float()) for t, o in zip(target, output, strict=True))


def segmentation_loss(logits: Tensor, mask: Tensor, gamma: float, l1_weight: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) and L1 loss of the mask, at the head's resolution.

    Args:
        logits: (B, 1, h, w).
        mask: (B, 1, H, W) of 0 and 1; a cell of the head is anomalous where half of it is.
        gamma: the focal loss's exponent.
        l1_weight: the L1 loss's weight.

    Returns:
        A scalar.
    """
    logits = logits.float()
    target = (F.adaptive_avg_pool2d(mask.float(), logits.shape[-2:]) >= 0.5).float()
    right = logits * (2 * target - 1)  # p_t = sigmoid(right)
    # In logarithms, because error**gamma has no finite slope at an error of 0 for gamma below 1.
    focus = (gamma * F.logsigmoid(-right)).exp()  # (1 - p_t)**gamma
    error = (-right).sigmoid()  # 1 - p_t
    return (-focus * F.logsigmoid(right)).mean() + l1_weight * error.mean()
