"""Kills a study's driver and everything that it started, again and again, and checks what is left.

python benchmarks/kill_test.py --kills 20

Small real studies, a grid and a search in turn, each on two cases: the process group of the driver
gets SIGKILL at random moments, Ray's processes with it, and the same command is given again until
it is done. Then every fit must be once in the ledger and once in MLflow, no run and no Optuna trial
may be open, the grid must equal an undisturbed one bit for bit, each fit of a search must equal the
same configuration and case trained alone, and no kill may have cost a fit more than one evaluation
interval. Ends with exit code 1 and what is wrong, if anything is.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
NAME = "killed"
EVALUATE_EVERY = 5
SIZES = {
    "image_size": 32,
    "autoencoder_channels": 16,
    "head_channels": 8,
    "batch_size": 2,
    "autoencoder_iterations": 20,
    "head_iterations": 60,
    "evaluate_every": EVALUATE_EVERY,
}
GRID = f'''"""Does it stand being killed?"""
CELLS = {{
    "no FFC": {{"ffc_layers": 1, "global_ratio": 0.0}},
    "half": {{"ffc_layers": 1, "global_ratio": 0.5}},
    "two layers": {{"ffc_layers": 2, "global_ratio": 0.5}},
}}
FIXED = {SIZES!r}
'''
SEARCH = f'''"""Does it stand being killed?"""
from optuna.distributions import CategoricalDistribution, FloatDistribution
SEARCH = {{
    "global_ratio": FloatDistribution(0.2, 0.75),
    "hsas": CategoricalDistribution(("none", "2d")),
}}
FIXED = {{**{SIZES!r}, "ffc_layers": 1}}
'''
FLAGS = f"--study {NAME} --categories dial,wood --num-trials 3 --no-early-stopping"
FITS = 6


@dataclass
class Kill:
    """One kill: when, and what stood on the storage then and at the next start."""

    number: int
    study: str
    seconds: float
    finished: int
    begun: dict[str, int]  # fit -> iterations that its record had
    sittings: dict[str, int]  # fit -> how often it had been taken up
    resumed: dict[str, int] = field(default_factory=dict)  # fit -> iteration gone on from


class Study:
    """A study in a folder of its own.

    Args:
        folder: to be made.
        kind: 'grid' or 'search'.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        self.folder, self.kind = folder, kind
        space = folder / f"{kind}.py"
        space.write_text(GRID if kind == "grid" else SEARCH)
        flags = FLAGS.split()
        if kind == "grid":
            i = flags.index("--num-trials")
            del flags[i : i + 2]
        script = str(ROOT / "study" / "run.py")
        self.command = [sys.executable, script, "--space", str(space), *flags]
        self.environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}

    def start(self) -> subprocess.Popen:
        """The driver, in a process group of its own."""
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )

    def records(self) -> dict[str, dict]:
        """Fit key -> record."""
        paths = (self.folder / "runs" / "ledger").glob("*/record.json")
        return {path.parent.name: json.loads(path.read_text()) for path in paths}

    def finish(self) -> None:
        """Gives the command until it is done."""
        process = self.start()
        if code := process.wait(timeout=1200):
            raise SystemExit(f"exit code {code}:\n{(self.folder / 'output.txt').read_text()}")


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the driver's group and to all that it started; waits until they are gone."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=30)


def killed_until_done(study: Study, kills: list[Kill], most: int, chance: random.Random) -> None:
    """Kills a study until it is done or enough kills were made; then lets it end."""
    while len(kills) < most:
        process, started = study.start(), time.monotonic()
        try:
            process.wait(timeout=chance.uniform(1.0, 30.0))
            break  # It was done before.
        except subprocess.TimeoutExpired:
            kill(process)
        seconds = time.monotonic() - started
        now = study.records()
        open_ones = {key: r for key, r in now.items() if r["status"] == "begun"}
        kills.append(
            Kill(
                number=len(kills) + 1,
                study=study.folder.name,
                seconds=seconds,
                finished=len(now) - len(open_ones),
                begun={key: r["iteration"] for key, r in open_ones.items()},
                sittings={key: len(r["sittings"]) for key, r in open_ones.items()},
            )
        )
    study.finish()
    last = study.records()
    for k in kills:
        if k.study == study.folder.name:
            for key, taken_up in k.sittings.items():
                k.resumed[key] = last[key]["sittings"][taken_up]["iteration"]


def problems_of(study: Study, reference: dict[str, dict]) -> list[str]:
    """What is wrong with a study that was killed and is done.

    Args:
        study: the study.
        reference: fit key -> record, of an undisturbed grid; for a search, of fits done alone.
    """
    records, wrong = study.records(), []
    if sorted(records) != sorted(reference) or len(records) != FITS:
        wrong.append(f"fits {sorted(records)} instead of {sorted(reference)}")
    for key, record in records.items():
        if record["status"] != "finished":
            wrong.append(f"fit {key} is {record['status']}")
        elif numbers(record) != numbers(reference[key]):
            wrong.append(f"fit {key} has other numbers than undisturbed: {record['metrics']}")
        iterations = [entry["iteration"] for entry in record["history"]]
        if iterations != list(range(EVALUATE_EVERY, record["iterations"] + 1, EVALUATE_EVERY)):
            wrong.append(f"fit {key} was evaluated at {iterations}")
    return wrong + open_in_mlflow(study, records) + open_in_optuna(study)


