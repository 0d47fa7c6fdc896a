"""`python -m study promote` on a tiny study that was really trained, from fit to rollback."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from made_models import other_process
from PIL import Image

from ffcad.datasets import load_category
from study.__main__ import main
from study.config import StudyError
from study.fits import Fit
from study.inputs import cases_of
from study.ledger import FINISHED
from study.machine import machine_in_words
from study.question import ask
from study.registry.candidates import candidates
from study.registry.card import CHOSEN_ON_REPORTED
from study.registry.command import REFUSED_CODE, own_folders
from study.registry.from_fit import FromFit
from study.registry.mlflow_registry import Registry
from study.registry.terms import Terms
from study.results import read_results
from study.signals import INTERRUPTED
from study.storage import Storage
from study.trials import StudyFolder, new_trial

pytestmark = [
    pytest.mark.filterwarnings("ignore::ffcad.encoder_weights.RandomEncoderWarning"),
    # MLflow's models say so when they are imported.
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]

# `python -m study`; what is started by a script in the background has Ctrl-C ignored.
IN_FOREGROUND = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('study', run_name='__main__', alter_sys=True)"
)
MODEL, WOOD = "ffcad-synthetic-dial", "ffcad-synthetic-wood"


def train(folder, make_context, flags, optimizers):
    """A study with a configuration for each optimizer, whose fits are done."""
    context = make_context(folder, flags)
    study, space = context.study, context.study.search_space()
    documents = StudyFolder(Storage(folder), study.name)
    ask(documents, study, space, context.inputs, [])
    for number, optimizer in enumerate(optimizers):
        config = dataclasses.replace(space.corners([])[0], optimizer=optimizer)
        cases, values = cases_of(study, context.inputs, config), []
        for case in cases:
            fit = Fit(context, number, config, case)
            for _ in fit.run():
                pass
            values.append(fit.record.metrics[study.objective])
        trial = dataclasses.replace(
            new_trial(number, space.parameters(config), config, cases),
            state=FINISHED,
            value=float(np.mean(values)),
            spent=config.iterations * len(cases),
            ended=time.time(),
        )
        documents.write_trial(trial)
        documents.count_trial(number)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_context):
    """The folder of a study of two configurations, each on one case, and of one on two cases."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, make_context, "--study tiny", ("adamw", "sgd"))
    train(folder, make_context, "--study pair --categories wood,dial", ("adamw",))
    return folder


def candidate_of(folder, study):
    """The study's configuration, and the fit that would be promoted."""
    results = read_results(Storage(folder), study)
    (candidate,) = candidates(results, Storage(folder), None, ("dial",))
    return results.config, candidate


