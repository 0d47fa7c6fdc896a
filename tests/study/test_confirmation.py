"""The best configuration beside the default on seeds that chose neither."""

import dataclasses

import pytest
from drivers import TINY, records, run
from made_studies import FIXED, begin, finish_search, write_space
from optuna.distributions import FloatDistribution
from rich.console import Console

from ffcad.config import TrainConfig
from study import confirmation as study_confirmation
from study.arguments import parse
from study.config import StudyConfig
from study.confirmation import confirmation
from study.inputs import Inputs, cases_of
from study.question import former_seeds, open_study
from study.results import read_results
from study.storage import Storage
from study.trials import StudyFolder, new_trial
from study.wording import caveats

INPUTS = Inputs(data={"wood@64": "w"}, textures={}, weights={"random": "r"}, method_version=1)


@pytest.fixture
def search(tmp_path):
    return parse(
        ["--storage", str(tmp_path), "--study", "mine", "--seeds", "3,1", "--confirm", "2"]
    )


def trial_of(config, space, number, value, **knobs):
    values = {"optimizer": "sgd", "sgd_learning_rate": 0.1, "hsas": "none", **knobs}
    configuration = TrainConfig.from_dict({**space.fixed, **values})
    cases = cases_of(config, INPUTS, configuration)
    trial = new_trial(number, space.parameters(configuration), configuration, cases)
    state = "stopped" if value is None else "finished"
    return dataclasses.replace(trial, state=state, value=value, ended=1.0)


def test_what_is_confirmed_is_the_best_of_the_report_and_none_that_was_stopped(
    tmp_path, monkeypatch
):
    path = tmp_path / "question.py"
    search = {"hsas_probability": FloatDistribution(0.05, 0.4)}
    write_space(path, "Which?", SEARCH=search, FIXED=FIXED)
    study = begin(tmp_path, path, "--categories", "wood,dial", "--seeds", "3,1", "--confirm", "2")
    drawn = [{"hsas_probability": 0.1 * n} for n in (1, 2, 3)]
    finish_search(study, drawn, lambda number, *case: 0.3 + 0.1 * number, stopped={2})
    asked = []
    monkeypatch.setattr(study_confirmation, "prepare", lambda config, grid: (config, INPUTS, []))
    monkeypatch.setattr(study_confirmation, "run_study", lambda *args, **more: asked.append(args))
    study_confirmation.confirm_best(study[0], study[1], Console())
    ((config, grid, *_),) = asked
    best = read_results(Storage(tmp_path / "runs"), "made").best
    assert grid.cell_configurations()["best"] == best.config
    assert best.config.hsas_probability == 0.2
    assert (config.name, config.seeds) == ("made-confirm", (4, 5))


def test_a_study_without_a_finished_configuration_has_nothing_to_confirm(tmp_path, monkeypatch):
    path = tmp_path / "question.py"
    search = {"hsas_probability": FloatDistribution(0.05, 0.4)}
    write_space(path, "Which?", SEARCH=search, FIXED=FIXED)
    study = begin(tmp_path, path, "--confirm", "2")
    monkeypatch.delattr(study_confirmation, "run_study")
    assert study_confirmation.confirm_best(study[0], study[1], Console()) == 0


def test_best_and_default_are_the_cells_of_a_grid_on_seeds_that_nobody_used(search):
    config, space, _ = search
    best = TrainConfig.from_dict(trial_of(config, space, 0, 0.3, global_ratio=0.25).configuration)
    confirming, grid = confirmation(config, space, best, config.seeds)
    assert (confirming.name, confirming.seeds, confirming.confirm) == ("mine-confirm", (4, 5), 0)
    assert confirming.categories == config.categories
    assert confirming.select_on == config.select_on
    assert confirming.search_space() == grid
    assert (list(grid.cells), grid.reference) == (["best", "default"], "default")
    assert grid.cell_configurations() == {
        "best": best, "default": TrainConfig.from_dict(space.fixed),
    }  # fmt: skip
    # Asking for more seeds keeps those that there were.
    more, _ = confirmation(dataclasses.replace(config, confirm=3), space, best, config.seeds)
    assert more.seeds == (4, 5, 6)


def test_seeds_from_before_a_study_was_extended_are_not_fresh(tmp_path):
    storage = str(tmp_path / "runs")
    folder = StudyFolder(Storage(storage), "mine")
    for seeds in ("0,1,2", "0", "1"):
        flags = ["--storage", storage, "--study", "mine", "--seeds", seeds, "--confirm", "2"]
        config, space, _ = parse([*flags, "--categories", "wood"])
        open_study(folder, config, space, INPUTS, extend=True)
    seeds = former_seeds(folder.read_document())
    assert seeds == [0, 1, 2]
    confirming, _ = confirmation(config, space, TrainConfig(), seeds)
    assert confirming.seeds == (3, 4)


