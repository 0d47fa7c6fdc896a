"""Groups of near-duplicates: frames of the same object that a split must not separate.

Two images are near-duplicates if their thumbnails (64x64, grey, each standardised) correlate above
0.99. Groups are the connected components, so a burst of frames is one group even if its first and
last differ more.

64 pixels rather than 32: measured on transparent parts, screws and magnetic tiles, 32-pixel
thumbnails join different objects of the same kind (124 transparent parts: a group of 8, of good and
defective parts; 160 screws: 34 in chains), while 64-pixel ones leave 103 groups of at most 3, and
158. Repeated shots of one tile (groups of 12, 8, 6, 6) are found at both.

Where objects are always aligned and all of one look, most pairs may correlate above 0.99 and would
chain into one group that cannot be halved. A group of more than a tenth of the images (and of more
than four) is therefore divided at the next higher threshold, up to 0.9999; what holds together
there is a true burst and stays.
"""

import hashlib

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THRESHOLDS = (0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_ROWS = 1024


def near_duplicates(thumbnails: np.ndarray) -> np.ndarray:
    """Numbers the groups of near-duplicates.

    Args:
        thumbnails: (N, P) grey values.

    Returns:
        (N,) int, the same number for images of the same group.
    """
    limit = max(4, len(thumbnails) // 10)
    return _divide(standardised(thumbnails), 0, limit)


def standardised(thumbnails: np.ndarray) -> np.ndarray:
    """(N, P) float32 rows whose products are correlations.

    A constant image has no correlation; it counts as a near-duplicate of other constant images.
    """
    rows = thumbnails.astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    constant = norms < 1e-3
    return np.where(constant, rows.shape[1] ** -0.5, rows / np.where(constant, 1, norms))


def closest(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) the greatest correlation of each of N thumbnails with any of the others."""
    return (standardised(thumbnails) @ standardised(others).T).max(1)


def seeded_hash(seed: int, text: str) -> int:
    """A number that depends on the seed and the text alone, on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big")


def in_seeded_order(groups: np.ndarray, paths: list[str], seed: int) -> list[np.ndarray]:
    """The groups' members (indices), groups ordered by the seeded hash of their first path."""
    members = [np.flatnonzero(groups == g) for g in range(groups.max(initial=-1) + 1)]
    return sorted(members, key=lambda group: seeded_hash(seed, min(paths[i] for i in group)))


def _divide(rows: np.ndarray, rung: int, limit: int) -> np.ndarray:
    groups = _components(rows, THRESHOLDS[rung])
    if rung + 1 == len(THRESHOLDS):
        return groups
    for group in np.flatnonzero(np.bincount(groups) > limit):
        members = np.flatnonzero(groups == group)
        finer = _divide(rows[members], rung + 1, limit)
        groups[members] = np.where(finer == 0, group, groups.max() + finer)
    return groups


def _components(rows: np.ndarray, threshold: float) -> np.ndarray:
    n = len(rows)
    pairs = [
        np.argwhere(rows[start : start + _ROWS] @ rows.T > threshold) + np.array([start, 0])
        for start in range(0, n, _ROWS)
    ]
    i, j = np.concatenate(pairs).T if pairs else np.empty((2, 0), int)
    return connected_components(coo_array((np.ones(len(i), bool), (i, j)), (n, n)))[1]
