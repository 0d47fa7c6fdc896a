"""Matrix products give what the Fourier unit gives, at sizes of all kinds."""

import pytest
import torch

from ffcad.layers import FourierUnit
from ffcad.matrix_fourier import MatrixFourierUnit


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (16, 5), (1, 6), (5, 1), (2, 2)])
def test_it_computes_what_the_unit_computes(height, width, groups):
    torch.manual_seed(0)
    unit = FourierUnit(4, 6, groups).eval()
    unit.bn.running_mean.normal_()
    unit.bn.running_var.uniform_(0.5, 2)
    x = torch.randn(3, 4, height, width)
    with torch.no_grad():
        expected, found = unit(x), MatrixFourierUnit(unit, height, width)(x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_unit_that_changes_nothing_gives_the_input_back():
    """The inverse transform is the forward one's inverse, imaginary parts included."""
    unit = FourierUnit(2, 2).eval()
    unit.relu = torch.nn.Identity()
    with torch.no_grad():
        unit.conv_layer.weight.copy_(torch.eye(4)[..., None, None])
        unit.bn.eps = 0.0
        x = torch.randn(1, 2, 9, 12)
        torch.testing.assert_close(MatrixFourierUnit(unit, 9, 12)(x), x)
