"""The layouts on disk: what is found, and one clear line for what is wrong."""

import shutil

import numpy as np
import pytest
from image_folders import SIDE, mvtec, picture, save, save_mask
from PIL import Image

from ffcad.datasets import DataError, list_categories, load_category


@pytest.fixture
def load(tmp_path):
    def load_from(data, root, category="nut", **options):
        return load_category(data, root, category, SIDE, cache=tmp_path / "cache", **options)

    return load_from


@pytest.fixture
def nut(tmp_path):
    return mvtec(tmp_path / "data")


def visa(root, *, annotations: bool = False):
    """Two objects in VisA's layout; the first has four anomalous images."""
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        for i in range(10):
            path = f"{name}/Data/Images/Normal/{i:03d}.JPG"
            save(picture(hash_free(name) + i), root / path)
            rows.append(f"{name},{'train' if i < 6 else 'test'},normal,{path},")
        for i in range(4):
            path = f"{name}/Data/Images/Anomaly/{i:03d}.JPG"
            mask = f"{name}/Data/Masks/Anomaly/{i:03d}.png"
            save(picture(hash_free(name) + 50 + i), root / path)
            save_mask(root / mask, value=1 + i)
            rows.append(f"{name},test,anomaly,{path},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    if annotations:
        lines = ["image,label,mask", "candle/Data/Images/Normal/000.JPG,normal,"]
        for i, label in enumerate(["melt", "melt", "chip", '"chip,melt"']):
            lines.append(f"candle/Data/Images/Anomaly/{i:03d}.JPG,{label},x.png")
        (root / "candle/image_anno.csv").write_text("\n".join(lines) + "\n")
    return root


def hash_free(name: str) -> int:
    return 10_000 * len(name)


# MVTec AD


def test_mvtec_finds_images_labels_types_and_masks(load, nut):
    data = load("mvtec", nut, select_on="paper")
    assert list_categories("mvtec", nut) == ["nut"]
    assert data.train.paths == [f"nut/train/good/{i:03d}.png" for i in range(10)]
    assert data.report.defect_types == ["bent"] * 4 + ["cut"] * 4 + ["good"] * 6
    np.testing.assert_array_equal(data.report.labels, [True] * 8 + [False] * 6)
    np.testing.assert_array_equal(data.report.images[8], np.asarray(picture(1000)))
    expected = np.zeros((SIDE, SIDE), bool)
    expected[4:10, 4:10] = True
    assert (data.report.masks[:8] == expected).all()
    assert not data.report.masks[8:].any()


def test_each_image_gets_its_own_mask(load, nut):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20, 3] = 255
    save(Image.fromarray(mask), nut / "nut/ground_truth/cut/002_mask.png")
    split = load("mvtec", nut).select, load("mvtec", nut).report
    counts = {
        path: int(mask.sum()) for s in split for path, mask in zip(s.paths, s.masks, strict=True)
    }
    assert counts["nut/test/cut/002.png"] == 1
    assert counts["nut/test/cut/001.png"] == counts["nut/test/bent/002.png"] == 36


def test_mask_named_like_its_image_and_upper_case_suffixes(load, nut):
    truth = nut / "nut/ground_truth/bent"
    (truth / "001_mask.png").rename(truth / "001.PNG")
    (nut / "nut/test/bent/001.png").rename(nut / "nut/test/bent/001.PNG")
    assert "nut/test/bent/001.PNG" in load("mvtec", nut, select_on="paper").report.paths


def test_without_ground_truth_there_are_no_masks_and_a_note_says_so(load, nut):
    shutil.rmtree(nut / "nut/ground_truth")
    data = load("mvtec", nut)
    assert data.report.masks is None
    assert data.select.masks is None
    assert any("no ground-truth masks" in note for note in data.notes)


def test_missing_mask_names_the_file_expected(load, nut):
    (nut / "nut/ground_truth/cut/002_mask.png").unlink()
    with pytest.raises(DataError, match=r"nut/ground_truth/cut/002_mask\.png does not exist"):
        load("mvtec", nut)


def test_mask_without_image_is_named(load, nut):
    save_mask(nut / "nut/ground_truth/cut/077_mask.png")
    with pytest.raises(DataError, match=r"cut/077_mask\.png is a mask that no image belongs to"):
        load("mvtec", nut)


