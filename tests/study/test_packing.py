"""How many trials share a GPU, with plain numbers."""

import os

import pytest
import torch

from study.packing import (
    Peak,
    chosen_share,
    fits_on_one,
    gpus_of_trial,
    keep_to_share,
    larger_share,
    share_of,
    trials_on,
)


def peak(total, needed, gpu="A"):
    return Peak(gpu=gpu, total_mb=total, peak_mb=needed)


@pytest.mark.parametrize("fits", range(1, 40))
def test_as_many_shares_as_were_counted_fit_on_a_gpu_and_no_more(fits):
    share = share_of(fits)
    assert fits * share <= 1
    assert fits_on_one(share) == fits
    # Ray counts in units of 1e-4.
    assert share * 10_000 == pytest.approx(round(share * 10_000), abs=1e-9)


@pytest.mark.parametrize(
    ("total", "needed", "share"),
    [
        (80_000, 5_000, share_of(13)),
        (80_000, 35_000, 1.0),  # Two would have no head room.
        (80_000, 34_000, 0.5),
        (16_000, 15_000, 1.0),
        (16_000, 16_000, 1.0),
    ],
)
def test_the_share_has_head_room_over_the_measured_peak(total, needed, share):
    assert chosen_share([peak(total, needed)], [{"CPU": 100, "GPU": 1}], cpus=1) == share


def test_the_smallest_of_several_kinds_decides():
    peaks = [peak(80_000, 5_000), peak(16_000, 4_000, "B")]
    assert chosen_share(peaks, [{"CPU": 100, "GPU": 4}], cpus=1) == share_of(3)


def test_no_more_share_a_gpu_than_a_node_has_cores_for():
    nodes = [{"CPU": 8, "GPU": 1}, {"CPU": 16}]
    assert chosen_share([peak(80_000, 5_000)], nodes, cpus=2) == 0.25
    assert chosen_share([peak(80_000, 5_000)], [{"CPU": 1, "GPU": 1}], cpus=2) == 1.0


@pytest.mark.parametrize(
    ("had", "gets"),
    [(0.25, 0.5), (0.5, 1.0), (share_of(3), 1.0), (share_of(7), share_of(3)), (0.6, 1.0)],
)
def test_a_larger_share_is_one_that_half_as_many_have(had, gets):
    assert larger_share(had) == gets


@pytest.mark.parametrize("had", [0.0, 1.0, 2.0])
def test_no_share_is_larger_than_a_whole_gpu(had):
    assert larger_share(had) is None


@pytest.mark.parametrize(
    ("gpus", "larger", "has"),
    [(0.25, None, 0.25), (0.25, 0.5, 0.5), (1.0, 0.5, 1.0), (0.0, 0.5, 0.0)],
)
def test_a_trial_that_came_back_in_another_sitting_has_no_less_than_the_others(gpus, larger, has):
    assert gpus_of_trial(gpus, larger) == has


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "trials"),
    [
        ({"CPU": 8}, 3, 0.0, 2),
        ({"CPU": 8, "GPU": 2}, 1, 0.4, 4),  # Two on each: no trial has parts of two GPUs.
        ({"CPU": 8, "GPU": 3}, 1, 2, 1),
        ({"CPU": 3, "GPU": 2}, 1, 0.25, 3),
        ({"CPU": 8}, 1, 0.5, 0),
        ({"GPU": 1}, 1, 1, 0),
    ],
)
def test_trials_of_a_node_are_counted_as_ray_places_them(node, cpus, gpus, trials):
    assert trials_on(node, cpus, gpus) == trials


@pytest.mark.parametrize(("share", "visible"), [(0.0, ""), (1.0, "0"), (2.0, "0")])
def test_who_has_no_share_sees_no_gpu(share, visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    keep_to_share(share)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_process_that_wants_more_than_its_share_runs_out_of_memory():
    total = torch.cuda.get_device_properties(0).total_memory
    keep_to_share(0.25)
    try:
        torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
