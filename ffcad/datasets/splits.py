"""The three protocols: what a study selects on and what it reports.

`holdout` halves the test split, `synthetic` selects on normal images that are held out of training,
half of them with a simulated anomaly, and `paper` selects and reports on the whole test split.
Nothing here depends on the image size, so a study over sizes keeps its splits.
"""

from dataclasses import dataclass, replace

import numpy as np

from ffcad.datasets.duplicates import (
    THRESHOLDS,
    closest,
    in_seeded_order,
    near_duplicates,
    seeded_hash,
)
from ffcad.datasets.records import GOOD, DataError, Decoded, Sample

PROTOCOLS = ("holdout", "synthetic", "paper")
HOLDOUTS = ("halves", "types")

_USE_SYNTHETIC = "use --select-on synthetic, which needs no defective image"


@dataclass(frozen=True)
class Assignment:
    """Which samples are trained, selected and reported on: indices, ascending.

    `simulate_select` and `simulate_report` tell that these are normal images only, each to be
    joined by a copy with a simulated anomaly.
    """

    train: np.ndarray
    select: np.ndarray
    report: np.ndarray
    simulate_select: bool = False
    simulate_report: bool = False
    notes: tuple[str, ...] = ()


def place_normals(samples: list[Sample], thumbnails: np.ndarray, seed: int) -> list[Sample]:
    """Gives the samples of role "normal" a role: a fifth of them "test", the others "train"."""
    normal = np.array([i for i, s in enumerate(samples) if s.role == "normal"], int)
    if not len(normal):
        return samples
    placed = list(samples)
    tested = set(_fifth(normal, samples, thumbnails, seed, least=1).tolist())
    for i in normal.tolist():
        placed[i] = replace(samples[i], role="test" if i in tested else "train")
    return placed


def assign(
    samples: list[Sample],
    decoded: Decoded,
    category: str,
    *,
    select_on: str,
    holdout: str,
    seed: int,
) -> Assignment:
    """Applies a protocol.

    Raises:
        DataError: if a split would have no good or no defective image.
    """
    train = np.array([i for i, s in enumerate(samples) if s.role == "train"], int)
    test = np.array([i for i, s in enumerate(samples) if s.role == "test"], int)
    defective = np.array([samples[i].defect_type != GOOD for i in test], bool)
    if not len(train):
        raise DataError(f"{category}: no normal training image; training needs some")
    if defective.all():
        raise DataError(f"{category}: no normal test image; every protocol needs some")
    if select_on == "synthetic":
        return _synthetic(samples, decoded, category, train, test, defective, seed)
    if not defective.any():
        raise DataError(
            f"{category}: no defective image, which --select-on {select_on} needs; {_USE_SYNTHETIC}"
        )
    notes = _train_neighbours(decoded.thumbnails, train, test[~defective])
    if select_on == "paper":
        return Assignment(train, test, test, notes=notes)
    types = [samples[i].defect_type for i in test]
    paths = [samples[i].path for i in test]
    groups = in_seeded_order(near_duplicates(decoded.thumbnails[test]), paths, seed)
    sides = _sides_of_types(category, groups, types, seed) if holdout == "types" else {}
    selected = _halve(groups, types, paths, seed, sides)
    for name, half in (("select", selected), ("report", ~selected)):
        if not (half & defective).any() or not (half & ~defective).any():
            raise DataError(
                f"{category}: the test split ({(~defective).sum()} good, {defective.sum()} "
                f"defective, {len(groups)} groups of near-duplicates) cannot be halved so that the "
                f"{name} half has a good and a defective image; add images or {_USE_SYNTHETIC}"
            )
    return Assignment(train, test[selected], test[~selected], notes=notes)


def _synthetic(
    samples: list[Sample],
    decoded: Decoded,
    category: str,
    train: np.ndarray,
    test: np.ndarray,
    defective: np.ndarray,
    seed: int,
) -> Assignment:
    if len(train) < 8:
        raise DataError(
            f"{category}: {len(train)} normal training images, but --select-on synthetic holds out "
            "at least 4 of them and trains on at least 4; add images or use --select-on holdout"
        )
    held_out = _fifth(train, samples, decoded.thumbnails, seed, least=4)
    rest = np.setdiff1d(train, held_out)
    if len(held_out) < 4 or len(rest) < 4:
        raise DataError(
            f"{category}: too many of the {len(train)} normal training images are one frame again, "
            "so none can be held out; add images or use --select-on holdout"
        )
    notes = _train_neighbours(decoded.thumbnails, rest, test[~defective])
    if not defective.any():
        notes += (
            f"no defective image; the report is on {len(test)} normal test images and "
            "their copies with simulated anomalies, and says little about real defects",
        )
    return Assignment(rest, held_out, test, True, not defective.any(), notes)


