"""The embedded data set: four made surfaces, seeded, for trying everything without any image.

Every image is drawn at 256 pixels and resized like a file's, so its content does not depend on the
image size. The same numbers come out in every run on a machine; on another one a pixel may differ
by the last bit, which is why an image's digest is made of its name and not of its pixels.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ffcad.datasets.cache import cached, digest_of
from ffcad.datasets.duplicates import seeded_hash
from ffcad.datasets.images import new_array, resize_image, resize_mask, thumbnail
from ffcad.datasets.records import GOOD, Decoded, Listing, Sample
from ffcad.datasets.scenes import SCENES

# Part of every digest: raise it when the scenes draw other pixels.
SCENES_VERSION = 2

_TRAIN, _TEST, _PER_DEFECT = 60, 24, 9
_GREY_NOISE = 0.012
_SEED = 1


def categories() -> list[str]:
    """The surfaces, sorted."""
    return sorted(SCENES)


def listing(category: str) -> Listing:
    """60 normal images to train on; 24 normal and 9 of each of four defects to test on."""
    parts = [("train", GOOD, _TRAIN), ("test", GOOD, _TEST)]
    parts += [("test", defect, _PER_DEFECT) for defect in SCENES[category][1]]
    samples = [
        Sample(
            f"{category}/{role}/{defect}/{i:03d}.png",
            role,
            defect,
            None if defect == GOOD else f"{category}/ground_truth/{defect}/{i:03d}_mask.png",
        )
        for role, defect, count in parts
        for i in range(count)
    ]
    return Listing(Path(), samples, has_masks=True)


def decode(category: str, image_size: int, cache: Path | None) -> Decoded:
    """Draws the images and masks of a category, or finds them in the cache."""
    samples = listing(category).samples

    def build(folder: Path) -> None:
        _write(category, samples, image_size, folder)

    arrays, _ = cached(cache, ["synthetic", SCENES_VERSION, category, image_size], build)
    contents = [
        tuple(digest_of([SCENES_VERSION, name]) if name else "" for name in (s.path, s.mask))
        for s in samples
    ]
    return Decoded(arrays["images"], arrays["masks"], arrays["thumbnails"], contents)


def draw(category: str, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(256, 256, 3) uint8 image and (256, 256) bool mask, which depend on the path alone."""
    rng = np.random.default_rng(seeded_hash(_SEED, sample.path))
    defect = None if sample.defect_type == GOOD else sample.defect_type
    image, mask = SCENES[category][0](rng, defect)
    # Light from one side, exposure, and the camera's noise.
    side = image.shape[0]
    slope = np.linspace(-0.5, 0.5, side)
    shade = 1 + rng.uniform(-0.06, 0.06)
    shade = shade + rng.normal(0, 0.05) * slope + rng.normal(0, 0.05) * slope[:, None]
    image = image * shade[..., None] + _GREY_NOISE * rng.standard_normal((side, side, 1))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask


def _write(category: str, samples: list[Sample], image_size: int, folder: Path) -> None:
    n, side = len(samples), image_size
    images = new_array(folder, "images", (n, side, side, 3), np.uint8)
    thumbnails = new_array(folder, "thumbnails", (n, 64 * 64), np.uint8)
    defective = [i for i in range(n) if samples[i].mask]
    masks = new_array(folder, "masks", (len(defective), side, side), np.bool_)

    def one(i: int) -> None:
        pixels, mask = draw(category, samples[i])
        image = Image.fromarray(pixels)
        images[i] = np.asarray(resize_image(image, side))
        thumbnails[i] = thumbnail(image)
        if samples[i].mask:
            masks[defective.index(i)] = resize_mask(mask, side)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(one, range(n)))
