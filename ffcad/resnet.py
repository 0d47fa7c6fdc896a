"""ResNet-18's parts with FFC in the blocks (He et al., CVPR 2016; Chi et al., NeurIPS 2020).

Shapes: B batch, C channels, H height, W width; a pair is (local, global), see `ffcad.layers`.
"""

from torch import Tensor, nn

from ffcad.layers import Branches, FFCNormAct


class FFCBlock(nn.Module):
    """A residual block of `layers` FFCs in sequence; two make ResNet-18's basic block.

    Args:
        in_channels, out_channels: of both branches together.
        ratio_in, ratio_out: share of the global branch at the entrance and at the exit.
        layers: number of 3x3 FFCs.
        stride: of the first.
        lfu: whether the FFCs have the local Fourier unit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ratio_in: float,
        ratio_out: float,
        layers: int,
        stride: int = 1,
        lfu: bool = False,
    ) -> None:
        super().__init__()
        self.layers = layers
        for i in range(layers):
            first = i == 0
            layer = FFCNormAct(
                in_channels if first else out_channels,
                out_channels,
                3,
                ratio_in if first else ratio_out,
                ratio_out,
                stride=stride if first else 1,
                padding=1,
                activation=i < layers - 1,
                enable_lfu=lfu,
            )
            self.add_module(f"conv{i + 1}", layer)  # the release's names
        self.downsample = None
        if stride != 1 or in_channels != out_channels or ratio_in != ratio_out:
            self.downsample = FFCNormAct(
                in_channels,
                out_channels,
                1,
                ratio_in,
                ratio_out,
                stride=stride,
                activation=False,
                enable_lfu=lfu,
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Branches) -> Branches:
        """Pair of (B, C, H, W) -> pair of (B, C', H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        for i in range(self.layers):
            x = getattr(self, f"conv{i + 1}")(x)
        return tuple(
            None if out is None else self.relu(out + skip)
            for out, skip in zip(x, identity, strict=True)
        )


def ffc_stage(
    in_channels: int,
    out_channels: int,
    ratio_in: float,
    ratio_out: float,
    layers: int,
    stride: int = 1,
    lfu: bool = False,
) -> nn.Sequential:
    """Two blocks, of which the first changes size, channels and ratio."""
    return nn.Sequential(
        FFCBlock(in_channels, out_channels, ratio_in, ratio_out, layers, stride, lfu),
        FFCBlock(out_channels, out_channels, ratio_out, ratio_out, layers, 1, lfu),
    )


class FFCResNet(nn.Module):
    """ResNet-18's stem and its first stages, with FFC in the blocks.

    With `stages=4, last_ratio=0.0` it is the FFC release's `ffc_resnet18` without its classifier;
    with ratio 0 and two layers it is torchvision's `resnet18`.

    Args:
        ratio: share of the global branch; layer1 has none at its entrance.
        layers: FFCs per block.
        channels: of the first stage; each further stage has twice as many.
        stages: 3 or 4.
        lfu: whether the FFCs have the local Fourier unit.
        last_ratio: the fourth stage's ratio at its exit; `ratio` unless given.
    """

    def __init__(
        self,
        ratio: float,
        layers: int = 2,
        channels: int = 64,
        stages: int = 3,
        lfu: bool = False,
        last_ratio: float | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = stages
        self.architecture = dict(
            ratio=ratio,
            layers=layers,
            channels=channels,
            stages=stages,
            lfu=lfu,
            last_ratio=last_ratio,
        )
        before, before_ratio = channels, 0.0
        for i in range(stages):
            out_ratio = ratio if i < 3 or last_ratio is None else last_ratio
            after = channels * 2**i
            stage = ffc_stage(
                before, after, before_ratio, out_ratio, layers, 1 if i == 0 else 2, lfu
            )
            self.add_module(f"layer{i + 1}", stage)
            before, before_ratio = after, out_ratio
        initialise(self)

    def forward(self, x: Tensor) -> list[Branches]:
        """Images (B, 3, H, W) -> one pair per stage, at 1/4, 1/8, ... of the sides."""
        pair: Branches = (self.maxpool(self.relu(self.bn1(self.conv1(x)))), None)
        features = []
        for i in range(self.stages):
            pair = getattr(self, f"layer{i + 1}")(pair)
            features.append(pair)
        return features


def initialise(module: nn.Module) -> None:
    """He initialisation of the convolutions, as in ResNet and the FFC release."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def conv_norm_act(c_in: int, c_out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )
