"""A small configuration and a small data set for whatever trains."""

from dataclasses import replace

import pytest

from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, Split, load_category


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Trains in about a tenth of a second per iteration; a random encoder, FFC on both sides."""
    return TrainConfig(
        image_size=64,
        autoencoder_channels=16,
        head_channels=8,
        batch_size=2,
        autoencoder_iterations=3,
        head_iterations=3,
        sgd_learning_rate=1e-3,
        loader_workers=0,
        device="cpu",
    )


@pytest.fixture(scope="session")
def dial(tmp_path_factory: pytest.TempPathFactory) -> CategoryData:
    """A synthetic category at 64x64, with six images to select on and six to report on."""
    cache = tmp_path_factory.mktemp("decoded")
    data = load_category("synthetic", None, "dial", 64, cache=cache)
    return replace(data, select=_few(data.select), report=_few(data.report))


def _few(split: Split) -> Split:
    """The first normal image of every four and the first defective one of every six."""
    normal = [i for i, label in enumerate(split.labels) if not label][::4]
    defective = [i for i, label in enumerate(split.labels) if label][::6]
    keep = normal + defective
    return Split(
        images=split.images[keep],
        labels=split.labels[keep],
        defect_types=[split.defect_types[i] for i in keep],
        paths=[split.paths[i] for i in keep],
        masks=split.masks[keep],
    )
