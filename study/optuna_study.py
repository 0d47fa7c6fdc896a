"""A study as Optuna knows it, made from its trials: in memory, or as a journal to look at."""

import warnings
from datetime import datetime
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from study.journal import OneWriterJournal
from study.ledger import FAILED, FINISHED, STOPPED
from study.spaces import Space
from study.trials import TrialRecord

STATES = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}


def make_sampler(seed: int) -> TPESampler:
    """TPE over the groups of knobs that are active together, with running trials repelling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def rebuild_study(
    space: Space, trials: list[TrialRecord], seed: int, journal: OneWriterJournal | None = None
) -> optuna.Study:
    """An Optuna study that knows every decided trial.

    Args:
        space: of the study.
        trials: of the study.
        seed: of the sampler.
        journal: a new file, named after the study; None keeps it in memory.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None if journal is None else JournalStorage(journal)
    study = optuna.create_study(
        study_name=journal and journal.path.stem,
        direction="maximize",
        sampler=make_sampler(seed),
        storage=storage,
    )
    study.add_trials([frozen_trial(space, r) for r in trials if r.state in STATES])
    return study


def write_journal(space: Space, trials: list[TrialRecord], journal: Path) -> None:
    """Writes a study that nobody runs as Optuna's journal: begun trials wait in its queue.

    Raises:
        OSError: if the file cannot be written.
    """
    file = OneWriterJournal(journal)
    study = rebuild_study(space, trials, 0, file)
    for record in trials:
        if not record.decided:
            study.enqueue_trial(record.drawn, user_attrs={"number": record.number})
    if file.error is not None:
        raise file.error


def tell(study: optuna.Study, asked: Trial, record: TrialRecord) -> None:
    """Tells Optuna what became of a trial that it was asked for."""
    if record.state == FINISHED:
        study.tell(asked, record.value)
    else:
        study.tell(asked, state=STATES[record.state])


def frozen_trial(space: Space, record: TrialRecord) -> FrozenTrial:
    """A decided trial as Optuna knows it: PRUNED with its intermediate values, FAIL without one."""
    value = record.value
    if record.state == STOPPED and record.intermediate:
        # What `Study.tell` does; `best_trial` looks at COMPLETE ones only.
        value = record.intermediate[max(record.intermediate)]
    distributions = space.optuna_distributions()
    case = record.cases[0] if len(record.cases) == 1 else None
    trial = create_trial(
        state=STATES[record.state],
        params=record.drawn,
        distributions={name: distributions[name] for name in record.drawn},
        value=value,
        intermediate_values=record.intermediate,
        user_attrs={
            "number": record.number,
            **({"category": case.category, "seed": case.seed} if case else {}),
        },
    )
    # Optuna's times are the local clock's; without them a trial is as old as the journal.
    trial.datetime_start = datetime.fromtimestamp(record.began)
    trial.datetime_complete = datetime.fromtimestamp(record.ended or record.began)
    return trial
