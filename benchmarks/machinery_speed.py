"""What the machinery of a study costs beside plain Ray Tune, with trials that train nothing.

    python benchmarks/machinery_speed.py --rounds 5

Every trial reports 20 times; every evaluation has 20 metrics. Four ways, alternating in one run on
one Ray, two trials at once, a process of its own for each, as Tune does by default and a study:

    plain      Tune with random search; metrics go to the driver, nothing is kept; its workers have
               imported ffcad, as those of any training have
    optuna     the same with Ray's own OptunaSearch: the sampler that a study uses
    mlflow     plain with Ray's MLflowLoggerCallback on SQLite
    study      this project: ledger (by the worker, at each evaluation), Optuna's journal, trials'
               records, leases, system samples, and MLflow on SQLite by the background writer

A study makes MLflow's database while Ray starts; here that is done before the clock runs. The
callback's way has a fifth of the trials, because it takes so long.

The first table has the seconds of a whole `fit()` per trial and the medians of the rounds' ratios;
the second what Tune's loop spends per result in the callback, and what a worker spends per
evaluation in writing its record; below it, per trial, for how long a study then still writes into
MLflow what its background writer has not written yet. With --work every trial computes for so long,
spread over its reports. --out keeps the figures.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))
from study.driver_log import RAY_ENVIRONMENT

os.environ.update(RAY_ENVIRONMENT)

import mlflow
import optuna
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch as RaysOptunaSearch
from rich.console import Console
from rich.table import Table

from ffcad.training import AUTOENCODER, HEAD, Progress
from study.arguments import parse
from study.background import Background
from study.cluster import Room
from study.driver import driver_lease
from study.fits import Fit
from study.inputs import prepare
from study.ledger import Ledger
from study.plan import make_plan
from study.ray_session import start_ray
from study.search import OptunaSearch
from study.sitting import Sitting
from study.storage import Storage
from study.trials import StudyFolder
from study.tuning import make_context, make_search, make_tuner

REPORTS, METRICS, SLOTS = 20, 20, 2
FLAGS = (
    "--categories dial --no-early-stopping --set image_size=32 --set autoencoder_iterations=1 "
    f"--set head_iterations={REPORTS - 1} --set evaluate_every=1"
)


def metrics_of(iteration: int) -> dict[str, float]:
    """Twenty metrics, the objective among them."""
    values = {f"select_metric_{i:02d}": 1 / (iteration + i + 1) for i in range(METRICS - 1)}
    return {"select_pixel_ap": iteration / 100, **values}


def work() -> None:
    """A report's share of a trial's --work."""
    until = time.process_time() + WORK_SECONDS / REPORTS
    while time.process_time() < until:
        pass


class IdleFit(Fit):
    """Everything that a fit is but the training: no images, no network."""

    def _data(self) -> None:
        return None

    def _look_at_report(self, *_: Any) -> dict:
        return {}

    def _training(self, *_: Any) -> Iterator[Progress]:
        history = []
        for i in range(1, REPORTS + 1):
            work()
            metrics = metrics_of(i)
            stage = HEAD if i > 1 else AUTOENCODER
            history.append({"iteration": i, "stage": stage, "loss": 0.0, **metrics})
            yield Progress(
                stage=stage,
                iteration=i,
                iterations=REPORTS,
                loss=0.0,
                seconds=0.0,
                metrics=metrics,
                history=history,
                final=i == REPORTS,
                model=None,
                encoder_digest="",
                note=None,
                resumed_at=0,
            )


class TimedSearch(OptunaSearch):
    """Notes the seconds of each result."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        started = time.perf_counter()
        super().on_trial_result(trial_id, result)
        RESULT_SECONDS["study"].append(time.perf_counter() - started)


class TimedCallback(MLflowLoggerCallback):
    """Notes the seconds of each result."""

    def log_trial_result(self, *arguments: Any) -> None:
        started = time.perf_counter()
        super().log_trial_result(*arguments)
        RESULT_SECONDS["mlflow"].append(time.perf_counter() - started)


RESULT_SECONDS: dict[str, list[float]] = {"mlflow": [], "study": []}
WRITING_SECONDS: list[float] = []
MLFLOW_SECONDS: list[float] = []
WORK_SECONDS = 0.0


def idle_trial(config: dict[str, Any]) -> None:
    """Reports and does nothing, in a worker that has imported what any training imports."""
    import ffcad.pictures
    import ffcad.training  # noqa: F401

    for i in range(1, REPORTS + 1):
        work()
        tune.report({**metrics_of(i), "training_share": i / REPORTS})


def plain(folder: Path, trials: int, way: str) -> float:
    """Seconds of Tune without this project."""
    space = {"ratio": tune.uniform(0.1, 0.75), "rate": tune.loguniform(1e-3, 1.0)}
    callbacks, search = [], None
    if way == "mlflow":
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        mlflow.create_experiment("idle", artifact_location=(folder / "artifacts").as_uri())
        callbacks = [TimedCallback(tracking_uri=uri, experiment_name="idle")]
    if way == "optuna":
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(
            seed=0, multivariate=True, group=True, constant_liar=True
        )
        search = RaysOptunaSearch(metric="select_pixel_ap", mode="max", sampler=sampler)
    tuner = tune.Tuner(
        tune.with_resources(idle_trial, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=SLOTS,
            search_alg=search,
        ),
        run_config=tune.RunConfig(
            name="idle", storage_path=str(folder), verbose=0, callbacks=callbacks
        ),
    )
    started = time.perf_counter()
    tuner.fit()
    return time.perf_counter() - started


