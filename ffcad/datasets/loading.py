"""From a data root to a category that is decoded, checked and split."""

import difflib
from pathlib import Path

import numpy as np

from ffcad.datasets import folder, mvtec, synthetic, visa
from ffcad.datasets.cache import digest_of
from ffcad.datasets.images import DECODING_VERSION, decode
from ffcad.datasets.records import (
    GOOD,
    CategoryData,
    DataError,
    Decoded,
    Listing,
    Rows,
    Split,
    refuse,
)
from ffcad.datasets.simulated import SIMULATION_SEED, with_simulated_anomalies
from ffcad.datasets.splits import HOLDOUTS, PROTOCOLS, Assignment, assign, place_normals

_ON_DISK = {"mvtec": mvtec, "visa": visa, "folder": folder}
DATA_LAYOUTS = ("synthetic", *_ON_DISK)


def list_categories(data: str, root: Path | None) -> list[str]:
    """The names of the categories, sorted.

    Args:
        data: the layout, one of `DATA_LAYOUTS`.
        root: the data's folder; None for "synthetic", which has none.

    Raises:
        DataError: if the root does not hold that layout.
    """
    _check("data", data, DATA_LAYOUTS)
    if data == "synthetic":
        return synthetic.categories()
    if root is None:
        raise DataError(f"--data {data} needs --data-root, the folder that holds the images")
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"data root {root} {'is not a folder' if root.exists() else 'does not exist'}"
        )
    try:
        return _ON_DISK[data].categories(root)
    except OSError as error:
        raise DataError(f"data root {root} cannot be read ({error})") from error


def load_category(
    data: str,
    root: Path | None,
    category: str,
    image_size: int,
    *,
    select_on: str = "holdout",
    holdout: str = "halves",
    split_seed: int = 0,
    allow_duplicates: bool = False,
    cache: Path | None = None,
) -> CategoryData:
    """Reads a category, or finds it in the cache, checks it and splits it.

    Args:
        data: the layout, one of `DATA_LAYOUTS`.
        root: the data's folder; None for "synthetic".
        category: one of `list_categories(data, root)`.
        image_size: side of the square that images are resized to, pixels.
        select_on: the protocol, one of `PROTOCOLS`: "holdout" halves the test split, "synthetic"
            selects on held-out training images with simulated anomalies, "paper" selects and
            reports on the whole test split.
        holdout: for "holdout": "halves" of each defect type, or whole "types".
        split_seed: another seed gives another split.
        allow_duplicates: whether an image may be in train and in test.
        cache: folder of the decoded images; None takes FFCAD_CACHE, else ~/.cache/ffcad.

    Raises:
        DataError: one line that names the file, or what else is wrong, and says what to do.
    """
    _check("select_on", select_on, PROTOCOLS)
    _check("holdout", holdout, HOLDOUTS)
    if image_size < 1:
        raise DataError(f"image_size must be at least 1 but got {image_size}")
    known = list_categories(data, root)
    if category not in known:
        near = difflib.get_close_matches(category, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"no category {category!r}{hint}; there are {', '.join(known)}")

    if data == "synthetic":
        listing = synthetic.listing(category)
        decoded = synthetic.decode(category, image_size, cache)
    else:
        try:
            listing = _ON_DISK[data].listing(Path(root), category)
        except OSError as error:
            raise DataError(f"data root {root} cannot be read ({error})") from error
        decoded = decode(listing, image_size, cache)
    samples = place_normals(listing.samples, decoded.thumbnails, split_seed)
    listing = Listing(listing.root, samples, listing.has_masks)
    if not allow_duplicates:
        _refuse_duplicates(listing, decoded)
    assignment = assign(
        samples, decoded, category, select_on=select_on, holdout=holdout, seed=split_seed
    )
    return _category_data(data, category, image_size, select_on, listing, decoded, assignment)


