"""The embedded data set: seeded, exact masks, neither trivial nor noise."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ffcad.datasets import list_categories, load_category
from ffcad.datasets.scenes import SCENES

# The other two take longer to draw.
CATEGORIES = [
    name if name in ("weave", "wood") else pytest.param(name, marks=pytest.mark.slow)
    for name in list_categories("synthetic", None)
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache):
    return lambda name: load_category("synthetic", None, name, 64, select_on="paper", cache=cache)


@pytest.mark.parametrize("name", CATEGORIES)
def test_counts_and_masks(whole, name):
    data = whole(name)
    assert len(data.train) == 60
    counts = Counter(data.report.defect_types)
    assert counts.pop("good") == 24
    assert set(counts.values()) == {9}
    assert len(counts) == 4
    assert (data.report.masks.any((1, 2)) == data.report.labels).all()
    shares = data.report.masks[data.report.labels].mean((1, 2))
    assert shares.min() > 0.0003
    assert shares.max() < 0.1


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_defect_changes_the_surface_inside_its_mask(name):
    scene, defects = SCENES[name]
    for defect in defects:
        for seed in range(3):
            normal, _ = scene(np.random.default_rng(seed), None)
            image, mask = scene(np.random.default_rng(seed), defect)
            change = np.abs(image - normal).max(-1)
            assert change[mask].mean() > 0.04, defect
            assert change[mask].mean() > 20 * change[~mask].mean(), defect
            assert change[~mask].sum() < 0.3 * change.sum(), defect


@pytest.mark.parametrize("name", CATEGORIES)
def test_pixel_statistics_do_not_solve_it(whole, name):
    report = whole(name).report
    pixels = report.images.astype(np.float32).reshape(len(report), -1)
    for statistic in (pixels.mean(1), pixels.std(1), pixels.max(1), -pixels.min(1)):
        assert 0.15 < roc_auc_score(report.labels, statistic) < 0.85


@pytest.mark.parametrize("name", CATEGORIES)
def test_no_two_images_are_nearly_equal(whole, name):
    images = np.concatenate([whole(name).train.images, whole(name).report.images])
    grey = images.mean(-1).reshape(len(images), -1)
    correlations = np.corrcoef(grey) - np.eye(len(grey))
    assert correlations.max() < 0.995


def test_content_does_not_depend_on_the_image_size(whole, tmp_path):
    small = load_category("synthetic", None, "wood", 32, select_on="paper", cache=tmp_path)
    halved = whole("wood").report.images.reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(halved - small.report.images).mean() < 6


def test_another_process_draws_the_same_images(whole, tmp_path):
    program = (
        "import hashlib, sys; from pathlib import Path; from ffcad.datasets import load_category\n"
        "data = load_category('synthetic', None, 'wood', 64, select_on='paper',"
        " cache=Path(sys.argv[1]))\n"
        "print(data.digest, hashlib.sha256(data.report.images.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    digest, images = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()

    assert digest == whole("wood").digest
    assert images == hashlib.sha256(whole("wood").report.images.tobytes()).hexdigest()


@pytest.mark.parametrize("protocol", ["holdout", "synthetic"])
def test_protocols_split_it(cache, protocol):
    data = load_category("synthetic", None, "weave", 64, select_on=protocol, cache=cache)
    for split in (data.select, data.report):
        assert 0 < split.labels.sum() < len(split)
    if protocol == "holdout":
        assert len(data.select) == len(data.report) == 30


def test_the_package_imports_neither_torch_nor_a_study_library():
    program = (
        "import sys, ffcad.datasets; print(set(sys.modules) & {'torch', 'ray', 'optuna', 'mlflow'})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
