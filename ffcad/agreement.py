"""How well an encoder's features agree with its teacher's, per level and per branch.

Of each level, of its local and of its global channels:

    cosine    mean over positions of the cosine between the two channel vectors
    cka       linear centred kernel alignment over positions (Kornblith et al., ICML 2019): 1 where
              one is a rotation of the other, whatever the mean; channels need not correspond
    explained 1 minus the squared difference over the teacher's variance, all channels together
    dead      share of the encoder's channels that are constant over all positions and images

Features behind a ReLU are never negative, so even unrelated ones have a cosine far above 0; the
other two do not.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.layers import Branches, concatenate

# A channel whose deviation is below this share of its level's is constant.
DEAD = 1e-4


class Agreement:
    """Sums over batches from which the figures follow; nothing of a batch is kept."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []

    def add(self, features: list[Branches], targets: list[Tensor]) -> None:
        """Takes a batch in.

        Args:
            features: of the encoder, a pair per level.
            targets: of the teacher, (B, C_k, H_k, W_k) per level.
        """
        if not self._levels:
            self._levels = [_Level(pair, t) for pair, t in zip(features, targets, strict=True)]
        for level, pair, target in zip(self._levels, features, targets, strict=True):
            level.add(concatenate(pair), target)

    def figures(self) -> dict[str, float]:
        """'level1_cosine', 'level1_global_cka', ...; an encoder without a global branch has no
        figures of branches."""
        result: dict[str, float] = {}
        for k, level in enumerate(self._levels, start=1):
            result |= {f"level{k}_{name}": value for name, value in level.figures().items()}
        return result


class _Level:
    """One level's sums: of vectors, of their products, of cosines. In float64."""

    def __init__(self, pair: Branches, target: Tensor) -> None:
        channels, local = target.shape[1], 0 if pair[0] is None else pair[0].shape[1]
        self.parts = {"": slice(0, channels)}
        if 0 < local < channels:
            self.parts |= {"local_": slice(0, local), "global_": slice(local, channels)}
        zeros = torch.zeros(channels, channels, dtype=torch.float64)
        self.xx, self.yy, self.xy = zeros.clone(), zeros.clone(), zeros.clone()
        self.x, self.y = zeros[0].clone(), zeros[0].clone()
        self.positions = 0
        self.cosines = dict.fromkeys(self.parts, 0.0)

    def add(self, features: Tensor, target: Tensor) -> None:
        for name, part in self.parts.items():
            cosine = F.cosine_similarity(features[:, part].float(), target[:, part].float(), dim=1)
            self.cosines[name] += cosine.double().sum().item()
        x, y = _vectors(features), _vectors(target)
        self.x += x.sum(0).cpu()
        self.y += y.sum(0).cpu()
        self.xx += (x.T @ x).cpu()
        self.yy += (y.T @ y).cpu()
        self.xy += (x.T @ y).cpu()
        self.positions += len(x)

    def figures(self) -> dict[str, float]:
        n = self.positions
        xx = self.xx / n - torch.outer(self.x, self.x) / n**2
        yy = self.yy / n - torch.outer(self.y, self.y) / n**2
        xy = self.xy / n - torch.outer(self.x, self.y) / n**2
        error = (self.xx.diag() - 2 * self.xy.diag() + self.yy.diag()) / n
        spread = xx.diag().clamp(min=0).sqrt()
        alive = spread > DEAD * yy.diag().clamp(min=0).mean().sqrt()
        result = {}
        for name, p in self.parts.items():
            scale = (xx[p, p].norm() * yy[p, p].norm()).item()
            variance = yy.diag()[p].sum().item()
            result |= {
                f"{name}cosine": self.cosines[name] / n,
                f"{name}cka": (xy[p, p].norm() ** 2).item() / scale if scale > 0 else 0.0,
                f"{name}explained": 1 - error[p].sum().item() / variance if variance > 0 else 0.0,
                f"{name}dead": 1 - alive[p].double().mean().item(),
            }
        return result


def _vectors(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), float64."""
    return x.detach().permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()


@torch.no_grad()
def measure(encoder: nn.Module, teacher: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """The figures of an encoder over batches of normalised images (B, 3, H, W), in eval mode.

    Args:
        encoder: gives a pair per level, as `FFCResNet`; left in the mode it came in.
        teacher: the same, in eval mode.
        batches: on the device of both.
    """
    training = encoder.training
    encoder.eval()
    agreement = Agreement()
    for images in batches:
        agreement.add(encoder(images)[:3], [concatenate(pair) for pair in teacher(images)[:3]])
    encoder.train(training)
    return agreement.figures()