def test_mask_of_another_size_names_both_files(load, nut):
    save_mask(nut / "nut/ground_truth/cut/001_mask.png", (SIDE, SIDE + 2))
    with pytest.raises(
        DataError, match=r"cut/001_mask\.png is 24x26 pixels but its image nut/test/cut/001\.png"
    ):
        load("mvtec", nut)


def test_empty_mask_is_named(load, nut):
    save_mask(nut / "nut/ground_truth/cut/001_mask.png", value=0)
    with pytest.raises(DataError, match=r"cut/001_mask\.png has no pixel above 0"):
        load("mvtec", nut)


def test_corrupt_image_is_named_and_the_others_counted(load, nut):
    (nut / "nut/train/good/002.png").write_bytes(b"\x89PNG\r\n")
    (nut / "nut/test/good/001.png").write_bytes(b"")
    (nut / "nut/ground_truth/cut/002_mask.png").unlink()
    (nut / "nut/ground_truth/cut/003_mask.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"002_mask\.png does not exist.* \(and 3 more\)$"):
        load("mvtec", nut)
    save_mask(nut / "nut/ground_truth/cut/002_mask.png")
    with pytest.raises(DataError, match=r"train/good/002\.png cannot be read.* \(and 2 more\)$"):
        load("mvtec", nut)


@pytest.mark.parametrize("folder", ["train/good", "test/good"])
def test_empty_folder_is_named(load, nut, folder):
    for path in (nut / "nut" / folder).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"nut/{folder} has no image"):
        load("mvtec", nut)


def test_same_image_in_train_and_test(load, nut):
    shutil.copy(nut / "nut/train/good/004.png", nut / "nut/test/good/001.png")
    with pytest.raises(
        DataError,
        match=r"good/001\.png is the same image as nut/train/good/004\.png.*--allow-duplicates",
    ):
        load("mvtec", nut)
    assert len(load("mvtec", nut, allow_duplicates=True).train) == 10


def test_unknown_category_lists_those_there_are(load, nut):
    mvtec(nut, "screw")
    with pytest.raises(DataError, match=r"'scrw'; did you mean 'screw'\?; there are nut, screw"):
        load("mvtec", nut, "scrw")


def test_sizes_may_vary(load, nut):
    save(picture(3, 61).resize((61, 40)), nut / "nut/train/good/003.png")
    assert load("mvtec", nut).train.images.shape == (10, SIDE, SIDE, 3)


def test_mask_of_a_turned_photograph_is_as_it_is_shown(load, nut):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(7, 40).resize((40, 20))
    save(turned, nut / "nut/test/cut/001.png", exif=exif)
    save_mask(nut / "nut/ground_truth/cut/001_mask.png", (20, 40))
    load("mvtec", nut)


@pytest.mark.parametrize(
    ("data", "root", "message"),
    [
        ("mvtek", "", "data must be one of synthetic, mvtec, visa, folder but got 'mvtek'"),
        ("mvtec", "absent", "does not exist"),
        ("mvtec", "nut", "is itself a category; give its parent"),
        ("mvtec", "nut/train", "no category in the MVTec AD layout"),
        ("mvtec", None, "--data mvtec needs --data-root"),
        ("visa", "", r"split_csv/1cls\.csv does not exist"),
        ("folder", "", "looks like the MVTec AD layout, use --data mvtec"),
    ],
)
def test_wrong_root_says_what_to_do(nut, data, root, message):
    with pytest.raises(DataError, match=message):
        list_categories(data, None if root is None else nut / root)


# VisA


def test_visa_follows_its_split(load, tmp_path):
    root = visa(tmp_path / "data")
    assert list_categories("visa", root) == ["candle", "pcb1"]
    data = load("visa", root, "pcb1", select_on="paper")
    assert data.train.paths == [f"pcb1/Data/Images/Normal/{i:03d}.JPG" for i in range(6)]
    assert sorted(data.report.defect_types) == ["anomaly"] * 4 + ["good"] * 4
    assert (data.report.masks.sum((1, 2)) == np.where(data.report.labels, 36, 0)).all()


def test_visa_annotations_name_the_defects(load, tmp_path):
    data = load("visa", visa(tmp_path / "data", annotations=True), "candle", select_on="paper")
    types = dict(zip(data.report.paths, data.report.defect_types, strict=True))
    assert [types[f"candle/Data/Images/Anomaly/{i:03d}.JPG"] for i in range(4)] == [
        "melt",
        "melt",
        "chip",
        "several",
    ]


