"""How long a configuration's model takes for one image, measured on this machine."""

import time
from statistics import median

import numpy as np

from ffcad.config import TrainConfig
from ffcad.model import FFCAD
from ffcad.predictor import pick_device, predict

WARM_UP, MEASURED = 2, 9


def image_seconds(config: TrainConfig) -> float:
    """Median time of one image, from bytes to map and score, in seconds.

    The weights do not matter for it, so the model is a fresh one.
    """
    return predict_seconds(FFCAD(config).to(pick_device(config.device)).eval(), 1)


def predict_seconds(model: FFCAD, images: int, *, use_head: bool = True) -> float:
    """Median time of so many images at once, in seconds.

    Args:
        model: on its device.
        images: how many; they are black, because the pixels' values do not matter.
        use_head: as for `predict`.
    """
    side = model.config.image_size
    batch = np.zeros((images, side, side, 3), np.uint8)
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        started = time.perf_counter()
        # Its maps are on the CPU when it returns, so a GPU is done too.
        predict(model, batch, use_head=use_head)
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:])
