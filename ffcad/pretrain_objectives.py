"""What a making minimises and measures: a teacher's features, or class labels."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.agreement import Agreement, measure
from ffcad.encoder_weights import Teacher
from ffcad.layers import Branches, concatenate
from ffcad.model import cosine_distance
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig
from ffcad.resnet import FFCResNet
from ffcad.warm_start import warm_start

Batches = Iterable[tuple[Tensor, Tensor | None]]
# The batch size that the ImageNet recipe's rate is for (Goyal et al., arXiv 1706.02677).
REFERENCE_BATCH = 256
LABEL_SMOOTHING = 0.1


class Distillation:
    """The teacher's features of three levels as targets; also the warm start alone.

    Args:
        recipe: the knobs.
        architecture: of the encoder.
        teacher: a ResNet-18.
        first: normalised images (B, 3, S, S) that a warm start sets the norms by.
        device: of all.
    """

    rate_knob = "learning_rate"

    def __init__(
        self,
        recipe: PretrainConfig,
        architecture: EncoderArchitecture,
        teacher: Teacher,
        first: list[Tensor],
        device: torch.device,
    ) -> None:
        self.recipe, self.rate = recipe, recipe.learning_rate
        self.teacher = teacher.network.to(device)
        self.encoder = FFCResNet(architecture.ratio, architecture.layers, lfu=architecture.lfu)
        self.encoder.to(device)
        if recipe.method == "warm_start" or recipe.initial == "warm_start":
            warm_start(self.encoder, self.teacher, first)
        self.model: nn.Module = self.encoder

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW: the levels' gradients differ by orders of magnitude."""
        decay = self.recipe.weight_decay
        return torch.optim.AdamW(self.model.parameters(), lr=self.rate, weight_decay=decay)

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean over the levels of both distances; see `distillation_loss`."""
        with torch.no_grad():
            targets = [concatenate(pair) for pair in self.teacher(images)]
        features = [concatenate(pair) for pair in self.encoder(images)]
        return distillation_loss(
            targets, features, self.recipe.cosine_weight, self.recipe.l2_weight
        )

    def figures(self, held_out: Batches) -> dict[str, float]:
        """Agreement with the teacher, and 'loss', which is weighted as the training's."""
        found = measure(self.encoder, self.teacher, (images for images, _ in held_out))
        r, levels = self.recipe, (1, 2, 3)
        losses = [
            r.cosine_weight * (1 - found[f"level{k}_cosine"])
            + r.l2_weight * (1 - found[f"level{k}_explained"])
            for k in levels
        ]
        return {"loss": sum(losses) / len(losses), **found}


class Classification:
    """Class labels; the FFC release's `ffc_resnet18`, whose first three stages are the encoder.

    Args:
        recipe: the knobs.
        architecture: of the encoder.
        classes: their number.
        device: of all.
    """

    rate_knob = "supervised_learning_rate"

    def __init__(
        self,
        recipe: PretrainConfig,
        architecture: EncoderArchitecture,
        classes: int,
        device: torch.device,
    ) -> None:
        self.recipe, self.architecture = recipe, architecture
        self.rate = recipe.supervised_learning_rate * recipe.batch_size / REFERENCE_BATCH
        self.model = Classifier(architecture, classes).to(device)

    @property
    def encoder(self) -> FFCResNet:
        """The first three stages, as an encoder of their own."""
        a = self.architecture
        encoder = FFCResNet(a.ratio, a.layers, lfu=a.lfu)
        state = self.model.network.state_dict()
        encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("layer4.")})
        return encoder

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum; norms and biases do not decay."""
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        decay = self.recipe.weight_decay
        return torch.optim.SGD(
            groups, lr=self.rate, momentum=0.9, nesterov=True, weight_decay=decay
        )

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy with label smoothing."""
        logits = self.model(images).float()
        return F.cross_entropy(logits, labels.to(logits.device), label_smoothing=LABEL_SMOOTHING)

    @torch.no_grad()
    def figures(self, held_out: Batches) -> dict[str, float]:
        """'loss' (cross entropy), 'top1' and 'top5' accuracy, and the shares of dead channels."""
        self.model.eval()
        loss, top1, top5, count = 0.0, 0, 0, 0
        spread = Agreement()
        for images, labels in held_out:
            features = self.model.network(images)
            # With themselves: their dead channels are all that is looked at.
            spread.add(features[:3], [concatenate(pair) for pair in features[:3]])
            logits = self.model.logits(features).float().cpu()
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
            top1 += int((ranked[:, 0] == labels).sum())
            top5 += int((ranked == labels[:, None]).any(dim=1).sum())
            count += len(labels)
        dead = {k: v for k, v in spread.figures().items() if k.endswith("dead")}
        return {"loss": loss / count, "top1": top1 / count, "top5": top5 / count, **dead}


class Classifier(nn.Module):
    """Four stages, the mean over positions, a linear layer."""

    def __init__(self, architecture: EncoderArchitecture, classes: int) -> None:
        super().__init__()
        a = architecture
        self.network = FFCResNet(a.ratio, a.layers, stages=4, lfu=a.lfu, last_ratio=0.0)
        self.classify = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.logits(self.network(images))

    def logits(self, features: list[Branches]) -> Tensor:
        """Features of the four stages -> logits (B, classes)."""
        return self.classify(concatenate(features[-1]).mean(dim=(2, 3)))


def distillation_loss(
    targets: list[Tensor], features: list[Tensor], cosine_weight: float, l2_weight: float
) -> Tensor:
    """Distance of an encoder's features from a teacher's, the mean over the levels.

    Args:
        targets, features: (B, C_k, H_k, W_k) per level.
        cosine_weight: of the mean cosine distance of the channel vectors.
        l2_weight: of the mean squared difference over the variance of the targets about their
            channels' means: 1 for features that are constant, whatever the level's scale.

    Returns:
        A scalar.
    """
    total = targets[0].new_zeros(())
    for target, feature in zip(targets, features, strict=True):
        t, f = target.float(), feature.float()
        if cosine_weight:
            total = total + cosine_weight * cosine_distance(t, f).mean()
        if l2_weight:
            variance = t.var(dim=(0, 2, 3)).mean()
            total = total + l2_weight * F.mse_loss(f, t) / variance.clamp(min=1e-12)
    return total / len(targets)
