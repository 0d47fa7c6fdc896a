"""What must be true of a study that is killed: when it is killed, when it goes on, and at its end.

Used by kill_test.py.
"""

import collections
import json
import tempfile
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import optuna
import torch
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

EVALUATE_EVERY, SLOTS = 5, 2


@dataclass
class Kill:
    """One kill, and what was seen right after it.

    Attributes:
        number: 1, 2, ...
        study: the name of the study's folder.
        seconds: after the driver's start.
        finished: keys of the fits that were finished.
        traced: fit key -> how many iterations its trace had, repeated ones included.
        reached: key of a fit that was not finished -> the last iteration in its trace.
        resumed: the same -> the iteration after which the trace goes on; known at the end.
        rebuilt: whether this sitting had come to write Optuna's journal anew.
        running: open trials in Optuna's journal.
    """

    number: int
    study: str
    seconds: float
    finished: list[str]
    traced: dict[str, int]
    reached: dict[str, int]
    resumed: dict[str, int] = field(default_factory=dict)
    rebuilt: bool = False
    running: int = 0

    def lost(self) -> dict[str, int]:
        """Iterations that had to be done again, of each fit that was not finished.

        A training that was done, but not its fit, yields its last iteration again; it counts. One
        that was killed in an evaluation has computed one more than its trace tells.
        """
        return {key: self.reached[key] - after for key, after in self.resumed.items()}


