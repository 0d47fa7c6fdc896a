"""How long a configuration's model takes for one image, measured on this machine."""

import time
from statistics import median

import torch

from ffcad.config import TrainConfig
from ffcad.model import FFCAD
from ffcad.predictor import pick_device, predict

WARM_UP, MEASURED = 2, 9


def image_seconds(config: TrainConfig) -> float:
    """Median time of one image, from bytes to map and score, in seconds.

    The weights do not matter for it, so the model is a fresh one.
    """
    device = pick_device(config.device)
    model = FFCAD(config).to(device).eval()
    image = torch.zeros((1, config.image_size, config.image_size, 3), dtype=torch.uint8).numpy()
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        started = time.perf_counter()
        predict(model, image)  # Its maps are on the CPU when it returns, so a GPU is done too.
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:])
