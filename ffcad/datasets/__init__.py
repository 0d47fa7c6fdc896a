"""Images of a category: read from a layout on disk or made, cached, checked and split.

    from ffcad.datasets import load_category
    screw = load_category("mvtec", root, "screw", 256, select_on="holdout")
    screw.train.images, screw.select.labels, screw.report.masks

An image becomes 8-bit RGB (see `ffcad.datasets.images`) and a square of `image_size` pixels by
Pillow's BILINEAR, which is antialiased where it shrinks. A mask's pixel is defective where more
than half of it was; thin and tiny defects are kept (`ffcad.datasets.images.resize_mask`).
"""

from ffcad.datasets.images import read_image
from ffcad.datasets.loading import DATA_LAYOUTS, list_categories, load_category, load_images
from ffcad.datasets.records import CategoryData, DataError, Split, Textures
from ffcad.datasets.splits import HOLDOUTS, PROTOCOLS
from ffcad.datasets.textures import load_textures

__all__ = [
    "DATA_LAYOUTS",
    "HOLDOUTS",
    "PROTOCOLS",
    "CategoryData",
    "DataError",
    "Split",
    "Textures",
    "list_categories",
    "load_category",
    "load_images",
    "load_textures",
    "read_image",
]
