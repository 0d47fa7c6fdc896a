"""Small image folders in the layouts that `ffcad.datasets` reads, for its tests."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """An image that resembles no other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def save_mask(path: Path, size: tuple[int, int] = (SIDE, SIDE), value: int = 255) -> Path:
    """A mask with a square of 6 pixels at (4, 4)."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[4:10, 4:10] = value
    return save(Image.fromarray(mask), path)


def mvtec(
    root: Path,
    category: str = "nut",
    *,
    train: int = 10,
    good: int = 6,
    defects: dict[str, int] | None = None,
    masks: bool = True,
) -> Path:
    """A category in the MVTec AD layout; returns the root."""
    base = root / category
    for i in range(train):
        save(picture(i), base / f"train/good/{i:03d}.png")
    for i in range(good):
        save(picture(1000 + i), base / f"test/good/{i:03d}.png")
    for k, (name, count) in enumerate((defects or {"bent": 4, "cut": 4}).items()):
        for i in range(count):
            save(picture(2000 + 100 * k + i), base / f"test/{name}/{i:03d}.png")
            if masks:
                save_mask(base / f"ground_truth/{name}/{i:03d}_mask.png")
    return root
