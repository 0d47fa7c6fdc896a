"""Decoding: whatever the file's form, the same 8-bit RGB; masks that lose nothing."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ffcad.datasets.images import Unreadable, is_image_file, read_mask, read_rgb, resize_mask


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(read_rgb(content))


def test_grey_is_repeated_in_all_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, -1)
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_257(form):
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    content = encoded(Image.fromarray(values), form)
    np.testing.assert_array_equal(pixels(content)[..., 1], np.rint(values / 257))


def test_big_endian_sixteen_bit_tiff():
    image = Image.frombytes("I;16B", (2, 1), np.array([257, 65_535], ">u2").tobytes())
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF"))[0, :, 0], [1, 255])


def test_transparency_is_laid_on_white():
    rgba = np.array([[[200, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(rgba)))[0], [[200, 0, 0], [255, 255, 255], [127, 127, 127]]
    )


def test_grey_with_alpha_and_transparent_palette_colour():
    la = Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8))
    np.testing.assert_array_equal(pixels(encoded(la))[0, :, 0], [90, 255])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(
        pixels(encoded(palette, transparency=1))[0], [[10, 20, 30], [255, 255, 255]]
    )


def test_cmyk_jpeg_keeps_its_colours():
    rgb = Image.new("RGB", (16, 16), (200, 40, 90))
    got = pixels(encoded(rgb.convert("CMYK"), "JPEG", quality=95)).reshape(-1, 3)
    assert np.abs(got.astype(int) - (200, 40, 90)).max() <= 4


def test_exif_orientation_is_applied():
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))  # red, blue
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = pixels(encoded(image, exif=exif))
    assert turned.shape == (2, 1, 3)
    np.testing.assert_array_equal(turned[:, 0], [[255, 0, 0], [0, 0, 255]])


def test_suffixes_count_in_any_case_and_hidden_files_do_not(tmp_path):
    for name in ("a.PNG", "b.JpEg", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_file(p)] == ["a.PNG", "b.JpEg"]


@pytest.mark.parametrize("cut", [0, 20, 100])
def test_damaged_file_is_unreadable(cut):
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    with pytest.raises(Unreadable, match="cannot be read as an image"):
        read_rgb(whole[:cut])


def test_floating_point_and_wide_integers_are_refused():
    with pytest.raises(Unreadable, match="floating-point"):
        read_rgb(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    with pytest.raises(Unreadable, match="more than 16 bits"):
        read_rgb(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"))


def test_every_mask_value_above_0_is_defective():
    values = np.array([[0, 1, 3, 255]], np.uint8)
    np.testing.assert_array_equal(
        read_mask(encoded(Image.fromarray(values))), [[False, True, True, True]]
    )


def test_palette_mask_counts_by_index_even_where_the_colour_is_black():
    mask = Image.new("P", (3, 1))
    mask.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0])
    mask.putdata([0, 1, 2])
    np.testing.assert_array_equal(read_mask(encoded(mask)), [[False, True, True]])


def test_transparent_mask_pixels_are_not_defective():
    rgba = np.array([[[255, 255, 255, 0], [255, 0, 0, 255], [0, 0, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(rgba))), [[False, True, False]])


def test_resized_mask_of_a_large_region_keeps_its_area():
    y, x = np.mgrid[:500, :500]
    mask = np.hypot(y - 240, x - 260) < 120
    assert resize_mask(mask, 128).mean() == pytest.approx(mask.mean(), rel=0.02)


@pytest.mark.parametrize("row", [100, 101, 102, 103])
def test_resized_scratch_thinner_than_a_pixel_stays_one_line(row):
    mask = np.zeros((512, 512), bool)
    mask[row, 50:400] = True
    small = resize_mask(mask, 128)
    assert ndimage.label(small, np.ones((3, 3)))[1] == 1
    assert np.ptp(np.flatnonzero(small.any(0))) >= 85


def test_every_region_of_a_mask_survives_beside_a_large_one():
    mask = np.zeros((512, 512), bool)
    mask[:200, :200] = True
    mask[400, 400] = mask[300, 450] = True
    assert ndimage.label(resize_mask(mask, 64), np.ones((3, 3)))[1] == 3


def test_mask_of_the_right_size_is_unchanged():
    mask = np.random.default_rng(0).random((32, 32)) > 0.5
    np.testing.assert_array_equal(resize_mask(mask, 32), mask)
