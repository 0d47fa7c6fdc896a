"""FFC-AD: frozen encoder, denoising autoencoder with HSAS, segmentation head (section 3.2).

Shapes: B batch, H and W the image's sides. Level k = 1, 2, 3 has (64, 128, 256)[k-1] channels at
1/4, 1/8, 1/16 of the sides (rounded up). Images are RGB, normalised with ImageNet's statistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffcad.config import TrainConfig
from ffcad.layers import Branches, concatenate
from ffcad.resnet import FFCResNet, conv_norm_act, ffc_stage, initialise

LEVEL_CHANNELS = (64, 128, 256)
ATROUS_RATES = (6, 12, 18)


class FrozenEncoder(FFCResNet):
    """The reference side of the comparison: three stages of full width that never change."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config.encoder_ratio, config.ffc_layers, lfu=config.local_fourier_unit)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in eval mode: its batch norms use the statistics that came with the weights."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> features of the three levels, local and global concatenated."""
        return [concatenate(pair) for pair in super().forward(x)]


class HSAS(nn.Module):
    """Hidden Space Anomaly Simulation (Algorithm 1): drops hidden features in training.

    Kept features are not rescaled, unlike in a dropout layer. A feature is dropped where
    r < p with r uniform in [0, 1), so p = 0 drops nothing and p = 1 everything.

    Args:
        kind: 'none'; '2d' drops whole channels of a sample; '1d' drops elements of each position's
            channel vector, independently.
        probability: of a drop, p.
    """

    def __init__(self, kind: str, probability: float) -> None:
        super().__init__()
        self.kind = kind
        self.probability = probability

    def forward(self, x: Branches, generator: torch.Generator | None = None) -> Branches:
        """Pair of (B, C, H, W) -> the same with zeros; unchanged in eval mode.

        Args:
            x: both branches of the bottleneck.
            generator: a CPU generator, so that every device draws the same numbers.
        """
        if not self.training or self.kind == "none":
            return x
        return tuple(None if part is None else self._drop(part, generator) for part in x)

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        b, c, h, w = x.shape
        shape = (b, c, 1, 1) if self.kind == "2d" else (b, c, h, w)
        keep = torch.rand(shape, generator=generator) >= self.probability
        return x * keep.to(x.device, x.dtype)


class DenoisingAutoencoder(nn.Module):
    """Reconstructs the features that the frozen encoder has of the image without its anomaly.

    An encoder of four stages whose fourth keeps both branches, HSAS, and a decoder of four stages:
    one at the bottleneck's size, and three that first upsample to the next level's size.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        ratio, layers = config.autoencoder_ratio, config.ffc_layers
        lfu, width = config.local_fourier_unit, config.autoencoder_channels
        self.encoder = FFCResNet(ratio, layers, width, stages=4, lfu=lfu)
        self.hsas = HSAS(config.hsas, config.hsas_probability)
        inner = [width * m for m in (8, 8, 4, 2, 1)]
        for i in range(4):
            stage = ffc_stage(inner[i], inner[i + 1], ratio, ratio, layers, lfu=lfu)
            self.add_module(f"decoder{4 - i}", stage)
        # Where the inner width is not the frozen encoder's, a 1x1 convolution meets its channels.
        self.project = nn.ModuleList(
            nn.Identity() if width == 64 else nn.Conv2d(width * m, c, 1)
            for m, c in zip((1, 2, 4), LEVEL_CHANNELS, strict=True)
        )
        initialise(self)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Images (B, 3, H, W) -> reconstructed features of the three levels, shallow first.

        Args:
            x: images, anomalous ones in training.
            generator: for HSAS.
        """
        skips = self.encoder(x)
        sizes = [concatenate(pair).shape[-2:] for pair in skips[:3]]
        pair = self.decoder4(self.hsas(skips[3], generator))
        features = []
        for level in (3, 2, 1):
            pair = tuple(
                None
                if part is None
                else F.interpolate(
                    part, size=sizes[level - 1], mode="bilinear", align_corners=False
                )
                for part in pair
            )
            pair = getattr(self, f"decoder{level}")(pair)
            features.insert(0, self.project[level - 1](concatenate(pair)))
        return features


class AtrousPooling(nn.Module):
    """Atrous spatial pyramid pooling: three dilated convolutions and the image's mean, fused."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.atrous = nn.ModuleList(
            conv_norm_act(channels, channels, 3, rate) for rate in ATROUS_RATES
        )
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm_act(channels, channels, 1))
        self.fuse = conv_norm_act((len(ATROUS_RATES) + 1) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mean = self.mean(x).expand(-1, -1, *x.shape[-2:])
        return self.fuse(torch.cat([mean, *(branch(x) for branch in self.atrous)], dim=1))


class SegmentationHead(nn.Module):
    """Products of normalised features (448 channels) -> logits of the anomaly mask.

    Two plain residual blocks, atrous pooling (rates 6, 12, 18) and two convolutions: the layout of
    DeSTSeg (Zhang et al., CVPR 2023), whose parameter count is the one that the paper's total fits.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = ffc_stage(sum(LEVEL_CHANNELS), channels, 0.0, 0.0, layers=2)
        self.pooling = AtrousPooling(channels)
        self.mask = nn.Sequential(*conv_norm_act(channels, channels, 3), nn.Conv2d(channels, 1, 1))
        initialise(self)
        # He's fan_out of a single output channel would start with logits of a spread of 14.
        nn.init.xavier_normal_(self.mask[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 448, H/4, W/4) -> logits (B, 1, H/4, W/4)."""
        local, _ = self.blocks((x, None))
        return self.mask(self.pooling(local))


class FFCAD(nn.Module):
    """The whole detector. `forward` is what inspects; training calls the parts."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = FrozenEncoder(config)
        self.autoencoder = DenoisingAutoencoder(config)
        self.head = SegmentationHead(config.head_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> anomaly maps (B, H, W) in [0, 1]."""
        logits = self.head(feature_product(self.encoder(images), self.autoencoder(images)))
        return self._to_image(logits.float().sigmoid(), images)

    def discrepancy(self, images: Tensor) -> Tensor:
        """Anomaly maps without the head: mean cosine distance of the levels, (B, H, W) in [0, 2].

        What stage one is evaluated with, when the head has not been trained.
        """
        levels = [
            self._to_image(cosine_distance(a, b)[:, None], images)
            for a, b in zip(self.encoder(images), self.autoencoder(images), strict=True)
        ]
        return torch.stack(levels).mean(dim=0)

    @staticmethod
    def _to_image(maps: Tensor, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0]


def image_scores(maps: Tensor, pixels: int) -> Tensor:
    """Mean of the `pixels` highest values of each map: (B, H, W) -> (B,); 1 is the maximum."""
    return maps.flatten(1).topk(pixels, dim=1).values.mean(dim=1)


def feature_product(encoded: list[Tensor], reconstructed: list[Tensor]) -> Tensor:
    """The head's input: products of the two sides' unit feature vectors.

    Args:
        encoded, reconstructed: three levels of (B, C_k, H_k, W_k).

    Returns:
        (B, 448, H_1, W_1); the deeper levels are upsampled bilinearly.
    """
    size = encoded[0].shape[-2:]
    return torch.cat(
        [
            F.interpolate(unit(a) * unit(b), size=size, mode="bilinear", align_corners=False)
            for a, b in zip(encoded, reconstructed, strict=True)
        ],
        dim=1,
    )


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the channel vectors: (B, C, H, W) twice -> (B, H, W)."""
    return 1 - (unit(a) * unit(b)).sum(dim=1)


def unit(x: Tensor) -> Tensor:
    """Channel vectors of length one, in float32; a zero vector stays zero."""
    return F.normalize(x.float(), dim=1)
