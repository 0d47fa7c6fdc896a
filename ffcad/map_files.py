"""Anomaly maps as 16-bit grey PNG files, on one scale for all models."""

import io

import numpy as np
from PIL import Image

# The feature discrepancy's greatest value; the head's is 1. One scale says what a value means
# without knowing the model.
MAP_SCALE = 2.0
STEPS = 65535


def map_to_png(anomaly_map: np.ndarray) -> bytes:
    """An anomaly map as a PNG: value v of a pixel stands for v / 65535 * `MAP_SCALE`.

    Args:
        anomaly_map: (H, W) in [0, `MAP_SCALE`]; kept to within 1.6e-5.
    """
    values = np.rint(np.clip(anomaly_map / MAP_SCALE, 0, 1) * STEPS).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def png_to_map(content: bytes) -> np.ndarray:
    """The (H, W) float32 map that `map_to_png` wrote."""
    values = np.asarray(Image.open(io.BytesIO(content)))
    return (values / STEPS * MAP_SCALE).astype(np.float32)
