"""Folders of images that a promotion is given, as users have them."""

import numpy as np
import pytest
from PIL import Image

from ffcad.datasets import DataError, load_category
from study.registry.given_images import gate_images, normal_images, refuse_known
from study.registry.retraining import read_additions
from study.registry.scoring import digest


def write(folder, number, seed=0, mode="RGB"):
    """Images of random pixels, as PNG."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(number):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}{'_mask' * (mode == 'L')}.png")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "good", 4)
    write(tmp_path / "scratch", 3, seed=1)
    return tmp_path


def test_a_folder_of_both_kinds_decides_with_masks_or_without(folder):
    split = gate_images(folder, 16)
    assert (len(split), int(split.labels.sum()), split.masks) == (7, 3, None)
    write(folder / "ground_truth" / "scratch", 3, seed=2, mode="L")
    assert gate_images(folder, 16).masks.shape == (7, 16, 16)


def test_one_kind_alone_decides_nothing(folder):
    with pytest.raises(DataError, match=r"--gate-data .*good: 4 normal and 0 defective images"):
        gate_images(folder / "good", 16)


def test_training_is_on_normal_images_alone(folder):
    assert len(normal_images(folder / "good", 16)) == 4
    with pytest.raises(DataError, match=r"--normal-images .*: 3 images lie in folders of defects"):
        normal_images(folder, 16)


def test_a_whole_category_of_mvtec_is_told_which_of_its_folders_to_give(tmp_path):
    write(tmp_path / "train" / "good", 2)
    with pytest.raises(DataError, match=r"--gate-data .*MVTec AD layout; give its folder test"):
        gate_images(tmp_path, 16)
    with pytest.raises(DataError, match=r"--normal-images .*MVTec .*; give its folder train$"):
        normal_images(tmp_path, 16)
    assert len(normal_images(tmp_path / "train", 16)) == 2


def test_what_cannot_be_read_is_said_with_its_flag(folder):
    (folder / "good" / "torn.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^--gate-data: .*torn\.png"):
        gate_images(folder, 16)
    with pytest.raises(DataError, match=r"^--normal-images: .*none"):
        normal_images(folder / "none", 16)


def test_images_that_a_model_knows_are_named(folder):
    split = gate_images(folder, 16)
    refuse_known(folder, split, ["another"])
    known = [digest(image) for image in split.images]
    with pytest.raises(DataError, match=r"1 of 7 images trained, .* the model: \S*\.png; take"):
        refuse_known(folder, split, known[:1])
    with pytest.raises(DataError, match=r"7 of 7 .*: (\S+, ){4}\S+ and 2 more; take them out"):
        refuse_known(folder, split, known)


def burst(folder, number):
    """One frame again and again, but for a pixel."""
    frame = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for i in range(number):
        frame[0, 0] = 3 * i
        Image.fromarray(frame).save(folder / f"burst_{number}_{i}.png")


def test_frames_that_are_nearly_alike_calibrate_together_or_not_at_all(tmp_path):
    data = load_category("synthetic", None, "dial", 32)
    write(tmp_path / "normal", 8)
    burst(tmp_path / "normal", 3)
    burst(tmp_path / "normal", 9)
    additions = read_additions(tmp_path / "normal", data)
    assert (len(additions.trained), len(additions.kept_out)) == (16, 4)
    for number in (3, 9):
        parts = [
            sum(f"burst_{number}_" in path for path in part.paths)
            for part in (additions.trained, additions.kept_out)
        ]
        assert sorted(parts) == [0, number]
    assert additions.contents() == sorted(set(additions.contents()))


def test_one_frame_again_and_again_calibrates_nothing(tmp_path):
    data = load_category("synthetic", None, "dial", 32)
    (tmp_path / "normal").mkdir()
    burst(tmp_path / "normal", 9)
    with pytest.raises(DataError, match="too many of the 9 new images are one frame again"):
        read_additions(tmp_path / "normal", data)
