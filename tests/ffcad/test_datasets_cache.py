"""The cache: built once, shared, mended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import mvtec, picture, save

from ffcad.datasets import DataError, load_category
from ffcad.datasets.cache import cached, default_cache
from ffcad.datasets.images import new_array
from ffcad.datasets.records import Rows


class Builder:
    """Writes one array and counts how often."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, folder: Path) -> list[int]:
        self.built += 1
        new_array(folder, "numbers", (100,), np.int64)[:] = np.arange(100)
        return [7]


def entry_of(cache: Path) -> Path:
    return next(p for p in cache.iterdir() if p.is_dir())


def test_second_use_maps_what_the_first_one_built(tmp_path):
    build = Builder()
    for _ in range(2):
        arrays, kept = cached(tmp_path, ["a"], build)
    assert build.built == 1
    assert kept == [7]
    assert isinstance(arrays["numbers"], np.memmap)
    assert not arrays["numbers"].flags.writeable
    np.testing.assert_array_equal(arrays["numbers"], np.arange(100))


def test_another_key_is_another_entry(tmp_path):
    build = Builder()
    cached(tmp_path, ["a"], build)
    cached(tmp_path, ["b"], build)
    assert build.built == 2


@pytest.mark.parametrize(
    "damage", ["truncated", "deleted", "no json", "broken json", "header", "swapped"]
)
def test_damaged_entry_is_built_anew(tmp_path, damage):
    build = Builder()
    cached(tmp_path, ["a"], build)
    entry = entry_of(tmp_path)
    array, note = entry / "numbers.npy", entry / "entry.json"
    match damage:
        case "truncated":
            os.truncate(array, 300)
        case "deleted":
            array.unlink()
        case "no json":
            note.unlink()
        case "broken json":
            note.write_text(json.dumps({"sizes": {}})[:5])
        case "swapped":
            np.save(array, np.arange(5))
        case "header":
            array.write_bytes(bytes(array.stat().st_size))
    arrays, _ = cached(tmp_path, ["a"], build)
    assert build.built == 2
    np.testing.assert_array_equal(arrays["numbers"], np.arange(100))


def test_failed_build_leaves_no_entry_and_no_rubbish(tmp_path):
    def fail(folder: Path) -> None:
        new_array(folder, "numbers", (10,), np.int64)
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cached(tmp_path, ["a"], fail)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_rubbish_of_a_killed_builder_is_swept_away(tmp_path):
    cached(tmp_path, ["a"], Builder())
    entry = entry_of(tmp_path)
    entry.rename(entry.with_name(entry.name + ".tmp-1"))
    cached(tmp_path, ["a"], Builder())
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [entry.name]


_RACE = """
import sys, time
from pathlib import Path
import numpy as np
from ffcad.datasets.cache import cached

cache, log = Path(sys.argv[1]), Path(sys.argv[2])

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    np.save(folder / "numbers.npy", np.arange(50))
    time.sleep(1)

print(cached(cache, ["race"], build)[0]["numbers"].sum())
"""


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", _RACE, str(tmp_path / "cache"), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["1225", "1225"]
    assert log.read_text() == "built\n"


def test_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"cache folder .*file/cache cannot be written .*FFCAD_CACHE"
    ):
        cached(tmp_path / "file" / "cache", ["a"], Builder())


def test_environment_names_the_default_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFCAD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("FFCAD_CACHE")
    assert default_cache() == Path.home() / ".cache" / "ffcad"


def test_changed_image_is_read_again_and_changes_the_digest(tmp_path):
    root, cache = mvtec(tmp_path / "data"), tmp_path / "cache"
    before = load_category("mvtec", root, "nut", 16, cache=cache)
    save(picture(555), root / "nut/train/good/003.png")
    after = load_category("mvtec", root, "nut", 16, cache=cache)
    assert before.digest != after.digest
    assert (before.train.images[3] != after.train.images[3]).any()
    np.testing.assert_array_equal(before.train.images[4], after.train.images[4])


def test_digest_knows_no_folder_and_no_time_of_change(tmp_path):
    one, other = mvtec(tmp_path / "one"), mvtec(tmp_path / "other")
    for path in other.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    digests = {
        load_category("mvtec", root, "nut", 16, cache=tmp_path / "cache").digest
        for root in (one, other)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("select_on", ["holdout", "synthetic"])
def test_training_images_stay_mapped(tmp_path, select_on):
    root = mvtec(tmp_path / "data")
    data = load_category("mvtec", root, "nut", 16, select_on=select_on, cache=tmp_path / "cache")
    images = data.train.images
    chosen = np.array([1, 0])
    np.testing.assert_array_equal(images[chosen], np.asarray(images)[chosen])
    # Under "synthetic" the training images are rows with gaps.
    base = images.array if isinstance(images, Rows) else images
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert base.shape[0] == 24  # all images of the category: a view, not a copy
