"""Three real categories, where FFCAD_REAL_DATA names their folder."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffcad.datasets import load_category

ROOT = os.environ.get("FFCAD_REAL_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="FFCAD_REAL_DATA names no folder of real images")

COUNTS = {"screw": (320, 41, 119), "magnetic_tile": (762, 190, 388), "mtoc": (48, 27, 97)}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def load_real(category, **options):
        return load_category("mvtec", Path(ROOT), category, 96, cache=cache, **options)

    return load_real


@pytest.mark.parametrize("category", sorted(COUNTS))
def test_counts_and_masks(load, category):
    data = load(category, select_on="paper")
    report = data.report
    assert (len(data.train), (~report.labels).sum(), report.labels.sum()) == COUNTS[category]
    assert (report.masks.any((1, 2)) == report.labels).all()


@pytest.mark.parametrize("category", sorted(COUNTS))
@pytest.mark.parametrize("seed", [0, 1])
def test_halves_are_balanced_in_every_type(load, category, seed):
    data = load(category, split_seed=seed)
    select, report = (Counter(s.defect_types) for s in (data.select, data.report))
    assert select.keys() == report.keys()
    assert max(abs(select[name] - report[name]) for name in select) <= 2


def test_whole_types_of_screw(load):
    data = load("screw", holdout="types")
    select, report = (set(s.defect_types) - {"good"} for s in (data.select, data.report))
    assert {len(select), len(report)} == {2, 3}
    assert not select & report


def test_no_near_duplicates_across_the_halves_of_mtoc(load):
    data = load("mtoc")

    def rows(split):
        grey = [
            np.asarray(Image.open(Path(ROOT) / p).convert("L").resize((128, 128)), float).ravel()
            for p in split.paths
        ]
        centred = np.stack(grey) - np.mean(grey, 1, keepdims=True)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    select, report = rows(data.select), rows(data.report)
    assert (select @ select.T - np.eye(len(select))).max() > 0.99  # there are some to keep together
    assert (select @ report.T).max() < 0.99


def test_mtoc_says_that_test_images_resemble_training_images(load):
    assert any("look almost like a training image" in note for note in load("mtoc").notes)
