"""Splits of normal images and their copies with simulated anomalies."""

import numpy as np

from ffcad.datasets.duplicates import seeded_hash
from ffcad.datasets.records import SIMULATED, Split

# Fixed, so that every study of a category selects on the same anomalies.
SIMULATION_SEED = 20250816
_DRAWS = 1000


def with_simulated_anomalies(split: Split, use: str) -> Split:
    """Joins to each image a copy with a simulated anomaly, which depends on its path and `use`.

    Args:
        split: N normal images.
        use: "select" or "report"; the two get different anomalies.

    Returns:
        2N images: the normal ones, then their copies in the same order.
    """
    drawn = [
        _anomalous(image, f"{use}:{path}")
        for image, path in zip(split.images, split.paths, strict=True)
    ]
    n = len(split)
    masks = np.zeros((2 * n, *split.images.shape[1:3]), bool)
    masks[n:] = [mask for _, mask in drawn]
    return Split(
        images=np.concatenate([split.images, np.stack([image for image, _ in drawn])]),
        labels=np.arange(2 * n) >= n,
        defect_types=split.defect_types + [SIMULATED] * n,
        paths=split.paths + [f"{path}#{SIMULATED}" for path in split.paths],
        masks=masks,
    )


def _anomalous(image: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 -> the image with an anomaly, and its (H, W) mask, which is not empty."""
    import torch  # takes seconds, and only this protocol needs it

    from ffcad.anomalies import simulate_anomalies

    generator = torch.Generator().manual_seed(seeded_hash(SIMULATION_SEED, name) % 2**63)
    normal = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    for _ in range(_DRAWS):
        anomalous, mask = simulate_anomalies(normal, generator, probability=1.0)
        if mask.any():
            pixels = (anomalous[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
            return pixels.numpy(), mask[0, 0].bool().numpy()
    raise RuntimeError(f"{_DRAWS} simulated anomalies of {name} were empty")
