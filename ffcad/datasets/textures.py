"""Source textures for simulated anomalies: any folder of images."""

from pathlib import Path

import numpy as np

from ffcad.datasets.cache import cached, digest_of
from ffcad.datasets.images import (
    DECODING_VERSION,
    Unreadable,
    in_threads,
    is_image_file,
    new_array,
    read_rgb,
    resize_image,
    sha256,
    stamp,
)
from ffcad.datasets.records import DataError, Textures, refuse


def load_textures(folder: Path, image_size: int, *, cache: Path | None = None) -> Textures:
    """Reads all images below a folder, or finds them in the cache.

    Each is cropped to its central square, so that nothing is stretched, and resized.

    Args:
        folder: searched with all its subfolders.
        image_size: side of the result, pixels.
        cache: folder of the decoded images; None takes FFCAD_CACHE, else ~/.cache/ffcad.

    Raises:
        DataError: if the folder has no image, or one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"textures {folder} {'is not a folder' if folder.exists() else 'does not exist'}"
        )
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if is_image_file(p))
    if not paths:
        raise DataError(f"textures {folder}: no image in it; give a folder of images or none")

    def build(entry: Path) -> list[str]:
        return _write(folder, paths, image_size, entry)

    stamps = [stamp(folder, path) for path in paths]
    key = ["textures", DECODING_VERSION, str(folder.resolve()), image_size, stamps]
    arrays, contents = cached(cache, key, build)
    return Textures(arrays["images"], digest_of([DECODING_VERSION, image_size, contents]))


def _write(folder: Path, paths: list[str], image_size: int, entry: Path) -> list[str]:
    images = new_array(entry, "images", (len(paths), image_size, image_size, 3), np.uint8)
    contents = [""] * len(paths)

    def one(i: int) -> str | None:
        try:
            content = (folder / paths[i]).read_bytes()
            image = read_rgb(content)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            images[i] = np.asarray(resize_image(square, image_size))
            contents[i] = sha256(content)
        except Unreadable as error:
            return f"{paths[i]} {error}"
        except OSError as error:
            return f"{paths[i]} cannot be read ({error.strerror})"
        return None

    refuse(f"textures {folder}", in_threads(one, list(range(len(paths)))))
    return contents
