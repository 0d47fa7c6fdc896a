"""Counting, against counts made another way and against the paper's figures."""

import pytest
import torch
from torch import nn

from ffcad.config import TrainConfig
from ffcad.cost import Cost, ffc_cost, iteration_macs, model_cost
from ffcad.model import FFCAD

SMALL = dict(autoencoder_channels=16, head_channels=8)


@pytest.fixture(scope="module")
def paper() -> Cost:
    return model_cost(TrainConfig())


def test_defaults_have_the_papers_size(paper: Cost):
    assert paper.parameters == pytest.approx(30.1e6, rel=0.03)
    assert paper.macs == pytest.approx(37.2e9, rel=0.05)
    encoder, autoencoder, head = paper.parts
    assert [p.name for p in paper.parts] == ["encoder", "autoencoder", "head"]
    assert encoder.macs == pytest.approx(1.6e9, rel=0.05)
    assert autoencoder.macs == pytest.approx(4.4e9, rel=0.05)
    assert head.macs == pytest.approx(31.3e9, rel=0.01)


def test_parts_and_stages_add_up(paper: Cost):
    for whole in (paper, *paper.parts):
        assert whole.parameters == sum(part.parameters for part in whole.parts)
        assert whole.macs == sum(part.macs for part in whole.parts)
    assert [s.name for s in paper.parts[0].parts] == ["stem", "layer1", "layer2", "layer3"]
    assert "encoder.stem" in [s.name for s in paper.parts[1].parts]


@pytest.mark.parametrize(
    "knobs",
    [
        dict(image_size=64, **SMALL),
        dict(image_size=50, ffc_layers=1, local_fourier_unit=True, **SMALL),
        dict(image_size=64, global_ratio=0.0, ffc_layers=3, autoencoder_channels=24),
    ],
)
def test_counts_are_those_of_a_real_forward_pass(knobs: dict):
    config = TrainConfig(**knobs)
    model = FFCAD(config).eval()
    macs = 0

    def add(conv: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    before = torch.random.get_rng_state()
    cost = model_cost(config)
    assert cost.macs == macs
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert torch.equal(before, torch.random.get_rng_state()), "counting draws no random numbers"


def test_an_iteration_computes_what_its_stage_needs(paper: Cost):
    encoder, autoencoder, head = (part.macs for part in paper.parts)
    one, two = iteration_macs(TrainConfig())
    assert one - encoder == 3 * autoencoder
    assert two - encoder - autoencoder == 3 * head


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_table_1_has_the_parameters_of_an_ffc_without_local_fourier_unit(alpha: float):
    cost = ffc_cost(64, 128, 3, alpha, side=16)
    assert cost.parameters == cost.table_parameters
    assert cost.parameter_term == pytest.approx(3 / 2)
    with_lfu = ffc_cost(64, 128, 3, alpha, side=16, lfu=True)
    assert with_lfu.parameter_term == pytest.approx(5 / 2)


def test_table_1_formulas_by_hand():
    cost = ffc_cost(64, 64, 3, 0.5, side=32)
    assert cost.standard_parameters == 64 * 64 * 9
    assert cost.table_parameters == 27_648 + 2_048  # 3/4 of it, and 16 (32 + 96)
    assert cost.table_macs == (27_648 + 16 * (32 + 52)) * 32 * 32


def test_table_1_macs_are_short_of_the_count():
    # A half for the last 1x1 convolution, and W/2 + 1 of W columns in the frequency domain.
    assert ffc_cost(64, 64, 3, 0.5, side=32).mac_term == pytest.approx(1 + 1 / 32)
    assert ffc_cost(64, 64, 3, 0.5, side=256).mac_term == pytest.approx(1 + 1 / 256)


def test_without_a_global_branch_an_ffc_is_a_convolution():
    cost = ffc_cost(8, 16, 5, 0.0, side=7)
    assert cost.parameters == cost.standard_parameters == cost.table_parameters
    assert cost.macs == cost.standard_macs == cost.table_macs
    assert cost.parameter_term is None
    assert cost.mac_term is None


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel must be odd but got 4"):
        ffc_cost(8, 8, 4, 0.5, side=8)
