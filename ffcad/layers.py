"""Fast Fourier Convolution (Chi, Jiang, Mu: "Fast Fourier Convolution", NeurIPS 2020).

Arguments, parameter names and arithmetic are those of the authors' release, so its state dicts
load unchanged. What differs, all outside what the release can do: an absent branch is None (there
it is the integer 0), any height and width works, and the Fourier unit stays in float32 under
autocast, because half-precision FFTs exist for powers of two on CUDA alone.

Shapes: B batch, C channels, H height, W width. A pair (local, global) of feature maps is a
`Branches`; either may be None.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Input channels from which on oneDNN's strided 1x1 convolutions are sound, see StridedPointwise.
SOUND_CHANNELS = 16

Branches = tuple[Tensor | None, Tensor | None]


def global_channels(channels: int, ratio: float) -> int:
    """Channels of the global branch: `channels` times `ratio`, rounded down as in the release."""
    return int(channels * ratio)


def concatenate(branches: Branches) -> Tensor:
    """Local and global channels in one tensor, local first."""
    present = [x for x in branches if x is not None]
    return present[0] if len(present) == 1 else torch.cat(present, dim=1)


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride that picks its pixels first and then takes each of them.

    What it computes is what Conv2d does. On the CPU, the gradient of such a convolution's weights
    is computed by oneDNN, which writes past the end of its workspace where pixels lie in
    channels-last order and have fewer channels than a vector register holds: 16 with AVX-512, 8
    with AVX2 (uxlfoundation/oneDNN#6035; found in 3.13.3). Without a stride it has no workspace.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x = x[..., :: self.stride[0], :: self.stride[1]]
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


class FourierUnit(nn.Module):
    """A 1x1 convolution in the frequency domain: every output pixel sees the whole input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        groups: groups of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(
            in_channels * 2, out_channels * 2, kernel_size=1, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels * 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), in the input's type."""
        with torch.autocast(x.device.type, enabled=False):
            return self.transform(x.float()).to(x.dtype)

    def transform(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), float32, where no autocast is on."""
        b, c, h, w = x.shape
        spectrum = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))  # (B, C, H, W//2+1, 2)
        # The release keeps a channel's real and imaginary part side by side.
        spectrum = spectrum.permute(0, 1, 4, 2, 3).reshape(b, 2 * c, h, w // 2 + 1)
        spectrum = self.relu(self.bn(self.conv_layer(spectrum)))  # (B, 2 C_out, H, W//2+1)
        spectrum = spectrum.reshape(b, -1, 2, h, w // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        return torch.fft.irfft2(torch.view_as_complex(spectrum), s=(h, w), norm="ortho")


class SpectralTransform(nn.Module):
    """The global-to-global path: pooling, 1x1 convolution, Fourier units, 1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; half of them inside.
        stride: 1 or 2; 2 averages 2x2 windows, the last ones of odd sides over what is there.
        groups: groups of the convolutions.
        enable_lfu: whether the local Fourier unit is there: it sees the four quarters of a quarter
            of the channels, so that it relates pixels half an image apart.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        groups: int = 1,
        enable_lfu: bool = True,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        if hidden == 0:
            raise ValueError(
                f"the global branch needs at least 2 output channels but got {out_channels}; "
                "raise global_ratio or the number of channels"
            )
        if enable_lfu and hidden % 4:
            raise ValueError(
                "the local Fourier unit needs global output channels divisible by 8 but got "
                f"{out_channels}; change global_ratio or switch local_fourier_unit off"
            )
        # ceil_mode keeps the size of the 3x3 stride-2 convolutions of the other paths: ceil(H/2).
        self.downsample = (
            nn.AvgPool2d(2, stride=2, ceil_mode=True) if stride == 2 else nn.Identity()
        )
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=1, groups=groups, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.fu = FourierUnit(hidden, hidden, groups)
        self.lfu = FourierUnit(hidden, hidden, groups) if enable_lfu else None
        self.conv2 = nn.Conv2d(hidden, out_channels, kernel_size=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x = self.conv1(self.downsample(x))
        out = x + self.fu(x)
        if self.lfu is not None:
            out = out + self._local(x)
        return self.conv2(out)

    def _local(self, x: Tensor) -> Tensor:
        """The local Fourier unit's answer, tiled over the four quarters: (B, C, H, W).

        The release splits the sides in two, which needs even sides (and equal ones). Elsewhere the
        quarters overlap by the middle row or column, and the tiles are cut to size.
        """
        _, c, h, w = x.shape
        half_h, half_w = (h + 1) // 2, (w + 1) // 2
        quarter = x[:, : c // 4]
        top, bottom = quarter[..., :half_h, :], quarter[..., h - half_h :, :]
        rows = torch.cat([top, bottom], dim=1)  # (B, C/2, ceil(H/2), W)
        left, right = rows[..., :half_w], rows[..., w - half_w :]
        quarters = torch.cat([left, right], dim=1)  # (B, C, ceil(H/2), ceil(W/2))
        return self.lfu(quarters).repeat(1, 1, 2, 2)[..., :h, :w]


class FFC(nn.Module):
    """Fast Fourier Convolution: four paths between a local and a global branch.

    Args:
        in_channels, out_channels: of both branches together.
        kernel_size, padding, dilation, bias: of the three spatial paths.
        ratio_gin, ratio_gout: share of the global branch at the entrance and at the exit, [0, 1].
        stride: 1 or 2.
        groups: groups of the convolutions.
        enable_lfu: whether the global path has the local Fourier unit.

    Raises:
        ValueError: if `stride` or a ratio is not allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        enable_lfu: bool = True,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2 but got {stride}")
        for name, ratio in (("ratio_gin", ratio_gin), ("ratio_gout", ratio_gout)):
            if not 0 <= ratio <= 1:
                raise ValueError(f"{name} must be within 0 and 1 but got {ratio}")
        in_g = global_channels(in_channels, ratio_gin)
        out_g = global_channels(out_channels, ratio_gout)
        in_l, out_l = in_channels - in_g, out_channels - out_g

        def convolution(c_in: int, c_out: int) -> nn.Conv2d | None:
            if c_in == 0 or c_out == 0:
                return None
            pick_first = kernel_size == 1 and stride > 1 and c_in // groups < SOUND_CHANNELS
            kind = StridedPointwise if pick_first and padding == 0 else nn.Conv2d
            return kind(
                c_in, c_out, kernel_size, stride, padding, dilation, groups=groups, bias=bias
            )

        self.convl2l = convolution(in_l, out_l)
        self.convl2g = convolution(in_l, out_g)
        self.convg2l = convolution(in_g, out_l)
        self.convg2g = None
        if in_g and out_g:
            spectral_groups = 1 if groups == 1 else groups // 2
            self.convg2g = SpectralTransform(in_g, out_g, stride, spectral_groups, enable_lfu)

    def forward(self, x: Branches) -> Branches:
        """Pair of (B, C, H, W), either None -> pair of (B, C', H', W'), either None."""
        local, global_ = x
        return (
            _sum(self.convl2l, local, self.convg2l, global_),
            _sum(self.convl2g, local, self.convg2g, global_),
        )


def _sum(
    first: nn.Module | None, x: Tensor | None, second: nn.Module | None, y: Tensor | None
) -> Tensor | None:
    terms = [f(t) for f, t in ((first, x), (second, y)) if f is not None]
    return sum(terms[1:], terms[0]) if terms else None


class FFCNormAct(nn.Module):
    """FFC, batch normalisation per branch, and optionally ReLU (the release's `FFC_BN_ACT`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        *,
        stride: int = 1,
        padding: int = 0,
        activation: bool = True,
        enable_lfu: bool = False,
    ) -> None:
        super().__init__()
        self.ffc = FFC(
            in_channels,
            out_channels,
            kernel_size,
            ratio_gin,
            ratio_gout,
            stride,
            padding,
            enable_lfu=enable_lfu,
        )
        out_g = global_channels(out_channels, ratio_gout)
        self.bn_l = nn.BatchNorm2d(out_channels - out_g) if out_channels > out_g else None
        self.bn_g = nn.BatchNorm2d(out_g) if out_g else None
        self.act = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, x: Branches) -> Branches:
        """Pair of (B, C, H, W) -> pair of (B, C', H', W')."""
        local, global_ = self.ffc(x)
        return (
            None if self.bn_l is None else self.act(self.bn_l(local)),
            None if self.bn_g is None else self.act(self.bn_g(global_)),
        )
