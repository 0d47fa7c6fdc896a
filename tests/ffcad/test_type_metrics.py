import numpy as np
import pytest

from ffcad.metrics import all_metrics
from ffcad.type_metrics import metrics_by_type

SCORES = np.array([0.1, 0.4, 0.9, 0.2, 0.3])
LABELS = np.array([False, False, True, True, True])
TYPES = ["good", "good", "crack", "scratch", "scratch"]


@pytest.fixture
def maps():
    generator = np.random.default_rng(0)
    masks = np.zeros((5, 6, 6), dtype=bool)
    masks[2, :2], masks[3, 3:], masks[4, :, :1] = True, True, True
    return generator.random((5, 6, 6)) + 0.5 * masks, masks


def test_each_type_is_measured_against_all_normal_images_and_without_the_other_types(maps):
    anomaly_maps, masks = maps
    found = metrics_by_type(SCORES, LABELS, TYPES, anomaly_maps, masks)
    assert list(found) == ["crack", "scratch"]
    chosen = [0, 1, 3, 4]
    expected = all_metrics(SCORES[chosen], LABELS[chosen], anomaly_maps[chosen], masks[chosen])
    assert found["scratch"] == {"images": 2, **expected}
    assert found["crack"]["image_auroc"] == 1.0
    # 0.2 and 0.3 are each above one of 0.1 and 0.4.
    assert found["scratch"]["image_auroc"] == 0.5


def test_without_masks_or_with_empty_ones_a_type_has_image_metrics_only(maps):
    anomaly_maps, masks = maps
    none = metrics_by_type(SCORES, LABELS, TYPES, anomaly_maps, None)
    assert set(none["crack"]) == {"images", "image_auroc", "image_ap"}
    masks[2] = False
    found = metrics_by_type(SCORES, LABELS, TYPES, anomaly_maps, masks)
    assert "pixel_ap" not in found["crack"]
    assert "pixel_ap" in found["scratch"]
