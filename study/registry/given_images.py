"""Folders of images that are given to a promotion: those that decide, and more normal ones."""

from collections.abc import Collection
from pathlib import Path

from ffcad.datasets import DataError, Split, load_images
from study.registry.scoring import known_paths

# So many images are named in a message.
NAMED = 5


def gate_images(folder: Path, image_size: int) -> Split:
    """All images of a folder that are to decide.

    Args:
        folder: `good/` and a folder for each type of defect, `ground_truth/` if there are masks.
        image_size: pixels.

    Raises:
        DataError: if it cannot be read, or has no normal or no defective image.
    """
    instead = "its folder test (with ground_truth/ in it, else pixel AP is not compared)"
    split = _images("--gate-data", folder, image_size, instead)
    if split.labels.all() or not split.labels.any():
        raise DataError(
            f"--gate-data {folder}: {(~split.labels).sum()} normal and {split.labels.sum()} "
            "defective images; a comparison needs both: good/ and a folder for each defect type"
        )
    return split


def normal_images(folder: Path, image_size: int) -> Split:
    """All images of a folder that are to be trained on.

    Args:
        folder: of normal images, directly in it or in `good/`.
        image_size: pixels.

    Raises:
        DataError: if it cannot be read, or has a defective image.
    """
    split = _images("--normal-images", folder, image_size, "its folder train")
    if split.labels.any():
        raise DataError(
            f"--normal-images {folder}: {split.labels.sum()} images lie in folders of defects; "
            "training is on normal images alone, give a folder that holds no others"
        )
    return split


def refuse_known(folder: Path, split: Split, digests: Collection[str]) -> None:
    """Refuses images of `--gate-data` that a model was made of.

    Raises:
        DataError: it names some of them.
    """
    if not (twice := known_paths(split, digests)):
        return
    named = ", ".join(str(path) for path in twice[:NAMED])
    more = f" and {len(twice) - NAMED} more" if len(twice) > NAMED else ""
    raise DataError(
        f"--gate-data {folder}: {len(twice)} of {len(split)} images trained, chose or calibrated "
        f"the model: {named}{more}; take them out, or give images that the study never had"
    )


def _images(flag: str, folder: Path, image_size: int, instead: str) -> Split:
    if (folder / "train" / "good").is_dir():
        raise DataError(f"{flag} {folder} is a category of the MVTec AD layout; give {instead}")
    try:
        return load_images(folder, image_size)
    except DataError as e:
        raise DataError(f"{flag}: {e}") from e