def load_images(root: Path, image_size: int, *, cache: Path | None = None) -> Split:
    """All images of a plain folder of one category, unsplit.

    Args:
        root: as `ffcad.datasets.folder` reads it.
        image_size: side of the square that images are resized to, pixels.
        cache: as in `load_category`.

    Raises:
        DataError: one line that names the file, or what else is wrong, and says what to do.
    """
    categories = list_categories("folder", root)
    if len(categories) != 1:
        raise DataError(
            f"{root} holds {len(categories)} categories ({', '.join(categories[:3])}, ...); give "
            "the folder of one"
        )
    try:
        listing = folder.listing(Path(root), categories[0])
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error})") from error
    refuse(str(root), listing.problems)
    decoded = decode(listing, image_size, cache)
    return _split(listing, decoded, np.arange(len(listing.samples)))


def _category_data(
    data: str,
    category: str,
    image_size: int,
    select_on: str,
    listing: Listing,
    decoded: Decoded,
    assignment: Assignment,
) -> CategoryData:
    select = _split(listing, decoded, assignment.select)
    # The same object where they are the same images, so that these are evaluated once.
    same = np.array_equal(assignment.select, assignment.report)
    report = select if same else _split(listing, decoded, assignment.report)
    if assignment.simulate_select:
        select = with_simulated_anomalies(select, "select")
    if assignment.simulate_report:
        report = with_simulated_anomalies(report, "report")
    notes = assignment.notes
    if report.masks is None:
        notes += ("no ground-truth masks, so there are no pixel metrics of real defects",)
    return CategoryData(
        data=data,
        category=category,
        image_size=image_size,
        select_on=select_on,
        train=_split(listing, decoded, assignment.train),
        select=select,
        report=report,
        digest=_digest(listing, decoded, assignment, image_size, select_on),
        notes=notes,
    )


def _split(listing: Listing, decoded: Decoded, indices: np.ndarray) -> Split:
    chosen = [listing.samples[i] for i in indices]
    labels = np.array([sample.defect_type != GOOD for sample in chosen], bool)
    together = len(indices) and indices[-1] - indices[0] + 1 == len(indices)
    images = decoded.images
    images = images[indices[0] : indices[-1] + 1] if together else Rows(images, indices)
    masks = None
    if listing.has_masks or not labels.any():
        masks = np.zeros((len(indices), *decoded.images.shape[1:3]), bool)
        row_of_mask = np.cumsum([sample.mask is not None for sample in listing.samples]) - 1
        with_mask = np.array([sample.mask is not None for sample in chosen], bool)
        masks[with_mask] = decoded.masks[row_of_mask[indices[with_mask]]]
    return Split(
        images=images,
        labels=labels,
        defect_types=[sample.defect_type for sample in chosen],
        paths=[sample.path for sample in chosen],
        masks=masks,
    )


def _digest(
    listing: Listing,
    decoded: Decoded,
    assignment: Assignment,
    image_size: int,
    select_on: str,
) -> str:
    """Made of what the numbers depend on; of no absolute path and no time of change."""

    def files(indices: np.ndarray) -> list:
        return [
            [listing.samples[i].path, listing.samples[i].defect_type, *decoded.contents[i]]
            for i in indices
        ]

    return digest_of(
        {
            "decoding": DECODING_VERSION,
            "image_size": image_size,
            "select_on": select_on,
            "train": files(assignment.train),
            "select": files(assignment.select),
            "report": files(assignment.report),
            "simulated": [assignment.simulate_select, assignment.simulate_report, SIMULATION_SEED],
        }
    )


def _refuse_duplicates(listing: Listing, decoded: Decoded) -> None:
    trained = {
        content: sample.path
        for sample, (content, _) in zip(listing.samples, decoded.contents, strict=True)
        if sample.role == "train"
    }
    refuse(
        f"data root {listing.root}",
        [
            f"{sample.path} is the same image as {trained[content]}, which is trained on; remove "
            "one of them or give --allow-duplicates"
            for sample, (content, _) in zip(listing.samples, decoded.contents, strict=True)
            if sample.role == "test" and content in trained
        ],
    )


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{name} must be one of {', '.join(allowed)} but got {value!r}")
