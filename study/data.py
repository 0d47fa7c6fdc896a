"""A study's images by its protocol."""

from pathlib import Path

from ffcad.datasets import CategoryData, load_category
from study.config import StudyConfig


def load_data(config: StudyConfig, category: str, image_size: int) -> CategoryData:
    """A category by the study's protocol, as the driver and every worker load it."""
    return load_category(
        config.data,
        None if config.data_root is None else Path(config.data_root),
        category,
        image_size,
        select_on=config.select_on,
        holdout=config.holdout,
        allow_duplicates=config.allow_duplicates,
    )