def study(folder: Path, trials: int) -> float:
    """Seconds of the same by a study."""
    flags = [*FLAGS.split(), "--storage", str(folder), "--num-trials", str(trials)]
    config, space, _ = parse([*flags, "--space", str(SPACE)])
    config, inputs, _ = prepare(config, space)
    documents, ledger = StudyFolder(Storage(folder), config.name), Ledger(Storage(folder))
    with driver_lease(documents, Console()) as lease:
        documents.write_document({"study": config.to_dict(), "inputs": {}})
        plan = make_plan(config, space, inputs, documents, ledger)
        journal = folder / "journal" / f"{config.name}.journal"
        sitting = Sitting(config, space, inputs, documents, lease, plan, journal)
        search = make_search(sitting, Room(SLOTS, 0.0))
        search.__class__ = TimedSearch
        tuner = make_tuner(
            make_context(sitting, Room(SLOTS, 0.0)), search, plan, str(folder), SLOTS, 0.0, IdleFit
        )
        background = Background(config, journal)
        background.mirror.sync(live=True)
        background.start()
        started = time.perf_counter()
        tuner.fit()
        seconds = time.perf_counter() - started
        ended = time.perf_counter()
        background.finish(120.0)
        if background.unwritten:
            raise SystemExit(f"MLflow was not written: {background.unwritten}")
        MLFLOW_SECONDS.append((time.perf_counter() - ended) / trials)
    records, _ = ledger.read_all(ledger.keys())
    assert [r.status for r in records] == ["finished"] * trials, "a trial did not finish"
    WRITING_SECONDS.extend(r.writing_seconds / REPORTS for r in records)
    return seconds


SPACE = Path(tempfile.gettempdir()) / f"idle_{os.getpid()}.py"


def main() -> None:
    """Runs all ways in turn and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--work", type=float, default=0.0, help="processor seconds of each trial")
    parser.add_argument("--ways", default="plain,optuna,mlflow,study", help="plain first")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    global WORK_SECONDS  # Pickled with the trainables, as they are when Tune gets them.
    WORK_SECONDS = given.work
    SPACE.write_text(
        '"""Idle."""\nfrom optuna.distributions import FloatDistribution\n'
        'SEARCH = {"global_ratio": FloatDistribution(0.1, 0.75),\n'
        '          "sgd_learning_rate": FloatDistribution(1e-3, 1.0, log=True)}\n'
        'FIXED = {"optimizer": "sgd", "ffc_layers": 1}\n'
    )
    ways = tuple(given.ways.split(","))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="ffcad-speed-") as temporary:
        start_ray()
        # It says at each end that it finds no files of loggers, which are switched off.
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        for number in range(-1, given.rounds):
            order = ways[number % len(ways) :] + ways[: number % len(ways)]
            for way in order if number >= 0 else ("plain", "study"):
                folder = Path(temporary) / f"{way}-{number}"
                folder.mkdir()
                trials = given.trials // 5 if way == "mlflow" else given.trials
                took = study(folder, trials) if way == "study" else plain(folder, trials, way)
                if number >= 0:  # The first round only warms up.
                    seconds[way].append(took / trials)
        ray.shutdown()
    SPACE.unlink()
    if given.out:
        figures = {"trial": seconds, "result": RESULT_SECONDS, "writing": WRITING_SECONDS}
        given.out.write_text(json.dumps(figures))
    show(seconds, given)


def show(seconds: dict[str, list[float]], given: argparse.Namespace) -> None:
    """Prints both tables."""
    console = Console(width=100)
    versions = ", ".join(f"{p} {version(p)}" for p in ("ray", "optuna", "mlflow"))
    console.print(
        f"{given.rounds} rounds of {given.trials} trials x {REPORTS} reports x {METRICS} metrics, "
        f"{given.work:g} s of work each; "
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}, {versions}, {date.today()}"
    )
    ratios_to = [f"ratio to {name}" for name in ("plain", "optuna") if name in seconds]
    table = Table("way", "ms per trial (median)", "least", "most", *ratios_to)
    for way, all_seconds in seconds.items():
        row = [f"{1e3 * f(all_seconds):.0f}" for f in (statistics.median, min, max)]
        for other in (name for name in ("plain", "optuna") if name in seconds):
            ratios = [a / b for a, b in zip(all_seconds, seconds[other], strict=True)]
            row.append(f"{statistics.median(ratios):.2f}")
        table.add_row(way, *row)
    console.print(table)
    table = Table("per result", "median ms", "95 % below", "most")
    rows = {
        "MLflowLoggerCallback, in Tune's loop": RESULT_SECONDS["mlflow"],
        "study, in Tune's loop": RESULT_SECONDS["study"],
        "study, in the worker: writing a record": WRITING_SECONDS,
    }
    for name, values in rows.items():
        if not values:
            continue
        cut = statistics.quantiles(values, n=20)[-1]
        table.add_row(
            name, *(f"{1e3 * v:.2f}" for v in (statistics.median(values), cut, max(values)))
        )
    console.print(table)
    if MLFLOW_SECONDS:
        rest = 1e3 * statistics.median(MLFLOW_SECONDS)
        console.print(f"study, MLflow after the last trial: {rest:.0f} ms per trial")


if __name__ == "__main__":
    main()
