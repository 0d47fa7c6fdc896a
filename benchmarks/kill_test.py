"""Kills a study's driver and everything that it started, again and again, and checks what is left.

python benchmarks/kill_test.py --kills 20

Small real studies, in turn a grid and a search on two cases, and a search on one, which stops weak
fits in their middle and not only between two: the process group of the driver gets SIGKILL at
random moments, Ray's processes with it, and the same command is given again until it is done
(killed_study.py). What had been reached and where it went on is taken from traces that the fits
write apart from anything of the project's (traced_run.py). Checked is (kill_checks.py):

    at each kill   no kill costs a fit more than one evaluation interval; what was finished is not
                   trained again; Optuna's journal is whole and holds no trial twice
    at each start  once the journal is written anew, no trial of an earlier sitting is RUNNING in it
    at the end     every fit is once in the ledger and once in MLflow, each run and each Optuna
                   trial as it ended, none open; the grid equals an undisturbed one bit for bit,
                   each fit of a search the same configuration and case trained alone

Ends with exit code 1 and what is wrong, if anything is.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from kill_checks import Kill, alone, end_problems, journal_problems, kill_problems
from killed_study import KINDS, NAME, Study
from rich.console import Console
from rich.table import Table

# Kills come up to this long after a start, and twice as long as a start takes where that is more.
LATEST_SECONDS = 30.0


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


def killed_until_done(
    study: Study, kills: list[Kill], most: int, latest: float, chance: random.Random
) -> list[str]:
    """Kills a study until it is done or enough kills were made; then lets it end.

    Returns:
        What was wrong at a kill or at a start.
    """
    wrong = []
    while len(kills) < most:
        began, before = datetime.now(), study.journal().writer()
        process, started = study.start(), time.monotonic()
        rebuilt = False
        for _ in _until(started + chance.uniform(1.0, latest), process):
            # The first look at the journal that this sitting has written.
            if not rebuilt and study.journal().writer() not in (None, before):
                trials = study.journal().trials(NAME)
                rebuilt = trials is not None
                found = journal_problems(trials or [], study.decided(), began)
                wrong += [f"before kill {len(kills) + 1}: {line}" for line in found]
        if process.poll() is not None:
            break  # It was done before.
        kill(process)
        kills.append(_seen(study, len(kills) + 1, time.monotonic() - started, rebuilt))
        trials = study.journal().trials(NAME) or []
        kills[-1].running = sum(t.state.name == "RUNNING" for t in trials)
        found = journal_problems(trials, study.decided(), began if rebuilt else None)
        wrong += [f"kill {len(kills)}: {line}" for line in found]
    study.finish()
    for k in kills:
        if k.study == study.folder.name:
            found = kill_problems(k, study.traces(), study.records())
            wrong += [f"kill {k.number}: {line}" for line in found]
    return wrong


def _until(moment: float, process: subprocess.Popen) -> Iterator[None]:
    """Goes on until a moment, or until a process has ended."""
    while process.poll() is None and (left := moment - time.monotonic()) > 0:
        yield
        time.sleep(min(left, 0.1))


def _seen(study: Study, number: int, seconds: float, rebuilt: bool) -> Kill:
    """What stands right after a kill."""
    traces = study.traces()
    finished = [key for key, r in study.records().items() if r["status"] == "finished"]
    return Kill(
        number=number,
        study=study.folder.name,
        seconds=seconds,
        finished=finished,
        traced={key: len(trace) for key, trace in traces.items()},
        reached={key: trace[-1] for key, trace in traces.items() if key not in finished},
        rebuilt=rebuilt,
    )


def undisturbed_grid(folder: Path) -> tuple[dict[str, dict], float]:
    """The records of a grid that nobody kills, and the seconds until it trained."""
    study = Study(folder, "grid")
    process, started = study.start(), time.monotonic()
    for _ in _until(started + 600, process):
        if study.traces():
            break
    seconds = time.monotonic() - started
    process.wait(timeout=1200)
    study.finish()  # Which finds nothing left to do, or says why there is.
    return study.records(), seconds


def show(kills: list[Kill], console: Console) -> None:
    """One row for each kill."""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "ray", "optuna", "mlflow"))
    table = Table(title=f"{len(kills)} kills; {versions}")
    for heading in ("kill", "study", "after s", "finished", "reached", "went on after", "lost",
                    "open in Optuna"):  # fmt: skip
        table.add_column(heading, justify="right")
    for k in kills:
        columns = (k.reached.values(), k.resumed.values(), k.lost().values())
        table.add_row(
            str(k.number),
            k.study,
            f"{k.seconds:.1f}",
            str(len(k.finished)),
            *(", ".join(map(str, column)) for column in columns),
            str(k.running) if k.rebuilt else f"{k.running} (former)",
        )
    console.print(table)


def main() -> int:
    """Runs the test; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help="of studies, in turn: some of them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"--kinds must be among {', '.join(KINDS)} but got {', '.join(unknown)}")
    console, chance, wrong = Console(), random.Random(given.seed), []
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="ffcad-kills-") as temporary:
        os.environ["FFCAD_CACHE"] = str(Path(temporary) / "cache")
        undisturbed, start_seconds = undisturbed_grid(Path(temporary) / "undisturbed")
        latest = max(LATEST_SECONDS, 2 * start_seconds)
        console.print(f"a start takes {start_seconds:.0f} s; kills come within {latest:.0f} s")
        number = 0
        while len(kills) < given.kills or number < len(kinds):
            kind = kinds[number % len(kinds)]
            study = Study(Path(temporary) / f"{kind} {number // len(kinds) + 1}", kind)
            number += 1
            # All kinds get their share of the kills.
            share = -(-given.kills * min(number, len(kinds)) // len(kinds))
            found = killed_until_done(study, kills, share, latest, chance)
            records = study.records()
            reference = undisturbed if kind == "grid" else alone(study.folder, NAME, records)
            trials = study.trials()
            wanted = study.kind.trials
            found += end_problems(study.folder, NAME, trials, wanted, records, reference)
            stopped = sum(trial["state"] == "stopped" for trial in trials)
            console.print(
                f"{study.folder.name}: done, {len(found)} problems, {len(kills)} kills so far, "
                f"{stopped} of {wanted} trials stopped early"
            )
            wrong += [f"{study.folder.name}: {line}" for line in found]
    show(kills, console)
    for line in wrong:
        console.print(line, style="red")
    console.print("Nothing was lost, done twice or left open." if not wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
