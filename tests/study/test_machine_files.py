"""What this machine keeps of a study until it begins."""

import dataclasses

import pytest

from ffcad.datasets.cache import default_cache
from study.arguments import parse
from study.costs import Estimate
from study.inputs import Inputs
from study.kept_plan import keep_plan
from study.ledger import FitRecord, Ledger
from study.machine_files import keep_estimate, kept_estimate
from study.plan import make_plan
from study.question import open_study
from study.sitting import Sitting
from study.storage import Storage
from study.trials import StudyFolder

INPUTS = Inputs(data={"wood@64": "w"}, textures={}, weights={"random": "r"}, method_version=1)
FOUND = Estimate(
    fits=3, finished=0, begun=0, left=3, configurations=1, seconds=90.0, wall_seconds=45.0, slots=2,
    gpus=0.0, source="measured",
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


def sitting_of(study, lease=None):
    config, space = study
    folder = StudyFolder(Storage(config.storage), config.name)
    open_study(folder, config, space, INPUTS, extend=False)
    plan = make_plan(config, space, INPUTS, folder, Ledger(folder.storage))
    return Sitting(config, space, INPUTS, folder, lease, plan, default_cache() / "journal")


def test_a_study_begins_with_the_plan_that_its_dry_run_said(study):
    keep_estimate(study[0], INPUTS, FOUND)
    sitting = sitting_of(study)
    keep_plan(sitting, (2, 0.0), cluster=False)
    kept = sitting.folder.read_document()["plan"]
    assert (kept["left"], kept["seconds"], kept["source"]) == (3, 90.0, "measured")


def test_a_study_on_a_cluster_has_the_plan_that_fits_of_its_machines_tell(study):
    keep_estimate(study[0], INPUTS, FOUND)
    sitting = sitting_of(study)
    folder, ledger = sitting.folder, Ledger(Storage(study[0].storage))
    # This machine's dry run says nothing of others.
    keep_plan(sitting, (4, 0.5), cluster=True)
    assert "plan" not in folder.read_document()
    (first, *others) = sitting.plan.trials
    kinds = ["a GPU"] * len(others) + [None]
    for seconds, (trial, gpu) in enumerate(zip([*others, first], kinds, strict=True), start=10):
        (case,) = trial.cases
        key = f"{case.key}-elsewhere"
        ledger.write(
            FitRecord(
                key=key, status="finished", study="earlier", trial=0, digest=trial.digest,
                configuration=trial.configuration, category="wood", seed=0, select_on="holdout",
                inputs={"images": {"select": 4, "report": 4}}, iteration=1, iterations=1,
                seconds=float(seconds), environment={"threads": 1, "gpu": gpu},
            )
        )  # fmt: skip
    keep_plan(sitting, (4, 0.5), cluster=True)
    kept = folder.read_document()["plan"]
    assert kept["source"] == "from 2 finished fits in the ledger, like these"
    assert (kept["slots"], kept["gpus"]) == (4, 0.5)
    # 10 s and 11 s were measured on a GPU, and one of the two is of the third cell's size.
    assert 31 <= kept["seconds"] <= 32
