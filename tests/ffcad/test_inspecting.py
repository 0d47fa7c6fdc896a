"""`python -m ffcad predict` with a calibrated detector: verdicts, contact sheet, drift."""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffcad.commands import main
from ffcad.contact_sheet import Card, thumbnail, write_contact_sheet
from ffcad.detector import Detector
from ffcad.regions import Region


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Eight images that can be read, and one that is truncated."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(5)
    for i in range(8):
        name = f"{i}<b>&.png" if i == 0 else f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (48, 56, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:900])
    return folder


def predict(detector, images, out, *flags) -> int:
    detector.save(out / "detector")
    words = ["predict", str(out / "detector"), str(images), "--out", str(out / "out"), *flags]
    return main(words)


@pytest.fixture(scope="module")
def written(detector, images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predicted")
    assert predict(detector, images, out) == 1, "one image is broken"
    return out / "out"


def test_the_table_has_the_detectors_verdicts(detector, images, written):
    with open(written / "scores.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 8
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["verdict"] for row in rows} == {"defect", "normal"}
    for row in rows:
        [found] = detector.inspect([np.asarray(Image.open(row["file"]))])
        assert float(row["score"]) == pytest.approx(found.score, abs=1e-5)
        assert row["verdict"] == ("defect" if found.defect else "normal")
        assert row["regions"] == str(len(found.regions))
        assert (written / row["picture"]).is_file()


def test_the_contact_sheet_is_whole_by_itself_and_sorted(written):
    page = (written / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)[^"]*(//|\.css|\.js)', page)
    assert page.count('src="data:image/jpeg;base64,') == 8
    scores = [float(text) for text in re.findall(r"<b>(\d\.\d{4})</b>", page)]
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert "0&lt;b&gt;&amp;.png" in page, "names are text"
    assert "8 of 9 images inspected" in page
    assert "broken.png: cannot be read" in page
    links = re.findall(r'<a href="([^"]+)"', page)
    assert "pictures/0%3Cb%3E%26.png" in links


def test_drift_is_measured_only_when_it_is_asked_for(detector, images, written, tmp_path, capsys):
    assert not (written / "drift.json").exists()
    others = tuple(score - 1 for score in detector.calibration.normal_scores)
    elsewhere = replace(detector.calibration, normal_scores=others)
    moved = Detector(detector.predictor.model, elsewhere, use_head=True, device="cpu")
    capsys.readouterr()
    predict(moved, images, tmp_path, "--monitor")
    shown, said = capsys.readouterr()
    assert "warning: drift: the scores of these 8 images are not those of the normal" in said
    assert "drift:" not in shown
    found = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert found["drifted"] is True
    assert found["images"] == 8
    assert "look at camera" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_single_image_cannot_drift(detector, images, tmp_path, capsys):
    assert predict(detector, images / "3.png", tmp_path, "--monitor") == 0
    shown = capsys.readouterr().out
    assert "drift: not known; 1 image says nothing, give at least 4" in " ".join(shown.split())
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["p_value"] is None


def contents(folder: Path) -> dict[str, str]:
    """Digests of a folder's files."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("given", ["mine/1.png", "mine", "other"])
def test_the_images_own_folder_as_output_costs_no_image(detector, images, tmp_path, given):
    detector.save(tmp_path / "detector")
    for place in ("mine", "other"):  # whose images may have the same names
        (tmp_path / place).mkdir()
        for name in ("1.png", "2.png"):
            shutil.copy(images / name, tmp_path / place / name)
    (tmp_path / "mine" / "1.png").write_bytes((images / "3.png").read_bytes())
    before = contents(tmp_path)
    words = ["predict", str(tmp_path / "detector"), str(tmp_path / given)]
    for _ in range(2):  # the second time pictures are there
        assert main([*words, "--out", str(tmp_path / "mine")]) == 0
        after = contents(tmp_path)
        assert {name: after[name] for name in before} == before
        new = {"mine/scores.csv", "mine/index.html"}
        shown = ["1.png"] if given == "mine/1.png" else ["1.png", "2.png"]
        assert set(after) - set(before) == new | {f"mine/pictures/{name}" for name in shown}


@pytest.mark.parametrize("kind", ["image", "mask", "link", "hard link"])
def test_what_would_overwrite_an_image_or_a_mask_is_refused(
    detector, images, tmp_path, capsys, kind
):
    detector.save(tmp_path / "detector")
    pictures, photo = tmp_path / "out" / "pictures", tmp_path / "photo.png"
    pictures.mkdir(parents=True)
    shutil.copy(images / "1.png", photo)
    given, flags = photo, []
    if kind == "image":
        given = pictures / "photo.png"
        shutil.copy(photo, given)
    elif kind == "mask":
        shutil.copy(photo, pictures / "photo.png")
        flags = ["--masks", str(pictures)]
    elif kind == "link":
        (pictures / "photo.png").symlink_to(photo)
    else:
        (pictures / "photo.png").hardlink_to(photo)
    before = contents(tmp_path)
    words = ["predict", str(tmp_path / "detector"), str(given), "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*words, *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{pictures / 'photo.png'} would be overwritten" in line
    assert contents(tmp_path) == before


def test_a_folder_of_ones_own_named_like_the_pictures_is_no_earlier_output(
    detector, images, tmp_path, capsys
):
    detector.save(tmp_path / "detector")
    mine = tmp_path / "mine"
    (mine / "pictures").mkdir(parents=True)
    shutil.copy(images / "1.png", mine / "1.png")
    shutil.copy(images / "2.png", mine / "pictures" / "1.png")
    before = contents(tmp_path)
    assert main(["predict", str(tmp_path / "detector"), str(mine), "--out", str(mine)]) == 2
    assert f"{mine / 'pictures' / '1.png'} would be overwritten" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_thumbnail_has_the_files_proportions_and_a_box_around_each_region(tmp_path):
    image, anomaly_map = np.full((32, 32, 3), 128, np.uint8), np.zeros((32, 32), np.float32)
    region = Region((100, 50, 200, 80), 10, 0.5)
    content = thumbnail(image, anomaly_map, [region], (400, 100), (0.0, 1.0))
    (tmp_path / "a.jpg").write_bytes(content)
    shown = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert shown.shape == (60, 240, 3)
    cyan = (shown[..., 2] - shown[..., 0]) > 60
    rows, columns = np.nonzero(cyan)
    assert (columns.min(), columns.max()) == pytest.approx((58, 121), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((28, 49), abs=1)


def test_without_verdicts_the_sheet_offers_no_choice_between_them(tmp_path):
    cards = [Card("a", 0.25, None, 0, b"", "a.png"), Card("b", 0.5, None, 0, b"", "b.png")]
    write_contact_sheet(tmp_path / "s.html", cards, title="t", facts=["f"], warnings=[])
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "defective ones only" not in page
    assert page.index("0.5000") < page.index("0.2500")
