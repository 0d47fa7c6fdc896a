"""The memory of a space's largest configuration: which that is, where it is kept, and, on a GPU,
whether it is what fits take."""

import dataclasses

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ffcad.config import TrainConfig
from study.fits import Fit
from study.gpu_memory import keep_peak, kept_peak, largest_configuration, measure_peak
from study.packing import OUTSIDE_BYTES, Peak, chosen_share, keep_to_share
from study.spaces import checked
from study.storage import Storage


def test_the_largest_configuration_of_a_search_has_every_knob_at_its_dearest():
    search = {
        "batch_size": IntDistribution(2, 16),
        "global_ratio": FloatDistribution(0.0, 0.75),
        "precision": CategoricalDistribution(("bfloat16", "float32")),
        "hsas": CategoricalDistribution(("none", "2d")),
    }
    largest = largest_configuration(checked("mine", "why?", search, {"image_size": 64}))
    assert (largest.image_size, largest.batch_size, largest.global_ratio) == (64, 16, 0.75)
    assert largest.precision == "float32"


def test_that_of_a_grid_is_at_least_as_large_as_each_cell():
    cells = {"deep": {"ffc_layers": 3, "global_ratio": 0.25}, "wide": {"global_ratio": 0.75}}
    largest = largest_configuration(checked("mine", "why?", {}, {}, cells=cells))
    assert (largest.ffc_layers, largest.global_ratio) == (3, 0.75)


def test_what_was_measured_is_known_for_that_kind_of_gpu_and_configuration_alone(tmp_path):
    storage, config = Storage(tmp_path), TrainConfig()
    peak = Peak("NVIDIA A100-SXM4-40GB", 42_400.0, 9_000.0)
    assert kept_peak(storage, peak.gpu, peak.total_mb, config) is None
    keep_peak(storage, peak, config)
    assert kept_peak(storage, peak.gpu, peak.total_mb, config) == peak
    assert kept_peak(storage, "NVIDIA T4", peak.total_mb, config) is None
    assert kept_peak(storage, peak.gpu, 80_000.0, config) is None
    larger = dataclasses.replace(config, batch_size=16)
    assert kept_peak(storage, peak.gpu, peak.total_mb, larger) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")
def test_a_fit_of_the_largest_configuration_finds_room_in_the_share_that_was_chosen(
    make_context, first_fit, tmp_path
):
    context = make_context(tmp_path, "--set image_size=128 --set batch_size=8")
    largest = largest_configuration(context.study.search_space())
    peak = measure_peak(context.study, largest.to_dict())
    free, total = torch.cuda.mem_get_info()
    # What the cap leaves for it suffices; other programs must be off this GPU.
    assert total - free - torch.cuda.memory_reserved() < OUTSIDE_BYTES
    share = chosen_share([peak], [{"CPU": 64.0, "GPU": 1.0}], 1)
    assert share < 0.5
    configuration, case = first_fit(context)
    keep_to_share(share)
    try:
        fit = Fit(context, 0, configuration, case)
        list(fit.run())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fit.record.status == "finished"
    assert fit.record.peak_memory_mb < peak.peak_mb


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it can be measured")
def test_without_a_gpu_nothing_is_measured(make_context, tmp_path):
    study = make_context(tmp_path).study
    largest = largest_configuration(study.search_space())
    with pytest.raises((RuntimeError, AssertionError)):
        measure_peak(study, largest.to_dict())
