"""The images that encoders are made from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders import RECIPE, make_corpus
from image_folders import picture, save
from PIL import Image

from ffcad.corpus import CorpusError, Crops, central_crop, random_crop, read_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("cache")))


def folder(root: Path, names: dict[str, int]) -> Path:
    for name, seed in names.items():
        save(picture(seed), root / name)
    return root


def test_the_digest_is_that_of_the_contents_whatever_folders_they_lie_in(tmp_path):
    one = folder(tmp_path / "one", {"a.png": 1, "deep/er/b.png": 2, "c.PNG": 3})
    two = [
        folder(tmp_path / "two", {"x.png": 3}),
        folder(tmp_path / "three", {"y.png": 2, "z.png": 1}),
    ]
    first, second = read_corpus([one]), read_corpus(two)
    assert len(first) == 3
    assert first.digest == second.digest
    assert read_corpus(two[1:]).digest != first.digest
    for i in range(3):
        assert np.array_equal(first.image(i), second.image(i))


def test_what_does_not_decode_is_left_out_counted_and_named(tmp_path):
    folder(tmp_path, {"a.png": 1, "b.png": 2})
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no image either, and not meant to be one")
    corpus = read_corpus([tmp_path])
    assert len(corpus) == 2
    (note,) = corpus.notes
    assert note.startswith("2 corpus images cannot be read and were left out: ")
    assert "broken.jpg" in note
    assert "cut.png" in note


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, r"0 different images that can be read \(0 files\); at least 2"),
        ({"a.png": 1, "same.png": 1}, r"1 different images that can be read \(2 files\)"),
        ({"only.png": 1}, r"1 different images that can be read \(1 files\); at least 2"),
    ],
)
def test_too_few_images_are_refused(tmp_path, names, message):
    with pytest.raises(CorpusError, match=message):
        read_corpus([folder(tmp_path, names)])


def test_an_image_that_is_there_twice_counts_once(tmp_path):
    """Else it would be trained on and held out."""
    folder(tmp_path, {"a.png": 1, "b.png": 2, "sub/c.png": 3, "sub/copy.png": 1})
    corpus = read_corpus([tmp_path])
    assert len(corpus) == 3
    assert read_corpus([tmp_path, tmp_path / "sub"]).digest == corpus.digest


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CorpusError, match="nowhere does not exist; give folders of images"):
        read_corpus([tmp_path / "nowhere"])


def test_classes_are_the_folders_names(tmp_path):
    folder(tmp_path, {"dog/1.png": 1, "cat/2.png": 2, "dog/more/3.png": 3})
    corpus = read_corpus([tmp_path], labelled=True)
    assert corpus.classes == ("cat", "dog")
    found = {tuple(np.asarray(corpus.image(i))[0, 0]): corpus.labels[i] for i in range(3)}
    assert [found[tuple(np.asarray(picture(s))[0, 0])] for s in (1, 2, 3)] == [1, 0, 1]
    assert corpus.digest != read_corpus([tmp_path]).digest


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"1.png": 1, "cat/2.png": 2}, "1.png lies in no class folder"),
        ({"cat/1.png": 1, "cat/2.png": 2}, r"one class only \(cat\)"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, names, message):
    with pytest.raises(CorpusError, match=message):
        read_corpus([folder(tmp_path, names)], labelled=True)


def test_a_file_that_goes_bad_later_is_named(tmp_path):
    corpus = read_corpus([folder(tmp_path, {"a.png": 1, "b.png": 2})])
    corpus.images[0].write_bytes(b"gone bad")
    with pytest.raises(CorpusError, match=r"\.png: could be read before, but now"):
        corpus.image(0)


def test_the_split_is_whole_disjoint_and_the_seeds():
    corpus = make_corpus()
    trained, held_out = corpus.split(0.25, 0)
    assert sorted([*trained, *held_out]) == list(range(24))
    assert len(held_out) == 6
    assert [list(part) for part in corpus.split(0.25, 0)] == [list(trained), list(held_out)]
    assert list(corpus.split(0.25, 1)[1]) != list(held_out)
    assert len(corpus.split(0.001, 0)[1]) == 1


def test_a_batch_follows_from_seed_and_iteration_alone():
    corpus = make_corpus(labels=True)
    trained, _ = corpus.split(0.25, 0)
    crops, again = (Crops(corpus, trained, RECIPE) for _ in range(2))
    again[0]
    first, second = crops[3], again[3]
    assert first["images"].shape == (4, 32, 32, 3)
    assert first["images"].equal(second["images"])
    assert not first["images"].equal(crops[4]["images"])
    other = Crops(corpus, trained, replace(RECIPE, seed=1))
    assert not first["images"].equal(other[3]["images"])
    assert len(first["labels"]) == 4


def test_crops_are_parts_of_the_image():
    """Of a gradient, a crop is a smaller gradient: between the bounds, rising, unless mirrored."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3)).copy()
    image, recipe = Image.fromarray(ramp), replace(RECIPE, horizontal_flip=False)
    widths = []
    for seed in range(40):
        crop = random_crop(image, recipe, np.random.default_rng(seed))
        row = crop[16, :, 0].astype(int)
        assert (np.diff(row) >= 0).all()
        widths.append((row[-1] - row[0]) * 32 / 31 / 200)
        assert np.array_equal(crop, random_crop(image, recipe, np.random.default_rng(seed)))
    # At least a quarter of the area, of an aspect of at least 3/4.
    assert min(widths) > 0.28
    assert max(widths) < 1.01
    assert len(set(widths)) > 20


def test_the_central_crop_keeps_the_proportions():
    image = Image.new("RGB", (90, 30), "white")
    image.paste("black", (30, 0, 60, 30))
    # Pillow's filter reaches a little over the crop's edge.
    assert central_crop(image, 15)[:, 1:-1].max() == 0
