"""The Fourier unit as matrix products, for runtimes whose Fourier transform is slower or missing.

At a fixed size a discrete Fourier transform is a product with a matrix. On the small sides of the
feature maps that is little work beside the convolutions, and every runtime has matrix products.

Shapes: B batch, C channels, H height, W width, K = W//2 + 1 frequencies of a row.
"""

import math

import torch
from torch import Tensor, nn

from ffcad.layers import FourierUnit


class MatrixFourierUnit(nn.Module):
    """What a trained `FourierUnit` computes, for inputs of one size.

    Args:
        unit: whose convolution and norm are used, not copied.
        height, width: of its input.
    """

    def __init__(self, unit: FourierUnit, height: int, width: int) -> None:
        super().__init__()
        self.conv_layer, self.bn, self.relu = unit.conv_layer, unit.bn, unit.relu
        self.height, self.frequencies = height, width // 2 + 1
        rows = _angles(width)[:, : self.frequencies]  # (W, K)
        self._keep("row_real", rows.cos() / math.sqrt(width))
        self._keep("row_imaginary", -rows.sin() / math.sqrt(width))
        # A complex product as a real one, for real parts that lie above the imaginary ones.
        columns = _angles(height)
        cos, sin = columns.cos() / math.sqrt(height), columns.sin() / math.sqrt(height)
        forward = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
        self._keep("column", forward)  # (2H, 2H)
        self._keep("inverse_column", forward.T.contiguous())  # it is orthogonal
        # A real signal's other frequencies mirror these; the first has no mirror image, nor has
        # the last of an even width. Their imaginary parts are dropped, as torch drops them: the
        # sine is 0 there.
        weight = torch.full((self.frequencies, 1), 2.0, dtype=torch.float64)
        weight[0] = 1
        if width % 2 == 0:
            weight[-1] = 1
        self._keep("inverse_row_real", weight * rows.T.cos() / math.sqrt(width))  # (K, W)
        self._keep("inverse_row_imaginary", -weight * rows.T.sin() / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) float32 -> (B, C_out, H, W)."""
        b, c, h, _ = x.shape
        parts = torch.cat([x @ self.row_real, x @ self.row_imaginary], dim=2)  # (B, C, 2H, K)
        # A channel's imaginary part follows its real part, as the convolution expects them.
        spectrum = (self.column @ parts).reshape(b, 2 * c, h, self.frequencies)
        spectrum = self.relu(self.bn(self.conv_layer(spectrum)))  # (B, 2 C_out, H, K)
        parts = self.inverse_column @ spectrum.reshape(b, -1, 2 * h, self.frequencies)
        real, imaginary = parts[:, :, : self.height], parts[:, :, self.height :]
        return real @ self.inverse_row_real + imaginary @ self.inverse_row_imaginary

    def _keep(self, name: str, matrix: Tensor) -> None:
        self.register_buffer(name, matrix.float(), persistent=False)


def _angles(n: int) -> Tensor:
    """2 pi j k / n for j, k below n: (n, n) float64."""
    index = torch.arange(n)
    # Whole turns are taken off while the numbers are whole: sines of large angles lose digits.
    return 2 * math.pi * (torch.outer(index, index) % n).double() / n
