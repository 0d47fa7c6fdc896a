"""Regions of a map, in the pixels of the image that it was made of."""

import numpy as np

from ffcad.regions import Region, find_regions


def test_each_region_has_its_box_area_and_peak_in_the_images_own_pixels():
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[2:4, 1:4] = 0.5
    anomaly_map[3, 2] = 0.75
    anomaly_map[7, 8] = 0.875
    # Three times as wide, half as high.
    found = find_regions(anomaly_map, 0.5, (30, 5))
    assert found == [
        Region((24, 3, 27, 4), 2, 0.875),  # 1.5 pixels, rounded to even
        Region((3, 1, 12, 2), 9, 0.75),
    ]


def test_corners_that_touch_are_one_region_and_the_threshold_belongs_to_it():
    anomaly_map = np.eye(4, dtype=np.float32)
    assert find_regions(anomaly_map, 1.0, (4, 4)) == [Region((0, 0, 4, 4), 4, 1.0)]
    assert find_regions(anomaly_map, 1.0001, (4, 4)) == []


def test_boxes_stay_inside_and_hold_all_that_is_above():
    rng = np.random.default_rng(0)
    anomaly_map = rng.random((32, 32))
    for size in ((32, 32), (7, 300), (1000, 33)):
        covered = np.zeros(size[::-1], bool)
        for region in find_regions(anomaly_map, 0.9, size):
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= size[0]
            assert 0 <= y0 < y1 <= size[1]
            covered[y0:y1, x0:x1] = True
        rows, columns = np.nonzero(anomaly_map >= 0.9)
        middle = ((rows + 0.5) * size[1] / 32).astype(int), ((columns + 0.5) * size[0] / 32)
        assert covered[middle[0], middle[1].astype(int)].all()


def test_an_image_that_is_anomalous_all_over_is_one_region():
    found = find_regions(np.ones((8, 8), np.float32), 0.5, (640, 480))
    assert found == [Region((0, 0, 640, 480), 640 * 480, 1.0)]
