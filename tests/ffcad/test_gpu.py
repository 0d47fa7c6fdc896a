"""What only a CUDA device can show: half precision, FFTs of odd sides in it, resuming there."""

from dataclasses import replace

import pytest
import torch

from ffcad.anomalies import simulate_anomalies
from ffcad.layers import FFC, FourierUnit
from ffcad.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (14, 14)])
def test_ffts_of_any_size_work_under_autocast(dtype, height, width):
    """cuFFT has half precision for powers of two alone, and no bfloat16."""
    ffc = FFC(16, 16, 3, 0.5, 0.5, padding=1).cuda()
    x = torch.randn(2, 8, height, width, device="cuda", dtype=dtype)
    with torch.autocast("cuda", dtype):
        local, global_ = ffc((x, x))
        unit = FourierUnit(8, 8).cuda().eval()
        assert torch.equal(unit(x), unit(x.float()).to(dtype))
    (local.float().sum() + global_.float().sum()).backward()
    assert all(p.grad.isfinite().all() for p in ffc.parameters())


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_both_stages_train_in_every_precision(tiny, dial, precision, channels_last):
    config = replace(tiny, device="cuda", precision=precision, channels_last=channels_last)
    *_, final = train(replace(config, ffc_encoder=False), dial)
    assert final.model.head.mask[-1].weight.is_cuda
    assert all(p.isfinite().all() for p in final.model.parameters())
    assert 0 <= final.metrics["report_pixel_auroc"] <= 1


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_training_ends_close_to_a_whole_one(tiny, dial, tmp_path, precision):
    """Close, not equal: CUDA's sums have no fixed order. The scaler's state goes on as well."""
    config = replace(
        tiny, device="cuda", precision=precision, ffc_encoder=False, ffc_layers=1, evaluate_every=2
    )
    whole = [p.loss for p in train(config, dial)]
    steps = train(config, dial, checkpoint=tmp_path / "checkpoint.pt")
    for _ in range(4):
        next(steps)
    steps.close()
    rest = [p.loss for p in train(config, dial, checkpoint=tmp_path / "checkpoint.pt")]
    assert rest == pytest.approx(whole[4:], rel=0.02)


def test_a_gpu_sees_the_same_anomalies_as_a_cpu():
    images = torch.rand(8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    results = [
        simulate_anomalies(images.to(device), torch.Generator().manual_seed(1), probability=1.0)
        for device in ("cpu", "cuda")
    ]
    assert results[1][0].is_cuda
    # A pixel whose noise is at the threshold may fall on either side.
    assert (results[0][1] != results[1][1].cpu()).float().mean() < 1e-3
    assert (results[0][0] - results[1][0].cpu()).abs().mean() < 1e-3
