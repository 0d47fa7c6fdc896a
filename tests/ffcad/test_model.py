"""The detector: its size, its frozen part, HSAS, the comparison of features, any input size."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ffcad.config import TrainConfig
from ffcad.layers import FFC
from ffcad.model import (
    FFCAD,
    HSAS,
    SegmentationHead,
    cosine_distance,
    feature_product,
    image_scores,
)
from ffcad.resnet import FFCBlock

# Parts as counted for Table 10's 30 M parameters and "40 G FLOPs": millions of parameters, and
# 1e9 multiply-accumulates at 256x256.
PAPER = {
    "encoder": (2.31, 1.6),
    "autoencoder.encoder": (9.23, 2.0),
    "autoencoder.decoder": (10.89, 2.4),
    "head": (7.70, 31.3),
}
SIZES = [(33, 47), (65, 63)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def parameters(parts: list[nn.Module]) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.slow
def test_parameters_and_multiply_accumulates_are_the_papers():
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = FFCAD(TrainConfig()).eval()
        model(torch.zeros(1, 3, 256, 256))
    decoder = [getattr(model.autoencoder, f"decoder{i}") for i in (1, 2, 3, 4)]
    parts = {
        "encoder": [model.encoder],
        "autoencoder.encoder": [model.autoencoder.encoder],
        "autoencoder.decoder": decoder,
        "head": [model.head],
    }
    macs = {name: sum(counts.values()) / 2 for name, counts in counter.flop_counts.items()}
    names = {
        "encoder": ["FFCAD.encoder"],
        "autoencoder.encoder": ["FFCAD.autoencoder.encoder"],
        "autoencoder.decoder": [f"FFCAD.autoencoder.decoder{i}" for i in (1, 2, 3, 4)],
        "head": ["FFCAD.head"],
    }
    for part, (millions, billions) in PAPER.items():
        assert parameters(parts[part]) / 1e6 == pytest.approx(millions, rel=0.03)
        assert sum(macs[n] for n in names[part]) / 1e9 == pytest.approx(billions, rel=0.05)
    assert parameters([model]) / 1e6 == pytest.approx(30.1, rel=0.03)
    assert macs["FFCAD"] / 1e9 == pytest.approx(37.2, rel=0.05)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_ffc_layers_are_convolutions_in_sequence_in_each_block(tiny, layers):
    with torch.device("meta"):
        model = FFCAD(replace(tiny, ffc_layers=layers))
    for side in (model.encoder, model.autoencoder):
        blocks = [m for m in side.modules() if isinstance(m, FFCBlock)]
        assert len(blocks) == (6 if side is model.encoder else 16)
        for block in blocks:
            main = [m for n, m in block.named_modules() if isinstance(m, FFC) and "down" not in n]
            assert len(main) == layers
    # The head's blocks are plain ones of two in every architecture.
    assert sum(isinstance(m, FFC) for m in model.head.blocks.modules()) == 5


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("lfu", [False, True])
def test_any_image_size_goes_through(tiny, height, width, lfu):
    """Both sides agree on every level, whose sides are a quarter, ... rounded up."""
    model = FFCAD(replace(tiny, local_fourier_unit=lfu)).eval()
    x = noise(2, 3, height, width)
    with torch.no_grad():
        encoded, reconstructed, maps = model.encoder(x), model.autoencoder(x), model(x)
    for k, channels, a, b in zip((4, 8, 16), (64, 128, 256), encoded, reconstructed, strict=True):
        assert a.shape == b.shape == (2, channels, -(-height // k), -(-width // k))
    assert maps.shape == model.discrepancy(x).shape == (2, height, width)
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("changes", [dict(ffc_encoder=False), dict(ffc_autoencoder=False)])
@pytest.mark.parametrize("channels", [16, 64])
def test_the_sides_meet_whatever_their_inner_parts(tiny, changes, channels):
    model = FFCAD(replace(tiny, autoencoder_channels=channels, **changes)).eval()
    x = noise(1, 3, 32, 32)
    with torch.no_grad():
        shapes = [[f.shape for f in side(x)] for side in (model.encoder, model.autoencoder)]
    assert shapes[0] == shapes[1] == [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    units = [any("fu." in n for n in side.state_dict()) for side in model.children()]
    assert units == [changes.get(k, True) for k in ("ffc_encoder", "ffc_autoencoder")] + [False]


def test_the_bottleneck_keeps_both_branches(tiny):
    """Unlike the release's fourth stage, which ends with the local one alone."""
    bottleneck = FFCAD(tiny).autoencoder.encoder(noise(2, 3, 32, 32))[3]
    assert [branch.shape[1] for branch in bottleneck] == [64, 64]


def test_the_frozen_encoder_stays_frozen_in_training(tiny):
    model = FFCAD(tiny).train()
    assert not any(m.training for m in model.encoder.modules())
    assert all(m.training for m in model.autoencoder.modules())
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    features = model.encoder(noise(2, 3, 32, 32).requires_grad_())
    assert not any(f.requires_grad for f in features)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


