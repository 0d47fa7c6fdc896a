"""A plain folder of one's own images. What it holds is read from its shape:

    ROOT/*.png                       one category, named after the folder, all images normal
    ROOT/good/*.png                  one category; every other folder is a type of defect;
    ROOT/<defect type>/*.png         "normal" and "ok" are other names for "good"
    ROOT/ground_truth/<defect type>/<stem>_mask.png      masks, optional
    ROOT/<category>/good/*.png       a category for each folder that is of the second shape

A fifth of the normal images is kept for testing, drawn by a seeded hash, with near-duplicates kept
together; the others train.
"""

from pathlib import Path

from ffcad.datasets.images import image_files
from ffcad.datasets.mvtec import folder_samples, with_masks
from ffcad.datasets.records import GOOD, DataError, Listing

_GOOD_NAMES = ("good", "normal", "ok")
_TRUTH = "ground_truth"


def categories(root: Path) -> list[str]:
    """The root's own name where it is one category, else its categories' names, sorted."""
    flat, good = bool(image_files(root)), _good_folder(root)
    if flat and good:
        raise DataError(
            f"data root {root} holds images directly and in {good.name}/; move the former into a "
            "folder of their own"
        )
    if flat or good:
        return [root.resolve().name]
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and _good_folder(p))
    if not found:
        mvtec = any((p / "train" / GOOD).is_dir() for p in (root, *root.iterdir()))
        hint = (
            "it looks like the MVTec AD layout, use --data mvtec"
            if mvtec
            else ("put images into it, or into good/ and a folder per defect type")
        )
        raise DataError(f"data root {root}: no image and no folder good, normal or ok; {hint}")
    return found


def listing(root: Path, category: str) -> Listing:
    """The images of a category; normal ones still without a place in train or test."""
    if image_files(root):
        return Listing(root, folder_samples(root, root, "normal", GOOD), False)
    base = root if _good_folder(root) else root / category
    good = _good_folder(base)
    normal = folder_samples(root, good, "normal", GOOD)
    name = good.relative_to(root).as_posix()
    problems = [] if normal else [f"{name} has no image; put normal images there"]
    defective = [
        sample
        for folder in sorted(p for p in base.iterdir() if p.is_dir() and _is_defect(p, good))
        for sample in folder_samples(root, folder, "test", folder.name)
    ]
    defective, has_masks, mask_problems = with_masks(root, base / _TRUTH, defective)
    return Listing(root, normal + defective, has_masks, problems + mask_problems)


def _is_defect(folder: Path, good: Path) -> bool:
    return folder != good and folder.name != _TRUTH and not folder.name.startswith(".")


def _good_folder(base: Path) -> Path | None:
    found = sorted(p for p in base.iterdir() if p.is_dir() and p.name.lower() in _GOOD_NAMES)
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise DataError(f"{base} has several folders of normal images ({names}); keep one")
    return found[0] if found else None
