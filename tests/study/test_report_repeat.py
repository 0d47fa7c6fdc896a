"""The command in a report, given again, is the study that was reported."""

import dataclasses
import shlex

import pytest
from made_studies import FIXED, begin, write_space
from optuna.distributions import FloatDistribution

from study.arguments import parse
from study.machine import code_environment, worker_environment
from study.report_repeat import VERSIONS, command, repeat_blocks
from study.report_tables import Listing, Text
from study.results import read_results
from study.storage import Storage

CELLS = {"all": {}, "no HSAS": {"hsas": "none"}}


def again(config, folder, monkeypatch):
    """The study that a report's command asks for, given where the user's space is."""
    words = shlex.split(command(config))
    assert words[:4] == ["python", "-m", "study", "run"]
    monkeypatch.chdir(folder)
    found, _, _ = parse([*words[4:], "--storage", config.storage])
    return found


def asked(config):
    """What two studies must agree on; paths, of weights too, are left out of `asked`."""
    return config.name, config.asked(), config.fixed, config.confirm


@pytest.mark.parametrize("encoder", ["distilled", "random", "a file", None])
def test_the_command_asks_the_same_question_with_the_same_encoder(encoder, tmp_path, monkeypatch):
    weights = tmp_path / "my weights.pt"
    weights.write_bytes(b"weights")
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=CELLS, FIXED=FIXED)
    given = str(weights) if encoder == "a file" else encoder
    flags = ["--encoder", given] if given else []
    config = begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,2", *flags)[0]
    assert config.fixed.get("encoder_weights") == given
    assert asked(again(config, tmp_path, monkeypatch)) == asked(config)


def test_the_command_has_what_a_confirmed_search_was_asked(tmp_path, monkeypatch):
    space = tmp_path / "question.py"
    search = {"global_ratio": FloatDistribution(0.25, 0.75)}
    write_space(space, "Which?", SEARCH=search, FIXED=FIXED)
    config = begin(tmp_path, space, "--confirm", "3", "--num-trials", "9")[0]
    repeated = again(config, tmp_path, monkeypatch)
    assert asked(repeated) == asked(config)
    assert (repeated.confirm, repeated.num_trials) == (3, 9)


def test_the_command_has_what_runs_at_once(tmp_path, monkeypatch):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=CELLS, FIXED=FIXED)
    flags = ["--cpus-per-trial", "2", "--gpus-per-trial", "0.5", "--max-concurrent", "3"]
    config = begin(tmp_path, space, *flags)[0]
    repeated = again(config, tmp_path, monkeypatch)
    assert repeated.cpus_per_trial == 2
    assert (repeated.gpus_per_trial, repeated.max_concurrent) == (0.5, 3)


@pytest.mark.parametrize("searched", [False, True])
def test_the_same_numbers_are_promised_of_a_grid_and_of_a_searchs_fits(searched, tmp_path):
    space = tmp_path / "question.py"
    search = {"SEARCH": {"hsas_probability": FloatDistribution(0.1, 0.2)}}
    write_space(space, "Which?", FIXED=FIXED, **(search if searched else {"CELLS": CELLS}))
    begin(tmp_path, space)
    text = repeat_blocks(read_results(Storage(tmp_path / "runs"), "made"))[0].text
    exact = "gives the same numbers, on a CPU with the same number of threads bit for bit:"
    assert text.endswith(exact)
    assert ("each fit " + exact in text) == searched
    assert ("depends on the order in which trials end" in text) == searched


def test_the_versions_that_a_fit_notes_are_in_the_report(tmp_path):
    noted = code_environment() | worker_environment()
    assert [key for _, key in VERSIONS if not noted.get(key)] == []
    assert "scipy" in noted


def test_a_built_in_space_that_changed_is_noted_and_one_with_pinned_knobs_is_not(tmp_path):
    study = begin(tmp_path, "hpo", "--set", "hsas=none", "--categories", "wood")
    results = read_results(Storage(tmp_path / "runs"), "made")
    noted = "says something else by now"

    def notes(config):
        blocks = repeat_blocks(dataclasses.replace(results, config=config))
        return " ".join(b.text for b in blocks if isinstance(b, Text))

    config = study[0]
    assert noted not in notes(config)
    fewer = dict(list(config.search.items())[1:])
    assert noted in notes(dataclasses.replace(config, search=fewer))


def test_a_confirmation_has_no_command_of_its_own(tmp_path):
    space = tmp_path / "question-confirm.py"
    write_space(space, "Is the best better?", CELLS=CELLS, FIXED=FIXED)
    begin(tmp_path, space, "--seeds", "3,4")
    results = read_results(Storage(tmp_path / "runs"), "made")
    confirming = dataclasses.replace(results.config, name="mine-confirm")
    first, *rest = repeat_blocks(dataclasses.replace(results, config=confirming))
    assert "confirms the best configuration of “mine”" in first.text
    assert first.text.endswith("with --confirm 2.")
    assert not any(isinstance(b, Listing) for b in rest)
    assert any(isinstance(b, Listing) for b in repeat_blocks(results))
