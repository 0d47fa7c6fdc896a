"""Folders of images that a promotion is given, as users have them."""

import numpy as np
import pytest
from PIL import Image

from ffcad.datasets import DataError
from study.registry.given_images import gate_images, normal_images, refuse_known
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
