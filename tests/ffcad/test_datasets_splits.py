"""The protocols: what is trained, selected and reported on."""

from collections import Counter

import numpy as np
import pytest
from image_folders import SIDE, mvtec, picture, save
from PIL import Image

from ffcad.datasets import DataError, load_category
from ffcad.datasets.duplicates import near_duplicates


@pytest.fixture
def load(tmp_path):
    def load_nut(root, **options):
        return load_category("mvtec", root, "nut", SIDE, cache=tmp_path / "cache", **options)

    return load_nut


def nudged(seed: int, step: int) -> Image.Image:
    """A further frame of the same picture: nearly equal, not equal."""
    noise = np.random.default_rng([seed, step]).integers(-4, 5, (SIDE, SIDE, 3))
    pixels = np.asarray(picture(seed)).astype(int) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def kinds(split) -> Counter:
    return Counter(split.defect_types)


def test_holdout_halves_each_type_and_shares_nothing(load, tmp_path):
    root = mvtec(tmp_path / "data", good=11, defects={"bent": 8, "cut": 7, "hole": 1})
    data = load(root)
    assert not set(data.select.paths) & set(data.report.paths)
    assert len(data.select) + len(data.report) == 27
    for name in ("good", "bent", "cut", "hole"):
        assert abs(kinds(data.select)[name] - kinds(data.report)[name]) <= 1
    assert abs(data.select.labels.sum() - data.report.labels.sum()) <= 1


def test_holdout_depends_on_the_seed_alone(load, tmp_path):
    root = mvtec(tmp_path / "data")
    assert load(root).digest == load(root).digest
    splits = {tuple(load(root, split_seed=seed).select.paths) for seed in range(5)}
    assert len(splits) > 1
    sizes = {
        tuple(load_category("mvtec", root, "nut", s, cache=tmp_path / "cache").select.paths)
        for s in (16, 48)
    }
    assert sizes == {tuple(load(root).select.paths)}


def test_one_image_of_each_of_two_types_goes_to_different_halves(load, tmp_path):
    root = mvtec(tmp_path / "data", good=2, defects={"bent": 1, "cut": 1})
    for seed in range(8):
        data = load(root, split_seed=seed)
        assert data.select.labels.sum() == data.report.labels.sum() == 1


def test_near_duplicates_stay_together_good_with_defective(load, tmp_path):
    root = mvtec(tmp_path / "data", good=10, defects={"bent": 10})
    for i in range(0, 10, 2):  # every second good image has a burst of which one frame is bent
        save(nudged(1000 + i, 1), root / f"nut/test/good/{i + 1:03d}.png")
        save(nudged(1000 + i, 2), root / f"nut/test/bent/{i:03d}.png")
    for seed in range(4):
        data = load(root, split_seed=seed)
        halves = [set(data.select.paths), set(data.report.paths)]
        for i in range(0, 10, 2):
            burst = {
                f"nut/test/good/{i:03d}.png",
                f"nut/test/good/{i + 1:03d}.png",
                f"nut/test/bent/{i:03d}.png",
            }
            assert any(burst <= half for half in halves)
        assert abs(kinds(data.select)["bent"] - kinds(data.report)["bent"]) <= 2


def test_types_go_to_one_half_whole_and_goods_are_halved(load, tmp_path):
    root = mvtec(tmp_path / "data", good=9, defects={"a": 4, "b": 4, "c": 4, "d": 4})
    partitions = set()
    for seed in range(6):
        data = load(root, holdout="types", split_seed=seed)
        select, report = (set(kinds(s)) - {"good"} for s in (data.select, data.report))
        assert not select & report
        assert len(select) == len(report) == 2
        assert abs(kinds(data.select)["good"] - kinds(data.report)["good"]) == 1
        partitions.add(frozenset(select))
    assert len(partitions) > 1


def test_types_needs_two_types(load, tmp_path):
    root = mvtec(tmp_path / "data", defects={"bent": 6})
    with pytest.raises(DataError, match=r"at least two defect types but got bent; use .*'halves'"):
        load(root, holdout="types")


def test_types_linked_by_near_duplicates_stay_together(load, tmp_path):
    root = mvtec(tmp_path / "data", defects={"a": 3, "b": 3, "c": 3})
    save(nudged(2000, 1), root / "nut/test/b/000.png")  # a frame of a/000 again
    for seed in range(4):
        data = load(root, holdout="types", split_seed=seed)
        assert {"a", "b"} in [set(kinds(s)) - {"good"} for s in (data.select, data.report)]


def test_paper_selects_and_reports_on_the_whole_test_split(load, tmp_path):
    data = load(mvtec(tmp_path / "data"), select_on="paper")
    assert len(data.report) == 14
    assert data.select.paths == data.report.paths


def test_protocols_have_different_digests_and_paper_ignores_the_seed(load, tmp_path):
    root = mvtec(tmp_path / "data", train=20)
    digests = {load(root, select_on=p).digest for p in ("holdout", "synthetic", "paper")}
    assert len(digests) == 3
    assert load(root, select_on="paper", split_seed=9).digest in digests


