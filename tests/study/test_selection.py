"""Nothing is chosen by what is reported: early stopping, ranking, and the best checkpoint."""

import dataclasses

import numpy as np
import pytest
import torch
from ray import tune

from study.config import OBJECTIVES
from study.fits import Fit
from study.ledger import Ledger
from study.reports import OBJECTIVE, RUNG, outcome
from study.storage import Storage
from study.trainable import run_trial

pytestmark = pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning")


class OtherReport(Fit):
    """A fit whose report split has other pixels."""

    def _data(self):
        data = super()._data()
        images = 255 - np.array(data.report.images)
        return dataclasses.replace(data, report=dataclasses.replace(data.report, images=images))


@pytest.fixture
def trial(make_context, first_fit, tmp_path, monkeypatch):
    """Runs a trial; gives what Tune was told, its outcome, and the fit's record."""
    threads = torch.get_num_threads()
    # It takes the GPUs away from a process without a share of one.
    monkeypatch.setattr("study.trainable.keep_to_share", lambda gpus: None)

    def run(make_fit):
        storage = tmp_path / make_fit.__name__
        flags = "--select-on holdout --log-checkpoints best --set head_iterations=8"
        context = make_context(storage, flags)
        configuration, case = first_fit(context)
        told = []
        monkeypatch.setattr(tune, "report", told.append)
        config = {"configuration": configuration.to_dict(), "trial_number": 0, "gpus": None}
        run_trial({**config, "cases": [dataclasses.asdict(case)]}, context, make_fit)
        return told, outcome(told[-1]), Ledger(Storage(storage)).read(case.key)

    yield run
    torch.set_num_threads(threads)


def without_times(entries):
    return [{k: v for k, v in e.items() if k != "time" and "report_" not in k} for e in entries]


@pytest.mark.slow
def test_another_report_split_changes_what_is_reported_and_no_choice(trial):
    told, ended, record = trial(Fit)
    told_other, ended_other, other = trial(OtherReport)
    assert record.metrics["report_image_auroc"] != other.metrics["report_image_auroc"]
    # What early stopping sees at the rungs, what trials are ranked by, which checkpoint is best.
    rungs = [(t[RUNG], t[OBJECTIVE]) for t in told if OBJECTIVE in t]
    assert len(rungs) > 1
    assert rungs == [(t[RUNG], t[OBJECTIVE]) for t in told_other if OBJECTIVE in t]
    assert ended["value"] == ended_other["value"]
    assert record.best_iteration == other.best_iteration
    assert without_times(record.history) == without_times(other.history)


def test_only_metrics_of_the_select_split_can_be_chosen_by():
    assert all(name.startswith("select_") for name in OBJECTIVES)
