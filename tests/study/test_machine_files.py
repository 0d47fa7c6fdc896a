"""What this machine keeps of a study until it begins."""

import dataclasses

import pytest

from ffcad.datasets.cache import default_cache
from study.arguments import parse
from study.costs import Estimate
from study.driver import _keep_estimate
from study.inputs import Inputs
from study.ledger import Ledger
from study.machine_files import keep_estimate, kept_estimate
from study.plan import make_plan
from study.question import open_study
from study.storage import Storage
from study.trials import StudyFolder

INPUTS = Inputs(data={"wood@64": "w"}, textures={}, weights={"random": "r"}, method_version=1)
FOUND = Estimate(
    fits=3, finished=0, begun=0, seconds=90.0, wall_seconds=45.0, slots=2, gpus=0.0,
    source="measured",
)  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("FFCAD_CACHE", str(tmp_path / "cache"))
    flags = "--study mine --space smoke_grid --categories wood"
    return parse(["--storage", str(tmp_path / "runs"), *flags.split()])[:2]


def test_a_dry_runs_estimate_is_of_its_own_study_alone(study, tmp_path):
    config, _ = study
    assert kept_estimate(config, INPUTS) is None
    keep_estimate(config, INPUTS, FOUND)
    assert kept_estimate(config, INPUTS)["seconds"] == 90.0
    assert list((tmp_path / "runs").iterdir()) == []
    others = ({"name": "other"}, {"seeds": (0, 1)}, {"max_concurrent": 1}, {"storage": "/else"})
    for changes in others:
        assert kept_estimate(dataclasses.replace(config, **changes), INPUTS) is None
    assert kept_estimate(config, dataclasses.replace(INPUTS, data={"wood@64": "x"})) is None


def test_an_estimate_that_cannot_be_read_is_none(study):
    config, _ = study
    keep_estimate(config, INPUTS, FOUND)
    (path,) = default_cache().rglob("mine.json")
    path.write_text("{")
    assert kept_estimate(config, INPUTS) is None


def test_a_study_begins_with_the_plan_that_its_dry_run_said(study):
    config, space = study
    keep_estimate(config, INPUTS, FOUND)
    folder = StudyFolder(Storage(config.storage), config.name)
    open_study(folder, config, space, INPUTS, extend=False)
    plan = make_plan(config, space, INPUTS, folder, Ledger(folder.storage))
    _keep_estimate(config, space, INPUTS, folder, plan)
    kept = folder.read_document()["plan"]
    assert (kept["fits"], kept["seconds"], kept["source"]) == (3, 90.0, "measured")