def numbers(record: dict) -> list:
    """What must be equal bit for bit."""
    history = [{k: v for k, v in e.items() if k != "time"} for e in record["history"]]
    return [record["metrics"], history]


def open_in_mlflow(study: Study, records: dict[str, dict]) -> list[str]:
    """What MLflow has too often, not at all, or open."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study.folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    wrong = [f"run {r.info.run_name} is {r.info.status}" for r in runs
             if r.info.status != "FINISHED"]  # fmt: skip
    fits = {r.data.tags["fit_key"]: r for r in runs if r.data.tags["level"] == "fit"}
    levels = collections.Counter(r.data.tags["level"] for r in runs)
    if levels != {"study": 1, "configuration": FITS // 2, "fit": FITS}:
        wrong.append(f"MLflow has {dict(levels)}")
    for key, record in records.items():
        if key not in fits:
            wrong.append(f"MLflow lacks fit {key}")
            continue
        steps = [m.step for m in client.get_metric_history(fits[key].info.run_id, "loss")]
        if sorted(steps) != [entry["iteration"] for entry in record["history"]]:
            wrong.append(f"MLflow has fit {key} at {steps}")
    return wrong


def open_in_optuna(study: Study) -> list[str]:
    """Trials of the Optuna study that are not complete."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = study.folder / "runs" / "studies" / NAME / "optuna.journal"
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name=NAME, storage=storage).trials
    states = collections.Counter(trial.state.name for trial in trials)
    wanted = {"COMPLETE": FITS if study.kind == "grid" else FITS // 2}
    return [] if states == wanted else [f"Optuna has {dict(states)} instead of {wanted}"]


def alone(study: Study) -> dict[str, dict]:
    """Each fit of a study trained again in this process, without Ray, ledger or kills."""
    from ffcad.config import TrainConfig
    from ffcad.encoder_weights import RandomEncoderWarning
    from ffcad.training import train
    from study.config import StudyConfig
    from study.data import load_data

    document = json.loads((study.folder / "runs" / "studies" / NAME / "study.json").read_text())
    config = StudyConfig.from_dict(document["study"])
    torch.set_num_threads(config.cpus_per_trial)
    warnings.simplefilter("ignore", RandomEncoderWarning)
    result = {}
    for key, record in study.records().items():
        configuration = TrainConfig.from_dict(record["configuration"])
        data = load_data(config, record["category"], configuration.image_size)
        *_, last = train(configuration, data, record["seed"])
        result[key] = {"metrics": last.metrics, "history": last.history}
    return result


def show(kills: list[Kill], console: Console) -> None:
    """One row for each kill."""
    table = Table(title=f"{len(kills)} kills")
    for heading in ("kill", "study", "after s", "finished", "begun", "went on from"):
        table.add_column(heading, justify="right")
    for k in kills:
        keys = list(k.begun)
        table.add_row(
            str(k.number),
            k.study,
            f"{k.seconds:.1f}",
            str(k.finished),
            ", ".join(str(k.begun[key]) for key in keys),
            ", ".join(str(k.resumed[key]) for key in keys),
        )
    console.print(table)


def main() -> int:
    """Runs the test; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    console, chance, kills, wrong = Console(), random.Random(given.seed), [], []
    with tempfile.TemporaryDirectory(prefix="ffcad-kills-") as temporary:
        os.environ["FFCAD_CACHE"] = str(Path(temporary) / "cache")
        undisturbed = Study(Path(temporary) / "undisturbed", "grid")
        undisturbed.finish()
        number = 0
        while len(kills) < given.kills or number < 2:
            kind = ("grid", "search")[number % 2]
            study = Study(Path(temporary) / f"{kind} {number // 2 + 1}", kind)
            number += 1
            # Both kinds get their share of the kills.
            share = given.kills if number > 1 else -(-given.kills // 2)
            killed_until_done(study, kills, share, chance)
            reference = undisturbed.records() if kind == "grid" else alone(study)
            found = [f"{study.folder.name}: {line}" for line in problems_of(study, reference)]
            console.print(f"{study.folder.name}: done, {len(found)} problems, {len(kills)} kills")
            wrong += found
    show(kills, console)
    for k in kills:
        for key, iteration in k.begun.items():
            if k.resumed[key] < iteration:
                wrong.append(
                    f"kill {k.number}: fit {key} stood at {iteration} and went on from "
                    f"{k.resumed[key]}"
                )
    for line in wrong:
        console.print(line, style="red")
    console.print("Nothing was lost, done twice or left open." if not wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
