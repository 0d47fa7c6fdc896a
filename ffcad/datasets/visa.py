"""The layout of VisA (Zou et al., ECCV 2022) as it is distributed, with its one-class split.

    ROOT/split_csv/1cls.csv          object,split,label,image,mask; paths relative to ROOT
    ROOT/<object>/Data/Images/...    the images that it names
    ROOT/<object>/image_anno.csv     image,label,mask: which defects an image shows (optional)

The split knows normal and anomalous only. Where image_anno.csv is there, an image with one defect
has that as its type and an image with several has "several"; else the type is "anomaly". Masks hold
the number of the defect at each pixel; all above 0 is defective.
"""

import csv
from pathlib import Path

from ffcad.datasets.records import GOOD, DataError, Listing, Sample

SPLIT = "split_csv/1cls.csv"
_COLUMNS = ("object", "split", "label", "image", "mask")


def categories(root: Path) -> list[str]:
    """The objects that the split names, sorted."""
    return sorted({row["object"] for row in _rows(root)})


def listing(root: Path, category: str) -> Listing:
    """The images of an object, as the split places them."""
    types = _defect_types(root / category / "image_anno.csv")
    problems = []
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in _rows(root):
        if row["object"] != category:
            continue
        path, split, label = _posix(row["image"]), row["split"], row["label"]
        if split not in parts or label not in ("normal", "anomaly"):
            problems.append(
                f"{SPLIT}: {path} has split {split!r} and label {label!r}; allowed are train or "
                "test, and normal or anomaly"
            )
        elif split == "train" and label == "anomaly":
            problems.append(
                f"{SPLIT}: {path} is anomalous but in train; training takes normal ones"
            )
        elif label == "normal":
            parts[split].append(Sample(path, split))
        else:
            name = types.get(path, "anomaly")
            parts[split].append(Sample(path, split, name, _posix(row["mask"]) or None))
    for samples in parts.values():
        samples.sort(key=lambda sample: sample.path)
    defective = [sample for sample in parts["test"] if sample.defect_type != GOOD]
    has_masks = any(sample.mask for sample in defective)
    if has_masks:
        problems += [f"{SPLIT}: {s.path} has no mask; name one" for s in defective if not s.mask]
    return Listing(root, parts["train"] + parts["test"], has_masks, problems)


def _rows(root: Path) -> list[dict[str, str]]:
    path = root / SPLIT
    if not path.is_file():
        raise DataError(
            f"data root {root}: {SPLIT} does not exist; give the folder that VisA was unpacked to"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    absent = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if absent or not rows:
        raise DataError(
            f"{path} must have the columns {', '.join(_COLUMNS)} and a row per image but has "
            f"{', '.join(reader.fieldnames or ()) or 'nothing'} and {len(rows)} rows"
        )
    return rows


def _defect_types(annotations: Path) -> dict[str, str]:
    """Image path -> its defect type, as far as the annotations tell."""
    if not annotations.is_file():
        return {}
    with annotations.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row.get("image") and row.get("label")]
    types = {}
    for row in rows:
        names = [name.strip() for name in row["label"].split(",") if name.strip()]
        if names and names != ["normal"]:
            types[_posix(row["image"])] = names[0] if len(names) == 1 else "several"
    return types


def _posix(path: str) -> str:
    return path.strip().replace("\\", "/")
