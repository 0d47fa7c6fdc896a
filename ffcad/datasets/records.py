"""What passes between the parts of this package, and what it gives to its callers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GOOD = "good"
SIMULATED = "simulated"


class DataError(ValueError):
    """Images that cannot be used as they are; one line says which file and what to do."""


@dataclass(frozen=True)
class Sample:
    """One image of a category, as its layout on disk lists it.

    Attributes:
        path: relative to the data root, with "/".
        role: "train", "test", or "normal" for a normal image that the split is still to place.
        defect_type: "good" for a normal image.
        mask: path of the mask relative to the data root; None where there is none.
    """

    path: str
    role: str
    defect_type: str = GOOD
    mask: str | None = None


@dataclass(frozen=True)
class Listing:
    """The images of one category, before any is read.

    Attributes:
        root: the folder that the paths are relative to.
        samples: training images first, each part sorted by path.
        has_masks: False where the category has no ground truth at all.
        problems: what is wrong already, one line each.
        notes: what the user should know, one line each.
    """

    root: Path
    samples: list[Sample]
    has_masks: bool
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decoded:
    """The images of a listing at one size, and what was learned from reading them.

    Attributes:
        images: (N, S, S, 3) uint8, memory-mapped.
        masks: (M, S, S) bool, memory-mapped: the masks of the M samples that have one, in order.
        thumbnails: (N, T*T) uint8 grey; they do not depend on S, so neither do near-duplicates.
        contents: for each sample a digest of its image and one of its mask ("" without mask).
    """

    images: np.ndarray
    masks: np.ndarray
    thumbnails: np.ndarray
    contents: list[tuple[str, str]]


class Rows:
    """Some rows of a memory-mapped array, in an order of their own; read when they are asked for.

    Several processes share the pages of the array, which a copy would not.

    Args:
        array: (M, ...).
        rows: (N,) indices into it.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: int | slice | np.ndarray) -> np.ndarray:
        return self.array[self.rows[chosen]]

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array[self.rows], dtype)


@dataclass(frozen=True)
class Split:
    """Images with what is known of them.

    Attributes:
        images: (N, S, S, 3) uint8, memory-mapped: an array, or the rows of one that belong here.
        labels: (N,) bool, True where defective.
        defect_types: "good" for a normal image.
        paths: relative to the data root, with "/"; a simulated anomaly has its image's path with
            "#simulated" behind it.
        masks: (N, S, S) bool, True where defective; None where the category has no ground truth.
    """

    images: "np.ndarray | Rows"
    labels: np.ndarray
    defect_types: list[str]
    paths: list[str]
    masks: np.ndarray | None

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class CategoryData:
    """One category, split by a protocol.

    Load it again in every process instead of pickling it: the cache makes that cheap, and pickling
    would copy the images.

    Attributes:
        data: the layout, one of `DATA_LAYOUTS`.
        category: its name.
        image_size: side of the images in pixels.
        select_on: the protocol, one of `PROTOCOLS`.
        train: normal images only.
        select: what choices are made on.
        report: what is reported.
        digest: sha256 of the file lists with their contents, the split and the sizes; the same on
            every machine that has the same files.
        notes: what the user should know, one line each.
    """

    data: str
    category: str
    image_size: int
    select_on: str
    train: Split
    select: Split
    report: Split
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Textures:
    """Source textures of simulated anomalies.

    Attributes:
        images: (N, S, S, 3) uint8, memory-mapped.
        digest: sha256 of the files' contents, their order and the size.
    """

    images: np.ndarray
    digest: str


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raises DataError with the first of the problems and the number of the others, if any."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{where}: {problems[0]}{more}")
