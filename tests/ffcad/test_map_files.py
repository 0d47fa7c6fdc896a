"""Maps as PNG files: what is read is what was written, to the sixteenth bit."""

import io

import numpy as np
from PIL import Image

from ffcad.map_files import MAP_SCALE, STEPS, map_to_png, png_to_map


def test_a_map_comes_back_to_within_half_a_step():
    anomaly_map = np.random.default_rng(0).random((30, 41), np.float32) * MAP_SCALE
    anomaly_map[0, :3] = 0, 1, MAP_SCALE
    found = png_to_map(map_to_png(anomaly_map))
    np.testing.assert_allclose(found, anomaly_map, atol=0.5001 * MAP_SCALE / STEPS)


def test_the_file_has_sixteen_bits_and_values_as_documented():
    with Image.open(io.BytesIO(map_to_png(np.array([[0.5, 3.0]])))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "I;16", (2, 1))
        assert np.asarray(image).tolist() == [[16384, 65535]], "what is above the scale is cut"