def _fifth(
    indices: np.ndarray, samples: list[Sample], thumbnails: np.ndarray, seed: int, least: int
) -> np.ndarray:
    """About a fifth of the samples, at least `least`, whole groups, in seeded order; ascending."""
    paths = [samples[i].path for i in indices]
    groups = in_seeded_order(near_duplicates(thumbnails[indices]), paths, seed)
    wanted = max(least, round(len(indices) / 5))
    taken: list[int] = []
    for group in groups:
        if len(taken) + len(group) <= wanted:
            taken += group.tolist()
    if (
        len(taken) < least
    ):  # only larger groups are left: the smallest of them that still leaves some
        left = [group for group in groups if group[0] not in taken and len(group) < len(indices)]
        taken += min(left, key=len).tolist() if left else []
    return np.sort(indices[taken])


def _halve(
    groups: list[np.ndarray],
    types: list[str],
    paths: list[str],
    seed: int,
    sides: dict[str, bool],
) -> np.ndarray:
    """(N,) bool, True for the select half.

    A group with a type in `sides` goes where that says. Of the others, large ones first, each goes
    to the half that has fewer of its types, then to the one that has fewer defective images; ties
    are broken by the seeded hash. So each type's images are as near to halved as the groups allow.
    """
    names, kinds = np.unique(types, return_inverse=True)
    bad = np.array([name != GOOD for name in names])
    surplus = np.zeros(len(names))  # of each type: images in select minus images in report
    selected = np.zeros(len(types), bool)
    fixed = [next((types[i] for i in group if types[i] in sides), None) for group in groups]
    for k in sorted(range(len(groups)), key=lambda k: (fixed[k] is None, -len(groups[k]))):
        group = groups[k]
        counts = np.bincount(kinds[group], minlength=len(names))
        lean = surplus @ counts or surplus[bad].sum() * counts[bad].sum()
        if fixed[k] is not None:
            to_select = sides[fixed[k]]
        elif lean:
            to_select = lean < 0
        else:
            to_select = bool(seeded_hash(seed, "tie:" + min(paths[i] for i in group)) % 2)
        selected[group] = to_select
        surplus += counts if to_select else -counts
    return selected


def _sides_of_types(
    category: str, groups: list[np.ndarray], types: list[str], seed: int
) -> dict[str, bool]:
    """True for the defect types that go to the select half, as a whole.

    Types whose images are near-duplicates of one another stay together. Types go in seeded order to
    the half that has fewer defective images.
    """
    names = sorted(set(types) - {GOOD})
    family = {name: name for name in names}  # a type -> the name of the types it must stay with
    for group in groups:
        linked = {family[types[i]] for i in group if types[i] != GOOD}
        family = {n: min(linked) if f in linked else f for n, f in family.items()}
    families = sorted(set(family.values()), key=lambda name: seeded_hash(seed, "type:" + name))
    if len(families) < 2:
        linked = " (near-duplicates link them)" if len(names) > 1 else ""
        raise DataError(
            f"{category}: holdout 'types' needs at least two defect types but got "
            f"{', '.join(names)}{linked}; use holdout 'halves'"
        )
    sides: dict[str, bool] = {}
    surplus = 0
    for f in families:
        size = sum(t != GOOD and family[t] == f for t in types)
        side = surplus < 0 if surplus else bool(seeded_hash(seed, "tie:" + f) % 2)
        sides |= {name: side for name in names if family[name] == f}
        surplus += size if side else -size
    return sides


def _train_neighbours(
    thumbnails: np.ndarray, train: np.ndarray, good: np.ndarray
) -> tuple[str, ...]:
    """A note where normal test images are near-duplicates of training images."""
    near = int((closest(thumbnails[good], thumbnails[train]) > THRESHOLDS[0]).sum())
    if not near:
        return ()
    return (
        f"{near} of {len(good)} normal test images look almost like a training image (correlation "
        "above 0.99), so they are easier than new ones would be",
    )
