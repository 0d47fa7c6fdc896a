"""A worker's part of a trial, without Ray: what the ledger holds at every moment."""

import dataclasses
from pathlib import Path

import pytest

from ffcad.predictor import Predictor
from study.ledger import Ledger
from study.trainable import fit_case

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


def fit(job, configuration, case):
    """Walks a fit; returns its last record, and the progress that was made on the way.

    Whatever is yielded must be on the storage by then.
    """
    ledger, made = Ledger(Path(job.study.storage)), []
    for record, progress in fit_case(job, configuration, case):
        assert ledger.read(case.key) == record
        if progress is not None:
            made.append(progress)
    return record, made


@pytest.fixture(scope="module")
def job(make_job, tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def finished(job, first_fit):
    """A fit that ran to its end, its case, and what it yielded."""
    configuration, case = first_fit(job)
    record, progress = fit(job, configuration, case)
    return configuration, case, record, progress


def test_a_new_fit_ends_finished_with_all_that_the_record_promises(job, finished):
    configuration, case, record, progress = finished
    assert len(progress) == configuration.iterations
    assert (record.status, record.key, record.study) == ("finished", case.key, job.study.name)
    assert (record.category, record.seed, record.iteration) == ("dial", 0, 6)
    assert {"select_pixel_ap", "report_pixel_ap", "report_image_auroc"} <= set(record.metrics)
    assert record.metrics == progress[-1].metrics
    assert [entry["iteration"] for entry in record.history] == [2, 4, 6]
    assert record.began <= record.history[0]["time"] <= record.ended
    assert record.environment["git_sha"] == "abc"
    assert record.random_encoder
    assert 50 < record.peak_memory_mb < 100_000


def test_a_finished_fit_has_a_checkpoint_that_inspects_and_pictures(job, finished):
    configuration, case, _, _ = finished
    ledger = Ledger(Path(job.study.storage))
    assert Predictor.load(ledger.checkpoint(case.key)).config == configuration
    assert all(path.stat().st_size > 1000 for path in ledger.pictures(case.key).values())


def test_a_finished_fit_is_taken_from_the_ledger(job, finished):
    configuration, case, record, _ = finished
    assert fit(job, configuration, case) == (record, [])


def test_another_study_takes_it_from_the_ledger_too(job, finished):
    configuration, case, record, _ = finished
    other = dataclasses.replace(job, study=dataclasses.replace(job.study, name="other"))
    assert fit(other, configuration, case) == (record, [])


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    job, finished, first_fit, make_job, tmp_path
):
    _, _, whole, _ = finished
    job = make_job(tmp_path)
    configuration, case = first_fit(job)
    for _record, progress in fit_case(job, configuration, case):
        if progress.iteration == 5:
            break
    begun = Ledger(tmp_path).read(case.key)
    assert (begun.status, begun.iteration) == ("begun", 4)
    resumed, made = fit(job, configuration, case)
    assert [progress.iteration for progress in made] == [5, 6]
    assert resumed.began == begun.began
    assert resumed.history[0]["time"] == begun.history[0]["time"]
    assert resumed.key == whole.key
    assert resumed.metrics == whole.metrics
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert {**a, "time": 0} == {**b, "time": 0}


def test_a_configuration_that_cannot_work_is_failed_with_its_reason(job, first_fit):
    configuration, case = first_fit(job, optimizer="sgd", sgd_learning_rate=1e30)
    record, _ = fit(job, configuration, case)
    assert record.status == "failed"
    assert record.error.startswith("NonFiniteLoss: the loss became")
    assert "\n" not in record.error


def test_a_worker_with_other_images_than_the_driver_says_so(job, first_fit):
    configuration, case = first_fit(job, momentum=0.5)
    data = dict.fromkeys(job.inputs.data, "another digest")
    other = dataclasses.replace(job, inputs=dataclasses.replace(job.inputs, data=data))
    with pytest.raises(RuntimeError, match="this worker's files of dial are not the driver's"):
        fit(other, configuration, case)
    # The machine's trouble is not the configuration's: the fit can be gone on with.
    record = Ledger(Path(job.study.storage)).read(case.key)
    assert record.status == "begun"
    assert "not the driver's" in record.error
    assert fit(job, configuration, case)[0].status == "finished"


def test_a_worker_with_another_version_of_the_method_says_so(job, first_fit):
    configuration, case = first_fit(job, momentum=0.6)
    inputs = dataclasses.replace(job.inputs, method_version=job.inputs.method_version + 1)
    with pytest.raises(RuntimeError, match="install the same code on every machine"):
        fit(dataclasses.replace(job, inputs=inputs), configuration, case)


def test_rungs_begin_after_the_latest_change_of_stage(job, first_fit, make_job, tmp_path):
    configuration, _ = first_fit(job)
    assert job.rungs == 2
    assert [job.rung(configuration, i) for i in (2, 4, 6)] == [0, 1, 2]
    assert make_job(tmp_path, "--seeds 0,1,2").rungs == 3
