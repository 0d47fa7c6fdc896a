"""One thread for each process of the tests, their children included.

The networks are tiny, and threads of several processes on two cores mostly wait for each other.
"""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def detector():
    """Tiny, not trained, calibrated on random images: it calls about half of such defective."""
    import numpy as np
    import torch

    from ffcad.calibration import best_f1
    from ffcad.config import TrainConfig
    from ffcad.detector import Detector
    from ffcad.model import FFCAD

    config = TrainConfig(image_size=32, autoencoder_channels=16, head_channels=8, batch_size=4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = FFCAD(config)
    bare = Detector(model, None, use_head=True, device="cpu")
    rng = np.random.default_rng(0)
    found = bare.inspect(rng.integers(0, 256, (40, 48, 56, 3), np.uint8))
    scores = np.array([inspection.score for inspection in found])
    maps = np.stack([inspection.anomaly_map for inspection in found])
    labels = scores > np.median(scores)
    masks = (maps > np.quantile(maps, 0.98)) & labels[:, None, None]
    return Detector(model, best_f1(scores, labels, maps, masks), use_head=True, device="cpu")
