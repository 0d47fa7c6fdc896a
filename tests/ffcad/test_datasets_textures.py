"""Textures: any folder of images, squared without stretching."""

import numpy as np
import pytest
from image_folders import picture, save
from PIL import Image

from ffcad.datasets import DataError, load_textures


def test_all_folders_below_are_read(tmp_path):
    for i, name in enumerate(("a.png", "deep/er/b.JPG", "deep/c.bmp")):
        save(picture(i), tmp_path / "textures" / name)
    assert load_textures(tmp_path / "textures", 16, cache=tmp_path / "c").images.shape == (
        3,
        16,
        16,
        3,
    )


def test_the_central_square_is_taken(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    save(Image.fromarray(wide), tmp_path / "textures/wide.png")
    images = load_textures(tmp_path / "textures", 8, cache=tmp_path / "c").images
    assert (images == (10, 200, 30)).all()


def test_digest_follows_contents_and_size_not_the_folder(tmp_path):
    for folder in ("one", "other"):
        save(picture(1), tmp_path / folder / "a.png")
    save(picture(2), tmp_path / "third/a.png")
    digest = {
        (folder, size): load_textures(tmp_path / folder, size, cache=tmp_path / "c").digest
        for folder in ("one", "other", "third")
        for size in (8, 16)
    }
    assert digest["one", 8] == digest["other", 8]
    assert len({digest["one", 8], digest["one", 16], digest["third", 8]}) == 3


def test_empty_absent_and_damaged_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in it"):
        load_textures(tmp_path / "empty", 8, cache=tmp_path / "c")
    with pytest.raises(DataError, match="does not exist"):
        load_textures(tmp_path / "absent", 8, cache=tmp_path / "c")
    save(picture(1), tmp_path / "bad/a.png")
    (tmp_path / "bad/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"textures .*bad: b\.png cannot be read as an image"):
        load_textures(tmp_path / "bad", 8, cache=tmp_path / "c")
