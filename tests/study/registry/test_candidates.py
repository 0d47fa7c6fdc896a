"""Which fits of a study are promoted: made-up numbers, real documents."""

import pytest
from made_studies import FIXED, begin, finish_grid, finish_search, write_space
from optuna.distributions import FloatDistribution

from study.config import StudyError
from study.ledger import CHECKPOINT
from study.registry.candidates import candidates
from study.registry.terms import Terms
from study.results import read_results

CELLS = {"all": {}, "no HSAS": {"hsas": "none"}, "one layer": {"ffc_layers": 1}}


def metrics(cell, category, seed):
    # The select split's are half of these; the report split says the opposite.
    value = {"all": 0.5, "no HSAS": 0.6, "one layer": 0.4}[cell] + 0.01 * seed
    return {"image_auroc": 1 - value, "pixel_ap": value}


@pytest.fixture
def grid(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=CELLS, FIXED=FIXED)
    study = begin(tmp_path, space, "--categories", "wood,dial", "--seeds", "0,1")
    finish_grid(study, metrics)
    return keep_checkpoints(study)


def keep_checkpoints(study):
    ledger = study[-1]
    for key in list(ledger.keys()):
        ledger.storage.write(f"{ledger.folder(key)}/{CHECKPOINT}", b"weights")
    return study


def chosen(study, name=None, categories=()):
    storage = study[-1].storage
    return candidates(read_results(storage, "made"), storage, name, categories)


def test_the_best_configuration_gives_its_best_seed_for_each_category(grid):
    found = chosen(grid)
    assert [(c.configuration, c.fit.category, c.fit.seed, c.seeds) for c in found] == [
        ("no HSAS", "wood", 1, 2),
        ("no HSAS", "dial", 1, 2),
    ]
    assert all(c.config.hsas == "none" for c in found)
    assert all(grid[-1].storage.version(c.checkpoint) for c in found)


def test_a_configuration_can_be_named_and_categories_chosen(grid):
    (one,) = chosen(grid, "one layer", ("dial",))
    assert (one.config.ffc_layers, one.fit.category) == (1, "dial")
    assert chosen(grid, one.config.digest()[:10], ("dial",))[0].fit.key == one.fit.key
    number = one.fit.trial
    assert chosen(grid, f"trial {number}", ("dial",))[0].configuration == "one layer"


def test_what_is_not_there_is_refused_in_one_line(grid):
    with pytest.raises(StudyError, match="there is none of that name; there are 'all'"):
        chosen(grid, "two layers")
    with pytest.raises(StudyError, match=r"--categories bolt: .* are wood, dial"):
        chosen(grid, None, ("bolt",))
    (one,) = chosen(grid, None, ("dial",))
    grid[-1].storage.delete(one.checkpoint)
    with pytest.raises(StudyError, match=f"fit {one.fit.key} .* is not in"):
        chosen(grid)


def test_a_search_half_done_gives_no_trial_that_was_stopped(tmp_path):
    space = tmp_path / "search.py"
    write_space(
        space,
        "Which rate?",
        SEARCH={"adamw_learning_rate": FloatDistribution(1e-4, 1e-2)},
        FIXED={**FIXED, "optimizer": "adamw"},
    )
    study = begin(tmp_path, space, "--categories", "wood,dial")
    drawn = [{"adamw_learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    finish_search(study, drawn, lambda number, *case: 0.3 + 0.1 * number, stopped={2})
    keep_checkpoints(study)
    found = chosen(study)
    assert {c.config.adamw_learning_rate for c in found} == {2e-3}
    # By name, what it has finished may be taken.
    (one,) = chosen(study, "trial 2", ("wood",))
    assert one.config.adamw_learning_rate == 3e-3
    with pytest.raises(StudyError, match="has no finished fit of dial"):
        chosen(study, "trial 2")


def test_a_study_without_a_finished_configuration_has_no_candidate(tmp_path):
    space = tmp_path / "question.py"
    write_space(space, "What helps?", CELLS=CELLS, FIXED=FIXED)
    study = begin(tmp_path, space, "--categories", "wood,dial")
    finish_grid(study, metrics, lambda cell, category, seed: category == "wood")
    with pytest.raises(StudyError, match="no configuration of 'made' is finished"):
        chosen(study)


@pytest.mark.parametrize(
    ("terms", "flag"),
    [
        ({"false_alarm_rate": 1.0}, "--false-alarm-rate"),
        ({"margin": -0.1}, "--margin"),
        ({"factor": 0.0}, "--iterations-factor"),
        ({"most_size_mb": float("nan")}, "--most-size-mb"),
        ({"force": " "}, "--force"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms, flag):
    with pytest.raises(StudyError, match=flag):
        Terms(**terms)