@pytest.fixture
def promote(trained, capsys, monkeypatch):
    """Gives the command; returns exit code, output and errors."""

    def call(*arguments):
        # MLflow sets it for its process; each command has one of its own.
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        code = main(["promote", *arguments, "--storage", str(trained)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.slow
def test_a_study_is_promoted_refused_forced_copied_and_rolled_back(promote, trained, tmp_path):
    code, out, err = promote("tiny", "--configuration", "trial 0")
    assert (code, err) == (0, "")
    assert f"{MODEL} version 1 is champion, the first" in out
    assert re.search(r"image_auroc +0\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", out)
    assert max(map(len, out.splitlines())) <= 80

    second = ("tiny", "--configuration", "trial 1")
    code, out, _ = promote(*second, "--most-latency-ms", "0.001")
    assert code == REFUSED_CODE
    assert f"{MODEL} version 2 was refused against version 1 and is challenger" in out
    assert "at most 0.001 allowed" in out
    code, out, err = promote(*second, "--margin", "0.9", "--dry-run", "--json")
    (foreseen,) = json.loads(out)["promoted"]
    assert (code, foreseen["verdict"], foreseen["against"]) == (0, "passed", 1)
    code, out, _ = promote(*second, "--force", "shown at the line", "--most-size-mb", "0.1")
    assert (code, "is champion by force against version 1" in out) == (0, True)

    code, out, _ = promote("--compare", MODEL)
    assert (code, "shown at the line" in out) == (0, True)
    other = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code, out, _ = promote("--copy", f"models:/{MODEL}@champion", "--to", other, "--json")
    assert (code, json.loads(out)["promoted"][0]["verdict"]) == (0, "first")
    code, out, _ = promote("--list", "--tracking-uri", other)
    assert (code, "champion" in out) == (0, True)

    code, out, err = promote("--rollback", MODEL, "--reason", "it was dark")
    assert (code, out, err) == (0, f"{MODEL}: version 1 is champion again, after 2\n", "")
    code, out, _ = promote("--list", "--json")
    versions = {v["number"]: v for v in json.loads(out)[MODEL]}
    assert {n: (v["gate"], v["aliases"]) for n, v in versions.items()} == {
        1: ("first", ["champion"]),
        2: ("forced", []),
    }
    assert versions[2]["tags"]["rolled_back"] == "it was dark"
    assert f"| costs measured on | {machine_in_words()} |" in versions[1]["description"]
    assert versions[1]["tags"]["measured_on"] == machine_in_words()
    for digest in ("data_digest", "encoder_digest"):
        assert f" | {versions[1]['tags'][digest]} |" in versions[1]["description"]
    assert "best F1 on 18 defective and 12 normal images" in versions[1]["description"]
    code, out, _ = promote(*second)
    assert (code, "--force REASON makes it so again" in " ".join(out.split())) == (0, True)


def write_images(folder, split, shift):
    """A split's images as a folder for `--gate-data`, a little darker or lighter."""
    for i in range(len(split)):
        kind = split.defect_types[i]
        pixels = np.clip(split.images[i].astype(int) + shift, 0, 255).astype(np.uint8)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{i}.png")
        if split.labels[i]:
            masks = folder / "ground_truth" / kind
            masks.mkdir(parents=True, exist_ok=True)
            mask = (np.asarray(split.masks[i]) > 0).astype(np.uint8) * 255
            Image.fromarray(mask).save(masks / f"{i}_mask.png")


@pytest.mark.slow
def test_images_that_are_given_decide_if_they_made_no_model(promote, trained, tmp_path):
    data = load_category("synthetic", None, "dial", 32, select_on="holdout")
    write_images(tmp_path / "new", data.report, 1)
    write_images(tmp_path / "known", data.select, 0)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    at = ("--tracking-uri", uri, "--gate-data")
    code, _, err = promote("tiny", "--configuration", "trial 0", *at, str(tmp_path / "known"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--gate-data" in err
    code, out, err = promote("tiny", "--configuration", "trial 0", *at, str(tmp_path / "new"))
    assert (code, err) == (0, ""), (out, err)
    code, out, _ = promote("tiny", "--configuration", "trial 1", *at, str(tmp_path / "new"))
    version = Registry(uri).version(MODEL, 2)
    normal = int((~data.report.labels).sum())
    assert version.tags["gate_images"].startswith(f"{tmp_path / 'new'}: {normal} normal, ")
    assert "without masks" not in version.tags["gate_images"]
    assert {"gate_image_auroc", "gate_pixel_ap"} <= version.tags.keys()
    assert code in (0, REFUSED_CODE)


@pytest.mark.slow
def test_what_a_study_under_paper_chose_is_promoted_by_force_only(
    promote, trained, make_context, tmp_path
):
    train(trained, make_context, "--study papers --select-on paper", ("adamw",))
    at = ("--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    code, out, _ = promote("papers", *at)
    assert code == REFUSED_CODE
    assert " ".join(CHOSEN_ON_REPORTED.split()) in " ".join(out.split())
    assert Registry(at[1]).champion(MODEL) is None
    code, _, _ = promote("papers", *at, "--force", "for the demonstration")
    assert code == 0
    assert Registry(at[1]).champion(MODEL).tags["force_reason"] == "for the demonstration"


@pytest.mark.slow
def test_a_fit_is_trained_again_with_more_images_and_a_part_is_kept_out(promote, tmp_path):
    generator, folder = np.random.default_rng(0), tmp_path / "more"
    folder.mkdir()
    for i in range(10):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    arguments = ("tiny", "--iterations-factor", "2", "--normal-images", str(folder), "--json")
    code, out, err = promote(*arguments, "--false-alarm-rate", "0.2", "--tracking-uri", uri)
    assert (code, err) == (0, "")
    (done,) = json.loads(out)["promoted"]
    assert json.loads(done["tags"]["retrained"]) == {
        "factor": 2.0,
        "more_normal_images": 8,
        "kept_out": 2,
    }
    assert done["tags"]["false_alarm_rate"] == "0.2"
    [versions] = json.loads(promote("--list", "--json", "--tracking-uri", uri)[1]).values()
    wanted = "of new ones like them at most 20.00% are expected to be false alarms (not measured)"
    assert wanted in versions[0]["description"]
    code, out, err = promote("tiny", "--false-alarm-rate", "0.001", "--tracking-uri", uri)
    assert code == 2
    assert re.fullmatch(r"error: dial: a false-alarm rate of 0.001 needs 999 .*\n", err)


@pytest.mark.slow
def test_a_category_that_cannot_be_had_does_not_keep_the_other_back(trained, promote, tmp_path):
    _, candidate = candidate_of(trained, "pair")
    checkpoint = trained / candidate.checkpoint
    whole = checkpoint.read_bytes()
    arguments = ("pair", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    checkpoint.write_bytes(b"scratched")
    try:
        code, out, err = promote(*arguments)
        assert code == 2
        assert "ffcad-synthetic-wood version 1 is champion, the first" in out
        assert re.fullmatch(r"error: dial: .* cannot be read .*; bring it back, or .*\n", err)
        assert err.endswith("; wood: done\n")
        again = promote(*arguments, "--json")
        assert (again[0], again[2]) == (2, err)
        (wood,) = json.loads(again[1])["promoted"]
        assert (wood["model"], wood["champion"], wood["unchanged"]) == (WOOD, True, True)
    finally:
        checkpoint.write_bytes(whole)
    code, out, err = promote(*arguments)
    assert (code, err) == (0, "")
    before = f"{WOOD} version 1 was promoted before (first), and is the champion"
    assert before in " ".join(out.split())
    assert f"{MODEL} version 1 is champion, the first" in out
    listed = json.loads(promote("--list", "--json", *arguments[1:])[1])
    assert {name: [v["gate"] for v in versions] for name, versions in listed.items()} == {
        MODEL: ["first"],
        WOOD: ["first"],
    }


@pytest.mark.slow
def test_one_fit_is_trained_again_by_one_promotion_at_a_time(trained, promote, tmp_path):
    study, candidate = candidate_of(trained, "tiny")
    again = ("tiny", "--iterations-factor", "3", "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    meanwhile = []

    def tell(progress, iterations):
        if not meanwhile:
            meanwhile.append(promote(*again))

    FromFit(candidate, study, Storage(trained), Terms(factor=3.0), tell).make()
    ((code, _, err),) = meanwhile
    assert code == 2
    assert re.fullmatch(r"error: dial: another promotion trains the same in .*; wait for .*\n", err)
    assert promote(*again)[0] == 0


@pytest.mark.slow
def test_a_retraining_that_is_interrupted_goes_on_where_it_was(trained):
    study, candidate = candidate_of(trained, "tiny")
    terms, seen = Terms(factor=4.0), []

    def interrupted(progress, iterations):
        seen.append(progress.iteration)
        if progress.iteration > iterations / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FromFit(candidate, study, Storage(trained), terms, interrupted).make()
    later = []
    source = FromFit(
        candidate, study, Storage(trained), terms, lambda progress, _: later.append(progress)
    )
    source.make()
    assert seen[0] < seen[-1] <= later[0].iteration
    assert later[-1].iteration == 4 * candidate.config.iterations


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_changed_and_the_same_command_completes_it(
    trained, promote, tmp_path
):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = Registry(uri, make=True)
    command = ["tiny", "--tracking-uri", uri, "--storage", str(trained)]
    with other_process() as promoter:
        ahead = registry.create(MODEL, "file:///nowhere", None, "another", "Made up.", {})
        registry.tag(ahead, {"promoter": promoter})
        process = subprocess.Popen(
            [sys.executable, "-c", IN_FOREGROUND, "promote", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Once it is registered it waits, for as long as the other one is there.
        assert any("waiting for version 1" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert (process.returncode, err) == (INTERRUPTED, "interrupted\n")
        found = {v.number: (v.gate, v.aliases) for v in registry.versions(MODEL)}
        assert found == {1: ("pending", ()), 2: ("waiting", ())}
    code, out, _ = promote(*command[:3])
    assert (code, f"{MODEL} version 2 is champion, the first" in out) == (0, True)


def test_several_categories_have_folders_of_their_own(tmp_path):
    for name in ("gate/wood", "gate/dial", "more/wood"):
        (tmp_path / name).mkdir(parents=True)
    gate, more = tmp_path / "gate", tmp_path / "more"
    found = own_folders(Terms(gate_data=gate), "dial", 2)
    assert found.gate_data == gate / "dial"
    assert own_folders(Terms(gate_data=gate / "dial"), "dial", 1).gate_data == gate / "dial"
    assert own_folders(Terms(gate_data=gate, normal_images=more), "wood", 2) == Terms(
        gate_data=gate / "wood", normal_images=more / "wood"
    )
    with pytest.raises(StudyError, match=r"--normal-images .*more has no folder dial: for several"):
        own_folders(Terms(gate_data=gate, normal_images=more), "dial", 2)
    with pytest.raises(StudyError, match=r"--gate-data .*/none: no such folder$"):
        own_folders(Terms(gate_data=tmp_path / "none"), "dial", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "promote takes a study, or one of --list"),
        (("tiny", "--list"), "promote takes a study, or one of --list"),
        (("none",), "none"),
        (("tiny", "--margin", "2"), "--margin must be at least 0 and less than 1 but got 2"),
        (("tiny", "--reason", "x"), "--reason is not for promoting a study; leave it out"),
        (("--rollback", "m", "--iterations-factor", "2"), "--iterations-factor is not for"),
        (("--copy", "models:/m@champion"), "--copy needs --to URI"),
        (("--discard", "m"), "there is no"),
        (("--list",), "promote a study first"),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, arguments, line):
    assert main(["promote", *arguments, "--storage", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