class Journal:
    """Optuna's journal as another process sees it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def writer(self) -> str | None:
        """Who wrote it, which every sitting does anew; None if it is not there or begun."""
        try:
            first, newline, _ = self.path.read_text().partition("\n")
        except FileNotFoundError:
            return None
        return json.loads(first)["worker_id"].rpartition("-")[0] if newline else None

    def trials(self, name: str) -> list[FrozenTrial] | None:
        """The trials of the study of that name; None if it is not there yet."""
        # A copy: Optuna's class makes the file where it is missing.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "journal"
            try:
                copy.write_bytes(self.path.read_bytes())
                storage = JournalStorage(JournalFileBackend(str(copy)))
                return optuna.load_study(study_name=name, storage=storage).trials
            except (FileNotFoundError, KeyError):
                return None


def journal_problems(
    trials: list[FrozenTrial], decided: set[int], since: datetime | None
) -> list[str]:
    """What is wrong with Optuna's study while a sitting is at it, or was when it was killed.

    Args:
        trials: of the Optuna study.
        decided: numbers of the study's trials that were decided; looked at after `trials`.
        since: the start of the sitting that wrote the journal, if it is known.
    """
    running = [t for t in trials if t.state == TrialState.RUNNING]
    wrong = []
    if len(running) > SLOTS:
        wrong.append(f"{len(running)} trials are RUNNING, of {SLOTS} at once")
    if since is not None:
        stale = [t.number for t in running if t.datetime_start < since]
        wrong += [f"trial {number} is RUNNING from an earlier sitting" for number in stale]
    decided_in_it = (TrialState.COMPLETE, TrialState.PRUNED)
    open_or_done = (TrialState.RUNNING, *decided_in_it)
    # A trial that was just asked for may not have its number yet.
    numbers = [t.user_attrs["number"] for t in trials
               if t.state in open_or_done and "number" in t.user_attrs]  # fmt: skip
    if len(numbers) != len(set(numbers)):
        wrong.append(f"trials are there twice: {sorted(numbers)}")
    for t in trials:
        if t.state in decided_in_it and t.user_attrs["number"] not in decided:
            number, state = t.user_attrs["number"], t.state.name
            wrong.append(f"trial {number} is {state} without its document")
    return wrong


def kill_problems(kill: Kill, traces: dict[str, list[int]], records: dict[str, dict]) -> list[str]:
    """What a kill cost too much, by the traces of the study that is done.

    Args:
        kill: whose `resumed` is filled.
        traces: fit key -> iterations in the order in which they were done.
        records: fit key -> record.
    """
    wrong = []
    for key in kill.finished:
        if len(traces[key]) != kill.traced[key]:
            wrong.append(f"fit {key} was finished and trained again")
    for key, reached in kill.reached.items():
        if kill.traced[key] < len(traces[key]):
            kill.resumed[key] = traces[key][kill.traced[key]] - 1
        elif records[key]["status"] == "stopped":
            # At a rung that it had passed, of which the driver had not heard.
            kill.resumed[key] = records[key]["iteration"]
        else:
            # Everything was on the storage but the word that it is finished.
            wrong.append(f"fit {key} stood at {reached} and was never gone on with")
            continue
        # The evaluated iteration is noted last, and by then its checkpoint is there.
        if not 0 <= kill.lost()[key] < EVALUATE_EVERY:
            wrong.append(f"fit {key} stood at {reached} and went on after {kill.resumed[key]}")
    return wrong


def end_problems(
    folder: Path,
    name: str,
    trials: list[dict],
    wanted: int,
    records: dict[str, dict],
    reference: dict[str, dict],
) -> list[str]:
    """What is wrong with a study that was killed and is done.

    Args:
        folder: in which it was run.
        name: of the study.
        trials: the documents of its trials.
        wanted: how many there must be.
        records: fit key -> record.
        reference: the same of an undisturbed study, or of fits done alone.
    """
    states = collections.Counter(trial["state"] for trial in trials)
    wrong = []
    if not states["finished"] or states["finished"] + states["stopped"] != wanted:
        wrong.append(f"trials are {dict(states)} instead of {wanted} finished or stopped ones")
    state = {case["key"]: trial["state"] for trial in trials for case in trial["cases"]}
    # A trial that was stopped may have come to some of its cases only.
    needed = {key for key, of_trial in state.items() if of_trial == "finished"}
    if not needed <= set(records) <= set(state):
        wrong.append(f"fits {sorted(records)} instead of {sorted(state)}")
    for key, record in records.items():
        if record["status"] != "finished" and (record["status"], state[key]) != ("stopped",) * 2:
            wrong.append(f"fit {key} is {record['status']}, its trial {state[key]}")
        elif key not in reference or numbers(record) != numbers(
            reference[key], len(record["history"])
        ):
            wrong.append(f"fit {key} has other numbers than undisturbed: {record['metrics']}")
        iterations = [entry["iteration"] for entry in record["history"]]
        if iterations != list(range(EVALUATE_EVERY, record["iteration"] + 1, EVALUATE_EVERY)):
            wrong.append(f"fit {key} was evaluated at {iterations}")
        if record["status"] == "finished" and record["iteration"] != record["iterations"]:
            wrong.append(f"fit {key} is finished at {record['iteration']}")
    optuna_trials = (
        Journal(folder / "runs" / "studies" / name / "optuna.journal").trials(name) or []
    )
    found = collections.Counter(trial.state.name for trial in optuna_trials)
    expected = {"COMPLETE": states["finished"], "PRUNED": states["stopped"]}
    if found != collections.Counter(expected):
        wrong.append(f"Optuna has {dict(found)} instead of {expected}")
    return wrong + _open_in_mlflow(folder, name, trials, records)


def numbers(record: dict, evaluations: int | None = None) -> list:
    """What must be equal bit for bit.

    Args:
        record: of a fit.
        evaluations: the first so many alone, and the metrics of the last of them: what a fit that
            was stopped there has.
    """
    history = [{k: v for k, v in e.items() if k != "time"} for e in record["history"]]
    if evaluations is None or evaluations == len(history):
        return [record["metrics"], history]
    history = history[:evaluations]
    apart = ("iteration", "stage", "loss")
    return [{k: v for k, v in history[-1].items() if k not in apart}, history]


def _open_in_mlflow(
    folder: Path, name: str, trials: list[dict], records: dict[str, dict]
) -> list[str]:
    """What MLflow has too often, not at all, or with another status than it ended with."""
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    of_level = collections.defaultdict(list)
    for run in runs:
        of_level[run.data.tags["level"]].append(run)
    fits = {run.data.tags["fit_key"]: run for run in of_level["fit"]}
    stopped = {t["digest"] for t in trials if t["state"] == "stopped"}
    wanted = {"study": 1, "configuration": len({t["digest"] for t in trials}), "fit": len(records)}
    found = {level: len(members) for level, members in of_level.items()}
    wrong = [] if found == wanted else [f"MLflow has {found} instead of {wanted}"]
    statuses = collections.Counter(run.info.status for run in of_level["configuration"])
    ended = {"KILLED": len(stopped), "FINISHED": wanted["configuration"] - len(stopped)}
    if statuses != collections.Counter(ended):
        wrong.append(f"MLflow's configurations are {dict(statuses)} instead of {ended}")
    if any(run.info.status != "FINISHED" for run in of_level["study"]):
        wrong.append("MLflow has the study open")
    for key, record in records.items():
        if key not in fits:
            wrong.append(f"MLflow lacks fit {key}")
            continue
        status = {"finished": "FINISHED", "stopped": "KILLED"}.get(record["status"])
        if fits[key].info.status != status:
            wrong.append(f"MLflow has fit {key} as {fits[key].info.status} instead of {status}")
        steps = [m.step for m in client.get_metric_history(fits[key].info.run_id, "loss")]
        if sorted(steps) != [entry["iteration"] for entry in record["history"]]:
            wrong.append(f"MLflow has fit {key} at {steps}")
    return wrong


def alone(folder: Path, name: str, records: dict[str, dict]) -> dict[str, dict]:
    """Each fit of a study trained again in this process, without Ray, ledger or kills."""
    from ffcad.config import TrainConfig
    from ffcad.encoder_weights import RandomEncoderWarning
    from ffcad.training import train
    from study.config import StudyConfig
    from study.data import load_data

    document = json.loads((folder / "runs" / "studies" / name / "study.json").read_text())
    config = StudyConfig.from_dict(document["study"])
    torch.set_num_threads(config.cpus_per_trial)
    warnings.simplefilter("ignore", RandomEncoderWarning)
    result = {}
    for key, record in records.items():
        configuration = TrainConfig.from_dict(record["configuration"])
        data = load_data(config, record["category"], configuration.image_size)
        *_, last = train(configuration, data, record["seed"])
        result[key] = {"metrics": last.metrics, "history": last.history}
    return result
