"""Image and mask files to arrays of one size, with what is wrong with them.

Whatever the file's form, an image becomes 8-bit RGB: grey is repeated, 16-bit values are divided
by 257 (65535 becomes 255), transparency is laid on white as viewers show it, palettes and CMYK are
converted, the EXIF orientation is applied, and of several frames the first is taken.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from ffcad.datasets.cache import cached
from ffcad.datasets.records import DataError, Decoded, Listing, refuse

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# Pillow's names of what such files hold; it reads more, some with programs of the system.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
THUMBNAIL_SIDE = 64

# Part of every category's digest: raise it when decoding or resizing gives other values.
DECODING_VERSION = 1

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class Unreadable(Exception):
    """What is wrong with a file, to follow its name."""


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; hidden files are none."""
    return sorted(path for path in folder.iterdir() if is_image_file(path))


def is_image_file(path: Path) -> bool:
    """Whether a path is a visible file with an image's suffix, in whatever case."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def resize_image(image: Image.Image, side: int) -> Image.Image:
    """An RGB image as a square; Pillow's BILINEAR averages over all source pixels when it shrinks,
    so nothing is aliased."""
    return image.resize((side, side), Image.Resampling.BILINEAR)


def read_image(path: Path, image_size: int) -> np.ndarray:
    """One image file, decoded and resized as a category's images are.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        DataError: if it is missing or no image, with its name.
    """
    try:
        return np.asarray(resize_image(read_rgb(path.read_bytes()), image_size))
    except OSError as e:
        raise DataError(f"{path}: {e.strerror or e}") from e
    except Unreadable as e:
        raise DataError(f"{path}: {e}") from e


def resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """A mask as a square, in which no defective region vanishes and no thin one breaks.

    A pixel of the result is defective where a region covers more than half of it. A region that
    nowhere covers a whole pixel is measured against the largest cover it reaches instead, so a
    scratch that is thinner than a pixel stays a line, and a dot stays one pixel.

    Args:
        mask: (H, W) bool; its 8-connected regions count one by one.
        side: of the result, pixels.

    Returns:
        (side, side) bool.
    """
    if mask.shape == (side, side):
        return mask
    result = _cover(mask, side) > 0.5
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    for region in range(1, count + 1):
        cover = _cover(regions == region, side)
        result |= cover > 0.5 * cover.max()
    return result


def decode(listing: Listing, image_size: int, cache: Path | None) -> Decoded:
    """Reads the images and masks of a category, or finds them in the cache.

    Raises:
        DataError: for the first file that cannot be used, with the number of the others.
    """

    def build(folder: Path) -> list[tuple[str, str]]:
        return _write(listing, image_size, folder)

    # Where there are problems, nothing is ever built under this key.
    key = [
        "category",
        DECODING_VERSION,
        str(listing.root.resolve()),
        image_size,
        [
            [stamp(listing.root, sample.path), sample.mask and stamp(listing.root, sample.mask)]
            for sample in listing.samples
        ],
        listing.problems,
    ]
    arrays, contents = cached(cache, key, build)
    return Decoded(
        arrays["images"], arrays["masks"], arrays["thumbnails"], [tuple(c) for c in contents]
    )


def stamp(root: Path, name: str) -> list:
    """Name, size and time of change of a file, which tell whether it is still the same."""
    try:
        status = (root / name).stat()
    except OSError:
        return [name, None, None]
    return [name, status.st_size, status.st_mtime_ns]


def new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Makes `name`.npy and maps it for writing.

    Raises:
        OSError: if the disk has no room for it. (Writing to a mapped file on a full disk would
            kill the process.)
    """
    path = folder / f"{name}.npy"
    if 0 in shape:  # nothing to map
        np.save(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def read_rgb(
    content: bytes, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None
) -> Image.Image:
    """Any image file's content as 8-bit RGB, upright.

    Args:
        content: of the file.
        formats: Pillow's names of those that are taken; None takes all that it can read.
        most_pixels: larger images are refused before they are decoded; None leaves it to Pillow.

    Raises:
        Unreadable: if it is damaged, too large, or of a kind that has no 8-bit RGB form.
    """
    with _decoding():
        return to_rgb(_open(content, formats, most_pixels))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any kind as 8-bit RGB.

    Raises:
        ValueError: if its kind has no such form.
    """
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values need more than 16 bits")
        # Rounded, in whole numbers and in place: images may be as large as the memory allows.
        values = values.astype(np.uint32)
        values += 128
        values //= 257
        image = Image.fromarray(values.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its values are floating-point numbers")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(content: bytes) -> np.ndarray:
    """A mask file's content as (H, W) bool: every value, or palette index, above 0 is defective.

    A transparent pixel is not defective.

    Raises:
        Unreadable: if it is damaged.
    """
    with _decoding():
        image = _open(content)
        values = np.asarray(image) != 0
    if image.mode in ("LA", "RGBA"):
        return values[..., :-1].any(-1) & values[..., -1]
    return values.any(-1) if values.ndim == 3 else values


def in_threads(work: Callable[[Any], str | None], items: list[Any]) -> list[str]:
    """Does the work for each item (Pillow lets go of the interpreter's lock) and collects what
    went wrong, in the items' order."""
    with ThreadPoolExecutor() as threads:
        return [problem for problem in threads.map(work, items) if problem]


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what Pillow's decoders raise on a damaged file is not bounded
        reason = "unknown or damaged format" if "cannot identify" in str(error) else error
        raise Unreadable(
            f"cannot be read as an image ({reason}); mend it, save it with 8 bits, or remove it"
        ) from error


def _open(
    content: bytes, formats: tuple[str, ...] | None = None, most_pixels: int | None = None
) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=formats)
    if most_pixels is not None and image.width * image.height > most_pixels:
        raise ValueError(f"its {image.width}x{image.height} pixels are more than {most_pixels:,}")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _cover(mask: np.ndarray, side: int) -> np.ndarray:
    """The share of each pixel of the square that the mask covers."""
    exact = Image.fromarray(mask.astype(np.float32))
    return np.asarray(exact.resize((side, side), Image.Resampling.BOX))


def _write(listing: Listing, image_size: int, folder: Path) -> list[tuple[str, str]]:
    """Decodes into .npy files in the folder; returns the digests of images and masks."""
    n = len(listing.samples)
    rows = {i: row for row, i in enumerate(i for i in range(n) if listing.samples[i].mask)}
    images = new_array(folder, "images", (n, image_size, image_size, 3), np.uint8)
    masks = new_array(folder, "masks", (len(rows), image_size, image_size), np.bool_)
    thumbnails = new_array(folder, "thumbnails", (n, THUMBNAIL_SIDE**2), np.uint8)
    contents = [("", "")] * n

    def one(i: int) -> str | None:
        sample, name = listing.samples[i], listing.samples[i].path
        try:
            content = (listing.root / name).read_bytes()
            image = read_rgb(content)
            images[i] = np.asarray(resize_image(image, image_size))
            thumbnails[i] = thumbnail(image)
            contents[i] = (sha256(content), "")
            if sample.mask:
                name = sample.mask
                mask_content = (listing.root / name).read_bytes()
                masks[rows[i]] = _fitting_mask(mask_content, image, sample.path, image_size)
                contents[i] = (sha256(content), sha256(mask_content))
        except Unreadable as error:
            return f"{name} {error}"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    refuse(f"data root {listing.root}", listing.problems + in_threads(one, list(range(n))))
    return contents


def _fitting_mask(content: bytes, image: Image.Image, path: str, side: int) -> np.ndarray:
    mask = read_mask(content)
    if mask.shape != (image.height, image.width):
        raise Unreadable(
            f"is {mask.shape[1]}x{mask.shape[0]} pixels but its image {path} is "
            f"{image.width}x{image.height}"
        )
    if not mask.any():
        raise Unreadable(
            f"has no pixel above 0 but its image {path} is listed as defective; mend the mask or "
            "move the image to the good ones"
        )
    return resize_mask(mask, side)


def thumbnail(image: Image.Image) -> np.ndarray:
    """(THUMBNAIL_SIDE**2,) uint8 grey values."""
    return np.asarray(resize_image(image.convert("L"), THUMBNAIL_SIDE)).ravel()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
