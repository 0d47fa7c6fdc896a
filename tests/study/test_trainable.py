"""What a trial tells Tune, with fits that train nothing and without Ray."""

import pytest
import torch
from ray import tune

from study.ledger import FitRecord
from study.reports import (
    ERROR,
    FINAL,
    FRACTION,
    MORE_GPU,
    OBJECTIVE,
    RUNG,
)
from study.trainable import run_trial

# Seed -> objective.
VALUES = {0: 0.2, 1: 0.6, 2: 0.1}


class ReadyFit:
    """A fit that was done before; that of seed 3 failed."""

    def __init__(self, context, trial, configuration, case):
        self.context, self.configuration = context, configuration
        failed = case.seed not in VALUES
        self.record = FitRecord(
            key=case.key, status="failed" if failed else "finished", study="mine", trial=trial,
            configuration=configuration.to_dict(), digest="d", category=case.category,
            seed=case.seed, select_on="holdout", inputs={}, error="boom" if failed else None,
            metrics={} if failed else {"select_pixel_ap": VALUES[case.seed], "loss": 1.0},
        )  # fmt: skip

    def run(self):
        yield from ()


class HungryFit(ReadyFit):
    """A fit that needs a whole GPU."""

    def run(self):
        if self.context.study.gpus_per_trial < 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield from ()


@pytest.fixture
def reports(make_context, first_fit, tmp_path, monkeypatch):
    """What a trial over seeds reports."""
    threads = torch.get_num_threads()
    # It takes the GPUs away from a process without a share of one.
    monkeypatch.setattr("study.trainable.keep_to_share", lambda gpus: None)

    def reported(seeds, make_fit=ReadyFit, gpus=None, flags=""):
        flags = f"--seeds {seeds} --objective select_pixel_ap {flags}"
        context = make_context(tmp_path, flags)
        configuration, _ = first_fit(context)
        cases = [{"category": "dial", "seed": int(s), "key": f"k{s}"} for s in seeds.split(",")]
        told = []
        monkeypatch.setattr(tune, "report", told.append)
        config = {"configuration": configuration.to_dict(), "cases": cases, "trial_number": 0}
        run_trial({**config, "gpus": gpus}, context, make_fit)
        return told

    yield reported
    torch.set_num_threads(threads)


def test_a_trial_reports_the_mean_of_the_cases_finished_so_far(reports):
    told = reports("0,1,2")
    assert [t[OBJECTIVE] for t in told] == pytest.approx([0.2, 0.4, 0.3])
    assert [t[RUNG] for t in told] == [1, 2, 3]
    assert [t[FINAL] for t in told] == [False, False, True]
    assert [t[FRACTION] for t in told] == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_trial_ends_with_its_first_case_that_fails(reports):
    first, last = reports("1,3,0")
    assert (first[OBJECTIVE], first[RUNG]) == (0.6, 1)
    assert last == {ERROR: "dial, seed 3: boom", FINAL: True}


@pytest.mark.parametrize(("had", "wants"), [("0.25", 0.5), ("0.5", 1.0)])
def test_a_fit_that_runs_out_of_memory_asks_for_a_larger_share_of_the_gpu(reports, had, wants):
    assert reports("0", HungryFit, flags=f"--gpus-per-trial {had}") == [
        {MORE_GPU: wants, FINAL: True}
    ]


def test_with_the_larger_share_it_is_done(reports):
    (told,) = reports("0", HungryFit, gpus=1.0, flags="--gpus-per-trial 0.25")
    assert told[OBJECTIVE] == VALUES[0]


def test_threads_come_from_the_trials_cores_and_not_from_what_was_set_before(reports):
    torch.set_num_threads(1)
    seen = []

    class CountingFit(ReadyFit):
        def run(self):
            seen.append(torch.get_num_threads())
            yield from ()

    reports("0", CountingFit, flags="--cpus-per-trial 3")
    assert seen == [3]
