"""Optuna's sampler, rebuilt from a study's trials.

The Optuna study is a journal on the driver's disk that every sitting writes anew from the trials:
like MLflow it is a view of what the ledger holds. Ray's own adapter to Optuna is not used: it tells
trials that were stopped early as complete, leaves one with a NaN running for ever, and cannot be
restored after a kill.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import Trial
from ray.tune.search import Searcher

from ffcad.config import TrainConfig
from study.journal import OneWriterJournal
from study.ledger import FAILED
from study.left_out import LeftOut
from study.optuna_study import rebuild_study, tell
from study.packing import gpus_of_trial
from study.reports import (
    FATAL,
    FRACTION,
    INTERRUPTED,
    MORE_GPU,
    NODE,
    OBJECTIVE,
    RUNG,
    WHY,
    WRONG_NODE,
    outcome,
)
from study.spaces import Space
from study.storage import StorageError
from study.trials import RETIRED, Case, TrialRecord, new_trial
from study.untried_points import draw_untried
from study.worker_deaths import Comebacks, Crash, WorkerDeaths

LEFT_OFF = (
    "a worker left off because it had heard nothing of this driver for three minutes: the storage "
    "was away, or the machine was suspended"
)


class OptunaSearch(Searcher):
    """Suggests distinct configurations to Tune, and tells Optuna what became of them.

    What is begun comes first: trials of earlier sittings with the number and configuration that
    they had; then a grid's trials, which are all known beforehand. A search draws new ones instead.

    Args:
        space: to draw from.
        cases_of: the cases of a configuration, with their fits' keys.
        trials: of earlier sittings, and a grid's.
        write: keeps a trial's record durably and returns it as it was kept; called before anything
            is answered.
        journal: file of the Optuna study; None keeps it in memory.
        seed: of the sampler.
        is_taken: whether a trial that waits would only wait for a worker of another study.
        counted: trials that the study ever had; the number of a lost one is not given again.
        new: configurations that a search may still draw.
        left_out: takes the nodes that trials come back from because they can do no fit.
        retries: how often a trial comes back whose worker died; lost nodes do not count.
        waiting: the trials that are not decided, in the order in which they are suggested; None is
            that of `trials`.
        gpus: the share of a GPU that a trial of the study has.

    Attributes:
        stopping: set it, and nothing is suggested any more; set when nothing can be kept.
        fatal: why nothing can be kept any more, in one line.
        deaths: for Tune to tell which trials lost their workers.
    """

    def __init__(
        self,
        space: Space,
        cases_of: Callable[[TrainConfig], tuple[Case, ...]],
        trials: list[TrialRecord],
        write: Callable[[TrialRecord], TrialRecord],
        journal: Path | None = None,
        seed: int = 0,
        is_taken: Callable[[TrialRecord], bool] = lambda record: False,
        counted: int = 0,
        new: float = math.inf,
        left_out: LeftOut | None = None,
        retries: int = 0,
        waiting: list[TrialRecord] | None = None,
        gpus: float = 0.0,
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.space, self.cases_of, self.write, self.is_taken = space, cases_of, write, is_taken
        self.counted, self.new, self.gpus = counted, new, gpus
        self.left_out = LeftOut() if left_out is None else left_out
        self.records = {record.number: record for record in trials}
        # With the same seed at every sitting, a resumed study would suggest its first draws again.
        self.seed = seed + len(trials)
        file = None if journal is None else OneWriterJournal(journal)
        self.study = rebuild_study(space, trials, self.seed, file)
        undecided = [record for record in trials if not record.decided]
        self.waiting = undecided if waiting is None else list(waiting)
        self.running: dict[str, Asked] = {}
        self.back: dict[int, Trial] = {}  # Of those that wait, the ones that came back.
        self.comebacks = Comebacks(retries, self.left_out.is_gone)
        self.fractions: dict[int, float] = {}
        self.exhausted = False
        self.stopping = threading.Event()
        self.fatal: str | None = None
        self.deaths = WorkerDeaths()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration for Tune's trial; None where one that runs might come back, or waits for
        room; FINISHED where there is no further one."""
        if self.stopping.is_set():
            return Searcher.FINISHED
        if self._one_waits_for_room():
            return None
        if not self.waiting and (self.space.is_grid or self.new < 1 or self.exhausted):
            return None if self.running else Searcher.FINISHED
        found = self._next_waiting() if self.waiting else self._draw_untried()
        if found is None:
            self.exhausted = True
            return None if self.running else Searcher.FINISHED
        record, asked = found
        asked.set_user_attr("number", record.number)
        if len(record.cases) == 1:
            asked.set_user_attr("category", record.cases[0].category)
            asked.set_user_attr("seed", record.cases[0].seed)
        self._keep(record)
        if self.stopping.is_set():
            return Searcher.FINISHED
        self.left_out.look()
        self.running[trial_id] = Asked(record.number, asked, set(record.intermediate))
        self.fractions[record.number] = 0.0
        return {
            "configuration": record.configuration,
            "cases": [dataclasses.asdict(case) for case in record.cases],
            "trial_number": record.number,
            "gpus": record.gpus,
            "left_out": self.left_out.ids,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps how far the trial is, and its objective at a rung.

        Nothing is written but Optuna's journal: a trial that is gone on with passes its rungs
        again, from its fits' records.
        """
        asked, value = self.running[trial_id], result.get(OBJECTIVE)
        asked.node = result.get(NODE, asked.node)
        self.fractions[asked.number] = result.get(FRACTION, 0.0)
        if value is None or not math.isfinite(value):
            return
        rung = result[RUNG]
        # A trial that is tried again after its worker died passes the same rungs again.
        if rung not in asked.rungs:
            asked.rungs.add(rung)
            asked.trial.report(value, rung)
            record = self.records[asked.number]
            intermediate = {**record.intermediate, rung: value}
            self.records[asked.number] = dataclasses.replace(record, intermediate=intermediate)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Finished, stopped by the trial scheduler, or failed: decides which, and tells Optuna."""
        # Tune gives the result that a trial is stopped at here only.
        if result is not None:
            self.on_trial_result(trial_id, result)
        asked = self.running.pop(trial_id)
        reached = self.fractions.pop(asked.number, 0.0)
        result = result or {}
        if result.get(FATAL):
            self.fatal = self.fatal or result[FATAL]
            self.stopping.set()
        if result.get(INTERRUPTED) and not self.stopping.is_set():
            # Others would follow, and what is suggested meanwhile be suggested blindly.
            self.fatal = LEFT_OFF
            self.stopping.set()
        if result.get(FATAL) or result.get(INTERRUPTED):
            return
        if result.get(MORE_GPU) or result.get(WRONG_NODE):
            self._take_back(asked, result)
            return
        changes = outcome(result)
        if error or not result:
            lost = self.deaths.lost_its_node(trial_id)
            memory = self.deaths.lacked_memory(trial_id)
            # A loss that is one too many is not to be explained by itself.
            crash = Crash(None if lost else asked.node, reached, memory)
            if (lost and self.comebacks.after_loss(asked.number, reached)) or (
                self.comebacks.after_crash(asked.number, crash)
            ):
                self._come_back(asked)
                return
            # For memory it is the configuration's own, and would be again at the next sitting.
            memory = self.comebacks.lacked_memory(asked.number)
            changes = {"state": FAILED, "error": self.deaths.reason(memory)}
            changes |= {"ended": time.time(), "machine_failed": not memory}
        record = dataclasses.replace(self.records[asked.number], **changes)
        tell(self.study, asked.trial, self._keep(record))

    def _one_waits_for_room(self) -> bool:
        """Whether a trial that came back for a larger share of a GPU waits until trials of this
        study have ended. Smaller ones would take whatever becomes free, and it would wait until
        there are none; where none of ours has a place, others than we hold the room."""
        placed = {i: self.deaths.has_place(i) for i in self.running}
        waits = any(
            not placed[trial_id]
            and gpus_of_trial(self.gpus, self.records[asked.number].gpus) > self.gpus
            for trial_id, asked in self.running.items()
        )
        return waits and any(placed.values())

    def _take_back(self, asked: "Asked", result: dict[str, Any]) -> None:
        """Has a trial come back that needs more of a GPU, or another node."""
        if result.get(MORE_GPU):
            self._keep(dataclasses.replace(self.records[asked.number], gpus=result[MORE_GPU]))
        elif why := self.left_out.add(result[WRONG_NODE], result[WHY]):
            self.fatal = self.fatal or why
            self.stopping.set()
        self._come_back(asked)

    def _come_back(self, asked: "Asked") -> None:
        """Has a trial wait for another place, before all others."""
        self.back[asked.number] = asked.trial
        self.waiting.insert(0, self.records[asked.number])

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it might restore, which no study does."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study is resumed from its trials' records."""

    def _keep(self, record: TrialRecord) -> TrialRecord:
        try:
            record = self.write(record)
        except StorageError as e:
            self.fatal = self.fatal or str(e)
            self.stopping.set()
        self.records[record.number] = record
        return record

    def _next_waiting(self) -> tuple[TrialRecord, Trial]:
        """The first trial that waits and need not wait for another study's worker, or the first."""
        free = (i for i, record in enumerate(self.waiting) if not self.is_taken(record))
        record = self.waiting.pop(next(free, 0))
        if record.number in self.back:
            return record, self.back.pop(record.number)
        self.study.enqueue_trial(record.drawn)
        asked = self.study.ask()
        if self.space.is_grid:
            for name, distribution in self.space.optuna_distributions().items():
                asked.suggest_categorical(name, distribution.choices)
        else:
            # Drawn again, because the file of the encoder's weights may have moved.
            configuration = self.space.draw(asked).to_dict()
            record = dataclasses.replace(record, configuration=configuration)
        for rung, value in record.intermediate.items():
            asked.report(value, rung)
        return record, asked

    def _draw_untried(self) -> tuple[TrialRecord, Trial] | None:
        known = {r.digest: r for r in self.records.values() if r.state != RETIRED}
        drawn = draw_untried(self.study, self.space, known, self.seed)
        if drawn is None:
            return None
        asked, config = drawn
        self.new -= 1
        number = max([self.counted - 1, *self.records]) + 1
        return new_trial(number, asked.params, config, self.cases_of(config)), asked


@dataclass
class Asked:
    """An Optuna trial that Tune runs: the number of its record, the rungs it has passed, and the id
    of the node that it last gave a sign of life from."""

    number: int
    trial: Trial
    rungs: set[int]
    node: str | None = None
