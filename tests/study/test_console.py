import dataclasses
import io
import re

import pytest
from rich.console import Console

from study.arguments import parse
from study.budget import Budget
from study.console import budget_line, failures, next_steps, summary
from study.ledger import FitRecord, Ledger
from study.storage import Storage
from study.trials import Case, TrialRecord
from study.wording import cell_names


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, _, _ = parse(["--study", "mine", "--num-trials", "4"])
    return dataclasses.replace(study, objective="select_pixel_ap")


def trial(number, state, value=None, **drawn):
    return TrialRecord(
        number=number, state=state, drawn=drawn, digest=f"c{number}", value=value,
        configuration={"encoder_weights": "random"}, cases=(Case("wood", 0, f"k{number}"),),
        error="wood, seed 0: it blew up" if state == "failed" else None,
    )  # fmt: skip


TRIALS = [
    trial(0, "finished", 0.2, hsas="none", ffc_layers=1, batch_size=8),
    trial(1, "finished", 0.7, hsas="2d", hsas_probability=0.123456, ffc_layers=2, batch_size=8),
    trial(
        2,
        "stopped",
        hsas="2d",
        hsas_probability=0.3,
        ffc_layers=1,
        batch_size=8,
        head_learning_rate_factor=0.000123456,
        adamw_learning_rate=0.000123456,
    ),
    trial(3, "failed", hsas="none", ffc_layers=3, batch_size=8),
]


def shown(config, trials, call=summary):
    ledger = Ledger(Storage(config.storage))
    for t in trials:
        if t.state == "finished":
            metrics = {
                f"report_{m}": t.value
                for m in ("image_auroc", "pixel_auroc", "pixel_aupro", "pixel_ap")
            }
            fit = FitRecord(
                key=t.cases[0].key, status="finished", study="mine", trial=0,
                metrics=metrics, seed=0,
                configuration=t.configuration, digest=t.digest, category="wood",
                select_on="holdout", inputs={},
            )  # fmt: skip
            ledger.write(fit)
    out = io.StringIO()
    call(Console(file=out, width=80), config, trials, ledger)
    return out.getvalue()


def test_the_table_fits_a_terminal_of_80_columns_and_ranks_finished_trials_only(config):
    text = shown(config, TRIALS)
    assert max(len(line) for line in text.splitlines()) <= 80
    rows = re.findall(r"^│ +(\d) │ +(\S+)", text, re.MULTILINE)
    assert rows == [("1", "0.7000"), ("0", "0.2000"), ("2", "stopped"), ("3", "failed")]
    assert "Best: trial 1, hsas 2d, ffc_layers 2, hsas_probability 0.123" in text


def test_the_table_shows_the_knobs_that_vary_only(config):
    text = shown(config, TRIALS)
    assert "ffc_layers" in text
    assert "batch_size" not in text


def test_the_table_says_that_the_encoder_is_random_and_how_was_chosen(config):
    text = shown(config, TRIALS)
    assert "The frozen encoder has random weights" in text
    chosen = "Chosen by select_pixel_ap; the other metrics are the report split's; 1 case."
    assert chosen in " ".join(text.split())
    known = [dataclasses.replace(t, configuration={"encoder_weights": "/w.pth"}) for t in TRIALS]
    assert "random weights" not in shown(config, known)
    assert "Some configurations have a frozen encoder with random weights" in " ".join(
        shown(config, [known[0], *TRIALS[1:]]).split()
    )
    paper = dataclasses.replace(config, select_on="paper")
    assert "chosen and reported on the same images" in shown(paper, TRIALS)


def test_the_rows_of_a_grid_have_the_names_of_their_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid, _, _ = parse(["--study", "mine", "--space", "smoke_grid"])
    grid = dataclasses.replace(grid, objective="select_pixel_ap")
    digests = {name: digest for digest, name in cell_names(grid).items()}
    assert list(digests) == ["full", "no FFC", "no HSAS"]
    trials = [
        dataclasses.replace(trial(0, "finished", 0.2, hsas="2d"), digest=digests["full"]),
        dataclasses.replace(trial(1, "begun", hsas="none"), digest=digests["no HSAS"]),
    ]
    text = shown(grid, trials)
    assert re.findall(r"^│ +(\d) .*│ ([\w ]+?) *│$", text, re.MULTILINE) == [
        ("0", "full"),
        ("1", "no HSAS"),
    ]
    assert "Best: trial 0, full" in text


def test_the_rows_of_a_tuned_grid_say_what_was_tuned_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid, space, _ = parse(["--study", "mine", "--space", "optimizer", "--num-trials", "2"])
    grid = dataclasses.replace(grid, objective="select_pixel_ap")
    trials = [
        dataclasses.replace(
            trial(number, "finished", number / 10, **space.parameters(config)),
            configuration=config.to_dict(),
            digest=config.digest(),
        )
        for number, config in enumerate(space.cell_configurations().values())
    ]
    text = shown(grid, trials)
    names = re.findall(r"│ ((?:AdamW|SGD)(?: #2)?)[, ]", text)
    assert names == ["SGD #2", "SGD", "AdamW #2", "AdamW"]
    # The other optimizer's rate is not used.
    assert "Best: trial 3, SGD #2, sgd_learning_rate 0.1" in text
    assert "adamw_learning_rate 0.001" in text


def test_what_the_user_named_is_shown_as_written(config):
    trials = [
        trial(0, "finished", 0.2, corpus="[paper]"),
        trial(1, "begun", corpus="[/x]"),
    ]
    text = shown(config, trials)
    assert "│ corpus [paper] " in text
    assert "corpus [/x] " in text
    assert "Best: trial 0, corpus [paper]" in text


def test_a_study_in_which_nothing_finished_says_so(config):
    assert "No configuration finished." in shown(config, TRIALS[2:])


def test_failures_are_listed_with_their_reason():
    out = io.StringIO()
    failures(Console(file=out, width=80), TRIALS)
    assert out.getvalue() == "trial 3 failed: wood, seed 0: it blew up\n"


def test_the_commands_at_the_end_parse(config, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/study/run.py"])
    out = io.StringIO()
    next_steps(Console(file=out, width=80), config, done=4)
    commands = [line.strip() for line in out.getvalue().splitlines() if line.startswith("  ")]
    assert "--backend-store-uri sqlite:///runs/mlflow.db" in commands[0]
    assert commands[1].endswith("/somewhere/study/run.py --resume mine --num-trials 8")
    assert commands[2].endswith("/somewhere/study/run.py --data folder --data-root FOLDER")


def test_the_budget_that_was_not_spent_is_said_with_what_saved_it():
    budget = Budget(whole=16000, spent=10000, reused=2000, stopped=3000, failed=1000)
    assert budget_line(budget) == (
        "Budget: 10,000 of 16,000 iterations spent (62%); early stopping saved 3,000 (19%); "
        "fits of other studies saved 2,000 (12%); failures saved 1,000 (6%)"
    )
    whole = Budget(whole=4000, spent=4000)
    assert budget_line(whole) == "Budget: 4,000 of 4,000 iterations spent (100%)"
    assert budget_line(Budget()) == ""