def test_visa_missing_image_and_missing_column(load, tmp_path):
    root = visa(tmp_path / "data")
    (root / "pcb1/Data/Images/Anomaly/002.JPG").unlink()
    with pytest.raises(DataError, match=r"pcb1/Data/Images/Anomaly/002\.JPG cannot be read"):
        load("visa", root, "pcb1")
    table = root / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace("label", "labels", 1))
    with pytest.raises(DataError, match=r"1cls\.csv must have the columns object, split, label"):
        list_categories("visa", root)


def test_visa_row_without_mask_and_anomalous_training_row(load, tmp_path):
    root = visa(tmp_path / "data")
    table = root / "split_csv/1cls.csv"
    text = table.read_text()
    table.write_text(text.replace("pcb1/Data/Masks/Anomaly/001.png", ""))
    with pytest.raises(DataError, match=r"Anomaly/001\.JPG has no mask; name one"):
        load("visa", root, "pcb1")
    table.write_text(text.replace("pcb1,test,anomaly", "pcb1,train,anomaly", 1))
    with pytest.raises(DataError, match=r"Anomaly/000\.JPG is anomalous but in train"):
        load("visa", root, "pcb1")


# A plain folder


def own_images(root, good="good", count=20, defects=("dent",)):
    for i in range(count):
        save(picture(i), root / good / f"{i:03d}.png")
    for k, name in enumerate(defects):
        for i in range(4):
            save(picture(3000 + 10 * k + i), root / name / f"{i:03d}.png")
    return root


@pytest.mark.parametrize("good", ["good", "normal", "OK"])
def test_folder_with_good_images_is_a_category(load, tmp_path, good):
    root = own_images(tmp_path / "mugs", good, defects=("chip", "dent"))
    assert list_categories("folder", root) == ["mugs"]
    data = load("folder", root, "mugs", select_on="paper")
    assert len(data.train) == 16
    assert sorted(data.report.defect_types) == ["chip"] * 4 + ["dent"] * 4 + ["good"] * 4
    assert not set(data.train.paths) & set(data.report.paths)
    assert data.report.masks is None


def test_folder_masks_are_optional_but_then_complete(load, tmp_path):
    root = own_images(tmp_path / "mugs")
    for i in range(4):
        save_mask(root / f"ground_truth/dent/{i:03d}_mask.png")
    data = load("folder", root, "mugs", select_on="paper")
    assert (data.report.masks.sum((1, 2)) == np.where(data.report.labels, 36, 0)).all()
    (root / "ground_truth/dent/003_mask.png").unlink()
    with pytest.raises(DataError, match=r"ground_truth/dent/003_mask\.png does not exist"):
        load("folder", root, "mugs")


def test_folder_of_categories(load, tmp_path):
    own_images(tmp_path / "data/mugs")
    own_images(tmp_path / "data/plates", "ok")
    assert list_categories("folder", tmp_path / "data") == ["mugs", "plates"]
    data = load("folder", tmp_path / "data", "plates")
    assert all(path.startswith("plates/ok/") for path in data.train.paths)


def test_flat_folder_reports_on_simulated_anomalies(load, tmp_path):
    root = own_images(tmp_path / "data", "mugs", 40, ()) / "mugs"
    with pytest.raises(DataError, match=r"no defective image.*use --select-on synthetic"):
        load("folder", root, "mugs")
    data = load("folder", root, "mugs", select_on="synthetic")
    assert data.report.labels.sum() == 8
    assert set(data.report.defect_types) == {"good", "simulated"}
    assert data.report.masks[data.report.labels].any((1, 2)).all()
    assert any("simulated anomalies" in note for note in data.notes)
    parts = [set(s.paths) for s in (data.train, data.select, data.report)]
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]


def test_folder_that_is_ambiguous_or_empty(tmp_path):
    own_images(tmp_path / "both")
    save(picture(1), tmp_path / "both/logo.png")
    with pytest.raises(DataError, match="directly and in good/"):
        list_categories("folder", tmp_path / "both")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image and no folder good, normal or ok"):
        list_categories("folder", tmp_path / "empty")
    own_images(own_images(tmp_path / "twice", "ok"), "good")
    with pytest.raises(DataError, match=r"several folders of normal images \(good, ok\)"):
        list_categories("folder", tmp_path / "twice")