def test_synthetic_selects_on_training_images_it_does_not_train_on(load, tmp_path):
    root = mvtec(tmp_path / "data", train=30)
    data = load(root, select_on="synthetic")
    n = 6
    assert len(data.train) == 24
    assert kinds(data.select) == {"good": n, "simulated": n}
    assert not set(data.select.paths) & set(data.train.paths)
    assert all(path.startswith("nut/train/good/") for path in data.select.paths)
    assert data.select.paths[n:] == [f"{path}#simulated" for path in data.select.paths[:n]]
    assert len(data.report) == 14
    assert {path.split("/")[1] for path in data.report.paths} == {"test"}


def test_simulated_anomalies_change_the_image_inside_their_masks_only(load, tmp_path):
    select = load(mvtec(tmp_path / "data", train=30), select_on="synthetic").select
    normal, anomalous = select.images[:6], select.images[6:]
    masks = select.masks[6:]
    assert not select.masks[:6].any()
    assert masks.any((1, 2)).all()
    assert len({mask.tobytes() for mask in masks}) == 6
    np.testing.assert_array_equal(normal[~masks], anomalous[~masks])
    assert (normal[masks] != anomalous[masks]).mean() > 0.8


def test_simulated_anomalies_are_the_same_every_time(load, tmp_path):
    root = mvtec(tmp_path / "data", train=30)
    one, other = (load(root, select_on="synthetic").select for _ in range(2))
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.masks, other.masks)


def test_synthetic_holds_out_at_least_four_and_whole_bursts(load, tmp_path):
    root = mvtec(tmp_path / "data", train=12)
    for i in range(0, 12, 2):
        save(nudged(i, 1), root / f"nut/train/good/{i + 1:03d}.png")
    data = load(root, select_on="synthetic")
    held_out = {int(path.split("/")[-1][:3]) for path in data.select.paths[:4]}
    assert len(data.train) == 8
    assert held_out == {i for pair in held_out for i in (pair // 2 * 2, pair // 2 * 2 + 1)}


def test_synthetic_needs_eight_training_images(load, tmp_path):
    with pytest.raises(DataError, match=r"7 normal training images.*use --select-on holdout"):
        load(mvtec(tmp_path / "data", train=7), select_on="synthetic")


def test_test_split_that_cannot_be_halved_says_what_to_do(load, tmp_path):
    with pytest.raises(DataError, match=r"1 good, 8 defective.*use --select-on synthetic"):
        load(mvtec(tmp_path / "data", good=1))
    with pytest.raises(DataError, match=r"6 good, 1 defective.*use --select-on synthetic"):
        load(mvtec(tmp_path / "one", defects={"bent": 1}))


@pytest.mark.parametrize("option", [{"select_on": "test"}, {"holdout": "thirds"}])
def test_unknown_protocol_lists_those_there_are(load, tmp_path, option):
    with pytest.raises(DataError, match=r"must be one of .* but got"):
        load(mvtec(tmp_path / "data"), **option)


def test_test_images_that_resemble_training_images_are_noted(load, tmp_path):
    root = mvtec(tmp_path / "data")
    assert load(root).notes == ()
    save(nudged(3, 1), root / "nut/test/good/002.png")
    assert any(note.startswith("1 of 6 normal test images") for note in load(root).notes)


def thumbnails(count: int, pixels: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (count, pixels)).astype(np.uint8)


def test_brightness_and_contrast_do_not_hide_a_near_duplicate():
    different = thumbnails(5)
    brighter = (different[2] * 0.5 + 90).astype(np.uint8)
    groups = near_duplicates(np.concatenate([different, brighter[None]]))
    assert len(set(groups)) == 5
    assert groups[2] == groups[5]


def test_a_burst_is_one_group_even_if_its_ends_differ():
    rng = np.random.default_rng(1)
    frames = [thumbnails(1)[0].astype(float)]
    for _ in range(3):
        frames.append(frames[-1] + rng.normal(0, 4.5, 4096))
    rows = np.clip(frames, 0, 255).astype(np.uint8)
    assert np.corrcoef(rows[0], rows[3])[0, 1] < 0.99
    assert len(set(near_duplicates(rows))) == 1


def test_aligned_objects_of_one_look_do_not_chain_into_one_group():
    rng = np.random.default_rng(2)
    common = thumbnails(1)[0]
    aligned = np.clip(common + rng.normal(0, 3, (60, 4096)), 0, 255).astype(np.uint8)
    assert np.corrcoef(aligned)[0, 1] > 0.99
    again = np.clip(aligned[7] + rng.normal(0, 0.4, 4096), 0, 255).astype(np.uint8)
    groups = near_duplicates(np.concatenate([aligned, again[None]]))
    assert len(set(groups)) > 50
    assert groups[7] == groups[60]


def test_constant_images_are_duplicates_of_one_another_only():
    rows = np.concatenate([thumbnails(3), np.zeros((2, 4096), np.uint8)])
    groups = near_duplicates(rows)
    assert len(set(groups)) == 4
    assert groups[3] == groups[4]
