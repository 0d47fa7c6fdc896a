"""Data on a machine's own disk: once, whole, from a folder or an object store."""

import pytest
import s3fs

from study.staging import main, stage
from study.storage import StorageError


@pytest.fixture
def source(tmp_path):
    for name in ("mvtec_ad/screw/train/good/0.png", "dtd/images/a/1.jpg"):
        path = tmp_path / "shared" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return tmp_path / "shared"


def files(folder):
    visible = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_text() for p in visible}


def test_every_data_set_is_copied_once(source, tmp_path, capsys):
    target = tmp_path / "disk" / "data"
    assert stage(str(source), target) == ["dtd", "mvtec_ad"]
    assert files(target) == files(source)
    (target / "dtd/images/a/1.jpg").write_text("kept")
    (source / "visa").mkdir()
    (source / "visa" / "x.csv").write_text("later")
    assert main([str(source), str(target)]) == 0
    assert "visa copied" in capsys.readouterr().out
    assert (target / "dtd/images/a/1.jpg").read_text() == "kept"
    assert main([str(source), str(target)]) == 0
    assert "nothing copied" in capsys.readouterr().out


def test_what_a_killed_one_left_is_not_taken_for_the_whole(source, tmp_path):
    target = tmp_path / "data"
    (target / ".mvtec_ad.part" / "half").mkdir(parents=True)
    stage(str(source), target)
    assert not (target / "mvtec_ad" / "half").exists()
    assert files(target) == files(source)


def test_a_source_that_is_not_there_or_empty_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty"):
        stage(str(tmp_path / "empty"), tmp_path / "data")
    assert main([]) == 2


@pytest.mark.slow
def test_an_object_store_is_a_source(bucket, source, tmp_path):
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.put(f"{source}/", f"{bucket}/data/", recursive=True)
    fs.pipe(f"{bucket}/data/", b"")  # As a web console makes a folder.
    assert stage(f"{bucket}/data", tmp_path / "data") == ["dtd", "mvtec_ad"]
    assert files(tmp_path / "data") == files(source)
    with pytest.raises(StorageError, match="nothing-here cannot be copied"):
        stage(f"{bucket}/nothing-here", tmp_path / "more")