def test_the_longest_name_that_can_be_confirmed_has_a_confirmation(search):
    config, space, _ = search
    config = dataclasses.replace(config, name="a" * 92)
    confirming, _ = confirmation(config, space, TrainConfig(), (0,))
    assert confirming.name == f"{'a' * 92}-confirm"


def test_the_best_of_what_was_tuned_in_cells_is_confirmed_too(tmp_path):
    config, space, _ = parse(
        ["--storage", str(tmp_path), "--space", "optimizer", "--num-trials", "2", "--confirm", "1"]
    )
    best = space.cell_configurations()["AdamW #2"]
    confirming, grid = confirmation(config, space, best, config.seeds)
    assert grid.cell_configurations()["best"] == best
    assert grid.cell_configurations()["default"] == TrainConfig()
    assert not confirming.nuisance


SEARCHED = """'Which encoder, and which optimizer?'
from optuna.distributions import CategoricalDistribution
SEARCH = {
    "encoder_weights": CategoricalDistribution(("distilled", "warm_start")),
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
}
FIXED = {}
"""
SET_BY_CELLS = """'Which encoder?'
from optuna.distributions import CategoricalDistribution
CELLS = {"distilled": {"encoder_weights": "distilled"}, "warm": {"encoder_weights": "warm_start"}}
NUISANCE = {"optimizer": CategoricalDistribution(("sgd", "adamw"))}
FIXED = {}
"""


@pytest.mark.parametrize("written", [SEARCHED, SET_BY_CELLS])
def test_the_default_has_the_bests_encoder_where_encoders_are_compared(tmp_path, written):
    (tmp_path / "encoders.py").write_text(written)
    flags = ["--storage", str(tmp_path), "--space", str(tmp_path / "encoders.py")]
    config, space, _ = parse([*flags, "--confirm", "2"])
    best = TrainConfig(encoder_weights="warm_start", optimizer="adamw")
    _, grid = confirmation(config, space, best, config.seeds)
    assert grid.cell_configurations() == {
        "best": best, "default": TrainConfig(encoder_weights="warm_start"),
    }  # fmt: skip


def test_the_first_study_says_where_the_figures_to_report_are(search):
    config, space, _ = search
    trials = [trial_of(config, space, 0, 0.3)]
    said = "report the figures of study mine-confirm"
    assert any(said in line for line in caveats(config, trials))
    plain = dataclasses.replace(config, confirm=0)
    assert not any(said in line for line in caveats(plain, trials))


@pytest.mark.slow
@pytest.mark.proof
def test_a_tuned_grid_is_run_confirmed_and_gone_on_with_by_the_same_command(tmp_path):
    # Without the default's constant rate, so that the best is never the default.
    (tmp_path / "rates.py").write_text(
        '"""Which optimizer?"""\n'
        "from optuna.distributions import FloatDistribution\n"
        'CELLS = {"AdamW": {"optimizer": "adamw"}, "SGD": {"lr_schedule": "cosine"}}\n'
        'NUISANCE = {"sgd_learning_rate": FloatDistribution(0.01, 0.1, log=True)}\n'
        'FIXED = {"reconstruction_loss": "cosine"}\n'
    )
    # AdamW has nothing to be tuned, and SGD two configurations.
    flags = [*TINY, "--space", "rates.py", "--num-trials", "2", "--log-checkpoints", "none"]
    code, output = run(tmp_path, *flags, "--confirm", "2")
    assert code == 0, output
    assert "3 configurations of 2 cells x 1 case = 3 fits: 3 to do" in output
    assert "report the figures of" in output
    assert "2 cells x 2 cases = 4 fits: 4 to do" in output
    done = records(tmp_path)
    assert len(done) == 7
    storage = Storage(tmp_path / "runs")
    first, second = (StudyFolder(storage, name) for name in ("mine", "mine-confirm"))
    config = StudyConfig.from_dict(first.read_document()["study"])
    best = read_results(storage, "mine").best.config
    assert config.search_space().cell_of(best) in (["AdamW"], ["SGD"])
    digests = {best.digest(), TrainConfig.from_dict(config.fixed).digest()}
    assert {(t.digest, t.cases[0].seed) for t in second.trials()} == {
        (digest, seed) for digest in digests for seed in (1, 2)
    }
    # What the first study's fits cost tells what the second one's will.
    assert "plan" not in first.read_document()
    plan = second.read_document()["plan"]
    assert (plan["fits"], plan["finished"]) == (4, 0)
    assert plan["seconds"] > 0
    # The first study is done; the second is gone on with.
    code, output = run(tmp_path, "--resume", "mine")
    assert code == 0, output
    assert records(tmp_path) == done
    # What the fits of the first sitting cost is known now.
    code, output = run(tmp_path, *flags, "--confirm", "3", "--dry-run")
    assert code == 0, output
    assert "ledger: 3 of 3 fits finished, 0 begun, 0 left" in output
    assert records(tmp_path) == done
