"""`python -m study encoders`, on encoders that were made in this process."""

import dataclasses
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ffcad.config import TrainConfig
from study.__main__ import main
from study.arguments import parse
from study.context import StudyContext
from study.encoder_making import Making
from study.encoders import NOT_MADE, EncoderStore, new_record
from study.inputs import cases_of, prepare
from study.leases import Waiter
from study.ledger import FitRecord, Ledger
from study.plan import make_plan
from study.question import study_of
from study.storage import Storage
from study.tracking import Mirror
from study.trials import StudyFolder, new_trial

SPACE = """
from optuna.distributions import CategoricalDistribution
SEARCH = {"global_ratio": CategoricalDistribution((0.25, 0.5, 0.75))}
FIXED = {"ffc_layers": 1, "image_size": 32}
"""


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """A storage with a study whose search has three ratios, of which one encoder is made."""
    folder = tmp_path_factory.mktemp("storage")
    (folder / "ratios.py").write_text(SPACE)
    flags = f"--study mine --categories dial --storage {folder} --space {folder}/ratios.py {recipe}"
    config, space, _ = parse(flags.split())
    config, inputs, _ = prepare(config, space)
    study = StudyFolder(Storage(folder), "mine")
    study.write_document({"study": config.to_dict(), "inputs": vars(inputs)})
    configuration = TrainConfig.from_dict({**space.fixed, "global_ratio": 0.5})
    case = cases_of(config, inputs, configuration)[0]
    need = inputs.encoder_need(configuration)
    context = StudyContext(config, inputs, 0, 1, {})
    for _ in Making(context, need).run():
        pass
    Ledger(Storage(folder)).write(
        FitRecord(
            key=case.key, status="finished", study="mine", trial=0, category="dial", seed=0,
            configuration=configuration.to_dict(), digest=configuration.digest(),
            select_on="holdout", inputs={"weights": need.key}, began=1.0, ended=2.0,
        )
    )  # fmt: skip
    return folder, need


@pytest.fixture
def mine(made, tmp_path):
    """The same as `made`, for a test that changes it."""
    return shutil.copytree(made[0], tmp_path / "storage"), made[1]


@pytest.fixture
def command(made, capsys, monkeypatch):
    """Runs it; its exit code and output."""

    def call(*flags, storage=made[0]):
        monkeypatch.setenv("COLUMNS", "80")
        code = main(["encoders", *flags, "--storage", str(storage)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def test_a_list_has_what_is_there_and_of_a_study_what_is_missing(made, command):
    _, need = made
    code, output = command()
    assert code == 0
    assert need.key in output
    assert max(map(len, output.splitlines())) <= 80
    assert "ratio 0.5" in output
    assert "missing" not in output
    code, output = command("list", "mine")
    assert output.count("missing") == 2
    document = json.loads(command("list", "mine", "--json")[1])
    (card,) = document["encoders"]
    assert (card["key"], card["status"], card["study"]) == (need.key, "finished", "mine")
    assert len(document["missing"]) == 2
    code, output = command("list", "yours")
    assert (code, output.count("\n")) == (2, 1)
    assert "no study 'yours'" in output


def test_a_check_finds_a_file_that_is_not_what_its_card_says(made, command):
    folder, need = made
    code, output = command("check")
    assert (code, "as its card says" in output) == (0, True)
    path = folder / EncoderStore(Storage(folder)).weights(need.key)
    whole = path.read_bytes()
    try:
        state = load_file(path)
        save_file({**state, "bn1.bias": state["bn1.bias"] + 1}, path)
        code, output = command("check", "mine")
        assert (code, "has another content than its card says" in output) == (3, True)
        del state["bn1.bias"]
        save_file(state, path)
        assert "belongs to another architecture: bn1.bias is missing" in command("check")[1]
        path.write_bytes(whole[:100])
        assert "cannot be read as weights" in command("check")[1]
        path.unlink()
        assert "is missing" in command("check")[1]
    finally:
        path.write_bytes(whole)


def test_an_encoder_is_removed_unless_somebody_makes_it(mine, command):
    folder, need = mine
    storage = Storage(folder)
    store = EncoderStore(storage)
    lease = Waiter(storage, store.folder(need.key), {"study": "yours"}).attempt()
    code, output = command("remove", need.key, storage=folder)
    assert (code, output.count("\n")) == (2, 1)
    assert "is being made by process" in output
    assert "for study yours" in output
    lease.forget()
    assert store.read(need.key) is not None
    code, output = command("remove", need.key, storage=folder)
    assert code == 0
    assert "1 fit of study mine used it and keep" in output
    assert not (folder / store.folder(need.key)).exists()
    assert store.keys() == []
    code, output = command("remove", need.key, storage=folder)
    assert code == 2
    assert "there are none" in output
    assert "no encoder in" in command(storage=folder)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoders", "make"], "encoders make needs a study's name, or the flags of `run`"),
        (["encoders", "--storage", "{}", "make", "nobodys"], "no study 'nobodys'"),
        (["encoders", "make", "--storage", "{}", "nobodys"], "no study 'nobodys'"),
        (["encoders", "make", "--categories", "dial", "--json"], "unrecognized arguments: --json"),
    ],
)
def test_make_takes_its_words_in_any_order(made, capsys, arguments, message):
    assert main([a.format(made[0]) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_trial_that_failed_for_its_encoder_is_gone_through_again_when_that_is_there(mine):
    folder = StudyFolder(Storage(mine[0]), "mine")
    config, space, inputs = study_of(folder)
    ledger = Ledger(folder.storage)
    for number, ratio in ((0, 0.5), (1, 0.25)):
        configuration = TrainConfig.from_dict({**space.fixed, "global_ratio": ratio})
        cases = cases_of(config, inputs, configuration)
        trial = new_trial(number, {"global_ratio": ratio}, configuration, cases)
        error = f"dial, seed 0: EncoderError: {NOT_MADE}: PretrainError: the loss became nan"
        folder.write_trial(dataclasses.replace(trial, state="failed", error=error, ended=1.0))
    need = mine[1]  # of ratio 0.5
    EncoderStore(folder.storage).write(new_record(need, status="finished", study="another"))
    plan = make_plan(config, space, inputs, folder, ledger)
    assert [trial.state for trial in plan.trials] == ["begun", "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unreadable", "removed"])
def test_the_run_of_an_encoder_whose_card_is_no_more_keeps_its_end(mine, how):
    folder, need = mine
    config, *_ = study_of(StudyFolder(Storage(folder), "mine"))
    Mirror(config).sync(live=False)
    if how == "removed":
        assert main(["encoders", "remove", need.key, "--storage", str(folder)]) == 0
    else:
        (folder / "encoders" / need.key / "card.json").write_text("{")
    Mirror(config).sync(live=False)
    mirror = Mirror(config)
    mirror.sync(live=False)
    run = mirror.experiment.runs["encoder", need.key]
    assert run.status == "FINISHED"
    assert "retired" not in run.tags
