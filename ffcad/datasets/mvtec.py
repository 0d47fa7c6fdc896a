"""The MVTec AD layout (Bergmann et al., CVPR 2019), which many later data sets share.

ROOT/<category>/train/good/*.png
ROOT/<category>/test/good/*.png
ROOT/<category>/test/<defect type>/<stem>.png
ROOT/<category>/ground_truth/<defect type>/<stem>_mask.png     (or <stem>.png)
"""

from pathlib import Path

from ffcad.datasets.images import image_files
from ffcad.datasets.records import GOOD, DataError, Listing, Sample

# A lossy mask would be defective wherever the compression left a trace.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def categories(root: Path) -> list[str]:
    """The folders below the root that have a train/good folder, sorted."""
    if (root / "train" / GOOD).is_dir():
        raise DataError(f"data root {root} is itself a category; give its parent, {root.parent}")
    found = sorted(p.name for p in root.iterdir() if (p / "train" / GOOD).is_dir())
    if not found:
        raise DataError(
            f"data root {root}: no category in the MVTec AD layout (ROOT/<category>/train/good and "
            "ROOT/<category>/test/...); for one's own images use --data folder"
        )
    return found


def listing(root: Path, category: str) -> Listing:
    """The images of a category with their masks."""
    train = folder_samples(root, root / category / "train" / GOOD, "train", GOOD)
    problems = [] if train else [f"{category}/train/good has no image; put normal images there"]
    test_folder = root / category / "test"
    if not test_folder.is_dir():
        problems.append(f"{category}/test does not exist; it holds good/ and a folder per defect")
        return Listing(root, train, False, problems)
    tests = {p.name: p for p in sorted(test_folder.iterdir()) if p.is_dir()}
    test = [s for name, p in tests.items() for s in folder_samples(root, p, "test", name)]
    if not any(sample.defect_type == GOOD for sample in test):
        problems.append(f"{category}/test/good has no image; put other normal images there")
    samples, has_masks, mask_problems = with_masks(root, root / category / "ground_truth", test)
    return Listing(root, train + samples, has_masks, problems + mask_problems)


def folder_samples(root: Path, folder: Path, role: str, defect_type: str) -> list[Sample]:
    """One sample for each image directly in the folder."""
    if not folder.is_dir():
        return []
    return [
        Sample(path.relative_to(root).as_posix(), role, defect_type) for path in image_files(folder)
    ]


def with_masks(
    root: Path, truth: Path, samples: list[Sample]
) -> tuple[list[Sample], bool, list[str]]:
    """Finds each defective sample's mask in a ground-truth folder.

    Returns:
        The samples with their masks; whether there is a ground-truth folder at all; a line for
        each mask that is missing, and for each that no image belongs to.
    """
    if not truth.is_dir():
        return samples, False, []
    left = {
        (folder.name, path.stem): path
        for folder in sorted(p for p in truth.iterdir() if p.is_dir() and p.name != GOOD)
        for path in image_files(folder)
        if path.suffix.lower() in MASK_SUFFIXES
    }
    result, problems = [], []
    for sample in samples:
        if sample.defect_type == GOOD:
            result.append(sample)
            continue
        stem = Path(sample.path).stem
        mask = left.pop((sample.defect_type, f"{stem}_mask"), None) or left.pop(
            (sample.defect_type, stem), None
        )
        if mask is None:
            expected = (truth / sample.defect_type / f"{stem}_mask.png").relative_to(root)
            problems.append(
                f"{expected.as_posix()} does not exist, the mask of {sample.path}; add it, or "
                f"remove {truth.relative_to(root).as_posix()} to do without pixel metrics"
            )
        else:
            mask_path = mask.relative_to(root).as_posix()
            result.append(Sample(sample.path, sample.role, sample.defect_type, mask_path))
    problems += [
        f"{path.relative_to(root).as_posix()} is a mask that no image belongs to; remove it or add "
        "its image"
        for path in left.values()
    ]
    return result, True, problems
