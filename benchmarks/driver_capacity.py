"""How many fits one driver can hold: what it spends on each, and where it bends.

    python benchmarks/driver_capacity.py --workers 1,2,4,8 --fits 26 --out capacity.json
    python benchmarks/driver_capacity.py --workers 1,2,4,8 --fits 260 --reuse --alone 39
    python benchmarks/driver_capacity.py --alone 1300

A grid of 13 cells whose fits do everything but train: 40 evaluations of 8 metrics each, as many as
a fit of 20,000 iterations has that is evaluated every 500.

With --workers the whole machinery runs: Tune, so many trials at once, a process for each, ledger,
leases, and MLflow on SQLite by the background writer. Ray is told that it has that many cores. On
one machine the workers' processes bend first: to start one and to import torch takes seconds of a
processor. So what the driver itself spends is measured beside it, in processor time of its threads,
which does not depend on how many cores the workers have or lack:

    loop      the main thread: Tune and the study's search, for each fit and each report; a line
              through two numbers of evaluations (--evaluations) tells them apart
    writer    the thread that writes MLflow
    rest      Ray's own threads, which are C++ and need no Python

With --reuse a worker's process does one trial after the other, as no study has it (nothing of a fit
is to outlive its process). Then fits end so fast that the driver itself bends.

With --alone there is no Ray: fits are handed out, run and told in this process, as many as given,
so that what grows with the number of trials shows. Medians in milliseconds, of wall time and of the
thread's processor time; 'run' is the worker's part.

MLflow is SQLite beside the study, or what MLFLOW_TRACKING_URI names.

From these the last table tells how many GPUs one driver keeps, for fits of a given length: until
its loop takes a third of a core, and until MLflow is written as fast as fits end, live (the writer
rests 19 times as long as it writes) and without that rest.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import machinery_speed
import ray
from ray import cloudpickle, tune
from rich.console import Console
from rich.table import Table

from ffcad.config import TrainConfig
from study.arguments import parse
from study.background import REST, Background
from study.cluster import Room
from study.driver import driver_lease
from study.driver_log import silence_console
from study.inputs import prepare
from study.ledger import Ledger
from study.plan import make_plan
from study.question import open_study
from study.reports import FINAL, FRACTION, OBJECTIVE, RUNG
from study.sitting import Sitting
from study.storage import Storage
from study.tracking import Mirror
from study.trainable import HEARTBEAT_SECONDS
from study.trials import Case, StudyFolder
from study.tuning import make_context, make_search, make_tuner

CELLS, METRICS = 13, 8
# The share of a core that the loop may take: it must answer while it works.
LOOP_SHARE = 1 / 3
SPACE = (
    '"""Idle."""\n'
    f"CELLS = {{f'rate {{i}}': {{'sgd_learning_rate': 0.01 * (i + 1)}} for i in range({CELLS})}}\n"
    'FIXED = {"optimizer": "sgd", "ffc_layers": 1, "image_size": 32, "evaluate_every": 1}\n'
)
Figures = dict[str, float]
# Of each part, what every fit took: (wall, processor) seconds.
Parts = dict[str, list[tuple[float, float]]]


def begin(folder: Path, fits: int, evaluations: int) -> tuple[Any, ...]:
    """A study of so many fits: its configuration, space, inputs, documents and ledger."""
    machinery_speed.REPORTS, machinery_speed.METRICS = evaluations, METRICS
    space_file = folder / "idle.py"
    space_file.write_text(SPACE)
    seeds = ",".join(map(str, range(-(-fits // CELLS))))
    config, space, _ = parse(
        f"--categories dial --seeds {seeds} --space {space_file} --storage {folder} "
        f"--set autoencoder_iterations=1 --set head_iterations={evaluations - 1}".split()
    )
    config, inputs, _ = prepare(config, space)
    documents = StudyFolder(Storage(folder), config.name)
    open_study(documents, config, space, inputs, extend=False)
    return config, space, inputs, documents, Ledger(Storage(folder))


def with_ray(folder: Path, workers: int, fits: int, evaluations: int, reuse: bool) -> Figures:
    """Runs a study; what its driver spent on each fit, and how many ended per minute in its second
    half, when all workers were there."""
    config, space, inputs, documents, ledger = begin(folder, fits, evaluations)
    ray.init(
        address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
        configure_logging=False, object_store_memory=200_000_000,
    )  # fmt: skip
    try:
        with driver_lease(documents, Console()) as lease:
            plan = make_plan(config, space, inputs, documents, ledger)
            journal = folder / "journal" / f"{config.name}.journal"
            sitting = Sitting(config, space, inputs, documents, lease, plan, journal)
            room = Room(workers, 0.0)
            search, context = make_search(sitting, room), make_context(sitting, room)
            fit = machinery_speed.IdleFit
            with _used_again() if reuse else nullcontext():
                tuner = make_tuner(context, search, plan, str(folder), workers, 0.0, fit)
            background = Background(config, journal)
            writer: list[float] = []
            background.mirror.sync = _timed(background.mirror.sync, time.thread_time, writer)
            background.mirror.sync(live=True)  # Makes the database.
            writer.clear()
            background.start()
            loop, whole = time.thread_time(), time.process_time()
            tuner.fit()
            loop, whole = time.thread_time() - loop, time.process_time() - whole
            written = sum(writer)
            unwritten = _unwritten(background.mirror, ledger)
            ended = time.perf_counter()
            background.finish(600.0)
            behind = time.perf_counter() - ended
    finally:
        ray.shutdown()
    records, _ = ledger.read_all(ledger.keys())
    ends = sorted(record.ended for record in records if record.status == "finished")
    done = len(ends)
    assert done == len(plan.trials), f"{done} of {len(plan.trials)} fits finished"
    half = ends[done // 2 :]
    per_second = (len(half) - 1) / (half[-1] - half[0])
    return {
        "workers": workers,
        "fits": done,
        "evaluations": evaluations,
        "fits_per_minute": 60 * per_second,
        "loop_share": per_second * loop / done,
        "loop": loop / done,
        "writer": written / done,
        "rest": (whole - loop - written) / done,
        "record": statistics.median(r.writing_seconds / evaluations for r in records),
        "unwritten": unwritten,
        "behind": behind,
    }


@contextmanager
def _used_again() -> Iterator[None]:
    """Meanwhile a tuner is made whose processes do one trial after the other."""
    make = tune.TuneConfig

    def again(**named: Any) -> tune.TuneConfig:
        return make(**named | {"reuse_actors": True})

    with mock.patch.object(tune, "TuneConfig", again):
        yield


def _timed(call: Callable, clock: Callable[[], float], seconds: list[float]) -> Callable:
    """The same, noting what each call took."""

    def timed(*arguments: Any, **named: Any) -> Any:
        started = clock()
        try:
            return call(*arguments, **named)
        finally:
            seconds.append(clock() - started)

    return timed


def _unwritten(mirror: Mirror, ledger: Ledger) -> int:
    """Fits whose end MLflow does not have yet."""
    runs = dict(mirror.experiment.runs)
    ended = {identity for (level, identity), run in runs.items() if run.status == "FINISHED"}
    return len(set(ledger.keys()) - ended)


def alone(folder: Path, fits: int, evaluations: int) -> Parts:
    """Hands out, runs and tells fits in this process; what each part took, fit by fit, and MLflow's
    writing per fit, case by case."""
    config, space, inputs, documents, ledger = begin(folder, fits, evaluations)
    parts: Parts = defaultdict(list)
    with driver_lease(documents, Console()) as lease:
        plan = make_plan(config, space, inputs, documents, ledger)
        sitting = Sitting(
            config, space, inputs, documents, lease, plan, folder / "journal" / "idle.journal"
        )
        room = Room(8, 0.0)
        search, context = make_search(sitting, room), make_context(sitting, room)
        mirror = Mirror(config)
        mirror.sync(live=True)
        for number in range(len(plan.trials)):
            _one_fit(search, context, f"trial-{number}", parts)
            if number % CELLS == CELLS - 1:
                with _part(parts, "MLflow", CELLS):
                    mirror.sync(live=True)
    return parts


def _one_fit(search: Any, context: Any, name: str, parts: Parts) -> None:
    """A trial as the driver sees it and a worker does it."""
    with _part(parts, "hand out"):
        suggestion = search.suggest(name)
    configuration = TrainConfig.from_dict(suggestion["configuration"])
    (case,) = (Case(**case) for case in suggestion["cases"])
    fit = machinery_speed.IdleFit(context, suggestion["trial_number"], configuration, case)
    with _part(parts, "run"):
        history = [progress.history for progress in fit.run()][-1]
    objective = context.study.objective
    with _part(parts, "told, each", len(history)):
        for entry in history:
            rung, share = context.rung(configuration, entry["iteration"]), 0.5
            result = {OBJECTIVE: entry[objective], RUNG: rung, FINAL: False, FRACTION: share}
            search.on_trial_result(name, result)
    last = {OBJECTIVE: entry[objective], RUNG: context.rungs, FINAL: True, FRACTION: 1.0}
    with _part(parts, "ended"):
        search.on_trial_complete(name, last)


@contextmanager
def _part(parts: Parts, name: str, shared_by: int = 1) -> Iterator[None]:
    """Notes what happens meanwhile, per one of those that share it."""
    wall, processor = time.perf_counter(), time.thread_time()
    yield
    took = time.perf_counter() - wall, time.thread_time() - processor
    parts[name].append(tuple(seconds / shared_by for seconds in took))


def processor_seconds(parts: Parts, name: str) -> float:
    """The median of a part."""
    return statistics.median(processor for _, processor in parts[name])


def show_alone(parts: Parts, console: Console) -> None:
    """Prints medians of the whole study, and by its thirds."""
    thirds = ("first third", "second", "last")
    table = Table("ms per fit", "wall", *(f"processor: {third}" for third in thirds))
    for name, seconds in parts.items():
        third = max(1, len(seconds) // 3)
        wall = statistics.median(wall for wall, _ in seconds)
        of_thirds = (
            processor_seconds({name: part}, name)
            for part in (seconds[:third], seconds[third : 2 * third], seconds[-third:])
        )
        table.add_row(name, *(f"{1e3 * each:.2f}" for each in (wall, *of_thirds)))
    console.print(table)


def show_ray(figures: list[Figures], console: Console) -> None:
    """Prints what was measured, by number of workers and evaluations."""
    table = Table(
        "workers", "evaluations", "fits", "fits / min", "loop, % of a core", "loop, ms per fit",
        "writer", "rest",
        "record, ms each", "unwritten at the end", "s to write them",
    )  # fmt: skip
    for found in figures:
        table.add_row(
            f"{found['workers']}", f"{found['evaluations']}", f"{found['fits']}",
            f"{found['fits_per_minute']:.1f}", f"{100 * found['loop_share']:.0f}",
            *(f"{1e3 * found[name]:.0f}" for name in ("loop", "writer", "rest")),
            f"{1e3 * found['record']:.2f}", f"{found['unwritten']}", f"{found['behind']:.1f}",
        )  # fmt: skip
    console.print(table)


def loop_line(figures: list[Figures]) -> tuple[float, float]:
    """(seconds per fit, seconds per report) of the loop: the line of least squares."""
    alike = [found for found in figures if found["workers"] == figures[0]["workers"]]
    x = [found["evaluations"] for found in alike]
    y = [found["loop"] for found in alike]
    slope, intercept = statistics.linear_regression(x, y)
    return max(0.0, intercept), max(0.0, slope)


def show_capacity(
    loop: tuple[float, float], mlflow: float, evaluations: int, console: Console
) -> None:
    """Prints how many GPUs one driver keeps.

    Args:
        loop: seconds per fit, and per report.
        mlflow: processor seconds of writing per fit.
        evaluations: of a fit.
        console: where to.
    """
    per_fit, per_report = loop
    console.print(
        f"loop: {1e3 * per_fit:.0f} ms per fit and {1e3 * per_report:.2f} ms per report; MLflow: "
        f"{1e3 * mlflow:.0f} ms per fit", highlight=False,
    )  # fmt: skip
    table = Table("fit, min", "GPUs: loop", "GPUs: MLflow live", "GPUs: MLflow without rest")
    for minutes in (1, 5, 10, 30, 60, 120):
        seconds = 60.0 * minutes
        # A report at each evaluation, and signs of life in between.
        reports = max(evaluations, seconds / HEARTBEAT_SECONDS)
        shares = per_fit + reports * per_report, (1 + REST) * mlflow, mlflow
        limits = (LOOP_SHARE, 1.0, 1.0)
        gpus = (limit * seconds / share for limit, share in zip(limits, shares, strict=True))
        table.add_row(f"{minutes}", *(f"{count:.0f}" for count in gpus))
    console.print(table)


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="", help="trials at once, e.g. 1,2,4,8")
    parser.add_argument("--evaluations", default="40,160", help="of each fit, in turn")
    parser.add_argument("--fits", type=int, default=26, help="for each number of workers")
    parser.add_argument("--alone", type=int, default=130, help="fits without Ray")
    parser.add_argument("--reuse", action="store_true", help="one process for many trials")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    if given.alone < 3 * CELLS:  # MLflow is written after each case, and thirds are shown.
        parser.error(f"--alone must be at least {3 * CELLS} but got {given.alone}")
    if given.workers and len(set(given.evaluations.split(","))) < 2:
        parser.error(
            f"--evaluations must be at least two different numbers but got {given.evaluations}; "
            "they tell what a report costs from what a fit does"
        )
    counts = [int(count) for count in given.workers.split(",") if count]
    evaluations = [int(count) for count in given.evaluations.split(",")]
    console = Console(width=120)
    load = os.getloadavg()[0]
    console.print(
        f"{os.cpu_count()} cores, load {load:.1f} before, {date.today()}", highlight=False
    )
    cloudpickle.register_pickle_by_value(machinery_speed)
    silence_console()
    # It says at each end that it finds no files of loggers, which are switched off.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="ffcad-capacity-") as temporary:
        folders = (Path(temporary) / f"{i}" for i in range(10**6))

        def folder() -> Path:
            path = next(folders)
            path.mkdir()
            return path

        parts = alone(folder(), given.alone, evaluations[0])
        show_alone(parts, console)
        figures = []
        # The other numbers of evaluations are for one number of workers, or it takes hours.
        runs = [(workers, evaluations[0]) for workers in counts]
        runs += [(counts[0], each) for each in evaluations[1:] if counts]
        for workers, each in runs:
            figures.append(with_ray(folder(), workers, given.fits, each, given.reuse))
            if given.out:
                given.out.write_text(json.dumps({"ray": figures, "alone": parts}))
    if figures:
        show_ray(figures, console)
        mlflow = processor_seconds(parts, "MLflow")
        show_capacity(loop_line(figures), mlflow, evaluations[0], console)


if __name__ == "__main__":
    main()