def test_the_head_pools_at_the_papers_rates_and_starts_undecided():
    head = SegmentationHead(64).train()
    assert [branch[0].dilation for branch in head.pooling.atrous] == [(6, 6), (12, 12), (18, 18)]
    assert head.blocks[0].conv1.ffc.convl2l.in_channels == 448
    logits = head(noise(4, 448, 16, 16) / 448**0.5)
    assert logits.shape == (4, 1, 16, 16)
    # Logits of a spread of 10 would be certain, and mostly wrong, before the first step.
    assert 0.1 < logits.std() < 3


def test_hsas_drops_whole_channels_of_a_sample_in_both_branches():
    hsas = HSAS("2d", 0.4).train()
    pair = (noise(6, 80, 3, 5), noise(6, 40, 3, 5, seed=1))
    dropped = hsas(pair, seeded())
    for before, after in zip(pair, dropped, strict=True):
        kept = (after == before).all(dim=(2, 3))
        assert ((after == 0).all(dim=(2, 3)) | kept).all()  # nothing else, no rescaling
        assert kept.float().mean() == pytest.approx(0.6, abs=0.1)
        assert (kept != kept[:1]).any()  # each sample has its own


def test_hsas_1d_drops_elements_by_themselves():
    hsas = HSAS("1d", 0.4).train()
    pair = (noise(4, 30, 6, 5), noise(4, 20, 6, 5, seed=1))
    for before, after in zip(pair, hsas(pair, seeded()), strict=True):
        kept = after == before
        assert ((after == 0) | kept).all()
        assert kept.float().mean() == pytest.approx(0.6, abs=0.05)
        for dims in ((2, 3), (1,)):  # neither a whole channel nor a whole position
            assert not kept.all(dim=dims).any()
            assert kept.any(dim=dims).all()


@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_hsas_at_its_ends_in_evaluation_and_switched_off(kind):
    pair = (noise(3, 16, 4, 4), None)

    def same(hsas: HSAS) -> bool:
        local, global_ = hsas(pair, seeded())
        return torch.equal(local, pair[0]) and global_ is None

    assert same(HSAS(kind, 0.0).train())
    assert (HSAS(kind, 1.0).train()(pair, seeded())[0] == 0).all()
    assert same(HSAS(kind, 1.0).eval())
    assert same(HSAS("none", 1.0).train())


@pytest.mark.slow
def test_hsas_with_probability_0_drops_nothing_even_where_the_draw_is_0():
    """A float32 draw is exactly 0 once in 2**24."""
    shape = (1, 1, 2**12, 2**13)
    assert (torch.rand(shape, generator=seeded(1)) == 0).any()
    assert HSAS("1d", 0.0).train()((torch.ones(shape), None), seeded(1))[0].all()


@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_hsas_is_a_function_of_its_generator(kind):
    hsas, pair = HSAS(kind, 0.5).train(), (torch.ones(3, 16, 4, 4), torch.ones(3, 16, 4, 4))
    first, again, other = (hsas(pair, seeded(s)) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])  # the branches are dropped independently


def test_hsas_acts_on_the_bottleneck_and_only_in_training(tiny):
    autoencoder = FFCAD(replace(tiny, hsas="2d", hsas_probability=1.0)).autoencoder
    x, other = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    autoencoder.eval()
    with torch.no_grad():
        assert not torch.equal(autoencoder(x)[2], autoencoder(other)[2])
        autoencoder.hsas.train()  # all is dropped: the decoder sees nothing of the image
        assert torch.equal(autoencoder(x, seeded())[2], autoencoder(other, seeded())[2])


def test_the_product_of_features_is_a_cosine_taken_apart():
    encoded = [noise(2, 64, 8, 6), noise(2, 128, 4, 3), noise(2, 256, 2, 2)]
    other = [noise(*f.shape, seed=1) for f in encoded]
    product = feature_product(encoded, other)
    assert product.shape == (2, 448, 8, 6)
    cosine = torch.cosine_similarity(encoded[0], other[0])
    torch.testing.assert_close(product[:, :64].sum(dim=1), cosine)
    torch.testing.assert_close(cosine_distance(encoded[0], other[0]), 1 - cosine)
    # Lengths of the vectors do not count, and equal features sum to one on every level.
    torch.testing.assert_close(feature_product([7 * f for f in encoded], other), product)
    levels = feature_product(encoded, encoded).split((64, 128, 256), dim=1)
    for level in levels:
        torch.testing.assert_close(level.sum(dim=1), torch.ones(2, 8, 6))
    assert (feature_product([0 * f for f in encoded], other) == 0).all()


def test_the_discrepancy_is_nothing_where_the_sides_agree(tiny):
    model = FFCAD(tiny).eval()
    model.autoencoder = model.encoder
    maps = model.discrepancy(noise(2, 3, 32, 48))
    torch.testing.assert_close(maps, torch.zeros(2, 32, 48), atol=1e-5, rtol=0)


def test_the_image_score_is_the_mean_of_the_highest_pixels():
    maps = torch.tensor([[[0.1, 0.9], [0.5, 0.3]], [[0.2, 0.2], [0.2, 0.6]]])
    torch.testing.assert_close(image_scores(maps, 1), torch.tensor([0.9, 0.6]))
    torch.testing.assert_close(image_scores(maps, 2), torch.tensor([0.7, 0.4]))
    torch.testing.assert_close(image_scores(maps, 4), torch.tensor([0.45, 0.3]))
