"""The command line: what it makes of flags, and that all that is wrong is one line and code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from study.arguments import parse
from study.config import StudyConfig, StudyError
from study.inputs import check_weights
from study.run import main
from study.storage import Storage
from study.trials import StudyFolder

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A folder to be in, where the default storage is made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def parsed(*flags):
    return parse(list(flags))[0]


def test_no_flags_give_the_smallest_study_on_synthetic_images(storage):
    config, space, _ = parse([])
    assert (config.data, config.space, config.seeds, config.num_trials) == (
        "synthetic", "smoke", (0,), 6,
    )  # fmt: skip
    assert config.storage == str(storage)
    assert config.cases == [("wood", 0)]
    assert config.search_space() == space


def test_flags_reach_the_study(storage):
    flags = (
        "--categories dial,weave --seeds 3,4 --num-trials 9 --select-on paper --holdout types "
        "--objective select_image_auroc --no-early-stopping --cpus-per-trial 2 "
        "--gpus-per-trial 0.5 --max-concurrent 3 --log-checkpoints none --study mine "
        "--set image_size=128 --set hsas=none --set channels_last=true"
    )
    config, space, _ = parse(flags.split())
    assert config.name == "mine"
    assert config.cases == [("dial", 3), ("weave", 3), ("dial", 4), ("weave", 4)]
    assert (config.num_trials, config.select_on, config.holdout) == (9, "paper", "types")
    assert (config.objective, config.early_stopping) == ("select_image_auroc", False)
    assert (config.cpus_per_trial, config.gpus_per_trial, config.max_concurrent) == (2, 0.5, 3)
    assert space.fixed["image_size"] == 128
    assert space.fixed["channels_last"] is True
    assert "hsas" not in space.search


def test_a_study_survives_its_document(storage):
    config = parsed("--seeds", "1,2", "--tracking-uri", "sqlite:///x.db")
    assert StudyConfig(**config.to_dict()) == config


def test_the_default_name_follows_the_question_and_not_the_budget(storage):
    name = parsed().name
    assert name.startswith("smoke-synthetic-")
    assert parsed("--num-trials", "50", "--max-concurrent", "1").name == name
    for other in (["--seeds", "1"], ["--set", "batch_size=4"], ["--no-early-stopping"]):
        assert parsed(*other).name != name


def test_resuming_takes_everything_from_the_study_but_what_is_given_anew(storage):
    config = parsed("--study", "mine", "--seeds", "5", "--set", "batch_size=4")
    document = {"study": config.to_dict(), "inputs": {}}
    StudyFolder(Storage(storage), "mine").write_document(document)
    again, space, _ = parse(["--resume", "mine", "--num-trials", "20"])
    assert again.asked() == config.asked()
    assert again.num_trials == 20
    assert space.fixed["batch_size"] == 4


def test_the_draws_of_each_cell_are_a_budget_that_grows_and_never_shrinks(storage):
    config, space, _ = parse(["--space", "optimizer"])
    assert (config.draws, space.draws, len(space.distinct_cells())) == (6, 6, 12)
    more = parsed("--space", "optimizer", "--num-trials", "8")
    assert (more.name, more.draws, more.asked()) == (config.name, 8, config.asked())
    StudyFolder(Storage(storage), more.name).write_document({"study": more.to_dict(), "inputs": {}})
    for flags in (["--space", "optimizer"], ["--resume", more.name, "--num-trials", "2"]):
        config, space, _ = parse(flags)
        assert (config.draws, space.draws, config.num_trials) == (8, 8, 6)
        assert config.search_space() == space
    assert parsed("--resume", more.name, "--num-trials", "9").draws == 9


def test_a_study_without_the_newer_fields_is_the_one_that_it_was(storage):
    document = parsed("--space", "smoke_grid").to_dict()
    for name in ("reference", "tables", "nuisance", "draws"):
        del document[name]
    # As an earlier version named it.
    assert document["name"] == "smoke_grid-synthetic-43e293"
    old = StudyConfig.from_dict({**document, "name": ""})
    assert old.name == document["name"]
    assert "nuisance" not in old.asked()
    assert old.search_space().reference == "full"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--space smok", "search space 'smok': unknown; did you mean 'smoke'?"),
        ("--space none.py", "search space 'none.py': no such file"),
        ("--set ffc_layer=2", "unknown knob 'ffc_layer'; did you mean 'ffc_layers'?"),
        ("--set ffc_layers=7", "ffc_layers must be one of 1, 2, 3 but got 7"),
        ("--set image_size", "--set takes knob=value"),
        ("--categories dail", "no category 'dail'; there are dial"),
        ("--categories ,", "--categories is empty"),
        ("--categories dial,dial", "--categories names one twice: dial,dial"),
        ("--seeds a", "--seeds must be numbers like 0,1,2 but got 'a'"),
        ("--seeds -1", "--seeds must be 0 or more but got -1"),
        ("--num-trials 0", "--num-trials must be 1 or more but got 0"),
        ("--num-trials 0 --space optimizer", "--num-trials must be 1 or more but got 0"),
        ("--num-trials 3 --space smoke_grid", "'smoke_grid' is a grid of 3 cells, which are all"),
        ("--num-trials many", "invalid int value: 'many'"),
        ("--data pictures", "invalid choice: 'pictures'"),
        ("--data mvtec", "--data mvtec needs --data-root"),
        ("--data mvtec --data-root nowhere", "--data-root 'nowhere' is no folder"),
        ("--textures nowhere", "--textures 'nowhere' is no folder"),
        ("--encoder nowhere.pth", "--encoder 'nowhere.pth' is no file"),
        ("--select-on test", "invalid choice: 'test'"),
        ("--objective report_pixel_ap", "invalid choice: 'report_pixel_ap'"),
        ("--gpus-per-trial 1.5", "--gpus-per-trial above 1 must be a whole number but got 1.5"),
        ("--gpus-per-trial nan", "--gpus-per-trial must be 0 or more but got nan"),
        ("--gpus-per-trial most", "--gpus-per-trial: must be a number or auto but got 'most'"),
        ("--cpus-per-trial 0", "--cpus-per-trial must be 1 or more"),
        ("--study a/b", "--study must be 1 to 100 letters"),
        (f"--study {'a' * 101}", "--study must be 1 to 100 letters"),
        (f"--confirm 1 --study {'a' * 93}", "first (with --confirm, whose study adds '-confirm')"),
        ("--resume nothing", "no study 'nothing' in"),
        ("--tracking-uri ./mlruns", "--tracking-uri must be a database or a server"),
        ("--storage /dev/null/x", "--storage /dev/null/x cannot be written: Not a directory"),
        ("--nonsense", "unrecognized arguments: --nonsense; --help lists the flags"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(storage, capsys, flags, message):
    assert main(flags.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_objective_that_needs_masks_is_refused_where_there_are_none(storage, tmp_path, capsys):
    from PIL import Image

    for i in range(24):
        split = ("train/good", "test/good", "test/scratch")[i % 3]
        path = tmp_path / "photos" / "part" / split / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 20 + i).convert("RGB").save(path)
    flags = ["--data", "mvtec", "--data-root", str(tmp_path / "photos")]
    assert main([*flags, "--objective", "select_pixel_ap"]) == 2
    assert "part has no masks, so there is no select_pixel_ap" in capsys.readouterr().err


def test_weights_that_fit_no_architecture_of_the_space_are_refused(storage, tmp_path, capsys):
    import torch
    from torchvision.models import resnet18

    path = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), path)
    flags = ["--encoder", str(path)]
    assert main(flags) == 2
    assert "global_ratio" in capsys.readouterr().err
    fits = [*flags, "--set", "ffc_encoder=false", "--set", "ffc_layers=2"]
    check_weights(parse(fits)[1])


def test_the_script_answers_before_torch_and_ray_are_imported(tmp_path):
    script = REPOSITORY / "study" / "run.py"
    code = (
        "import runpy, sys\n"
        "sys.argv = ['run.py', '--space', 'smok']\n"
        f"sys.path[0] = {str(script.parent)!r}\n"
        "try:\n"
        f"    runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as e:\n"
        "    assert e.code == 2\n"
        "heavy = {'torch', 'ray', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        # There, study/config.py would be found as `config`.
        f"assert {str(script.parent)!r} not in sys.path\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_with_two_meanings_is_refused(storage):
    with pytest.raises(StudyError, match="two studies"):
        parsed("--resume", "a", "--study", "b")
