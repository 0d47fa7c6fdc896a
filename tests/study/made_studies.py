"""Studies with made-up numbers: their documents and records are real, nothing was trained."""

import dataclasses

from ffcad.config import TrainConfig
from study.arguments import parse
from study.inputs import Inputs, cases_of
from study.ledger import FAILED, FINISHED, STOPPED, FitRecord, Ledger
from study.question import ask, cell_cases
from study.storage import Storage
from study.trials import StudyFolder, new_trial

SIZE = 32
FIXED = {
    "image_size": SIZE,
    "autoencoder_channels": 16,
    "head_channels": 8,
    "autoencoder_iterations": 10,
    "head_iterations": 20,
    "evaluate_every": 10,
}
ENVIRONMENT = {
    "git_sha": "abc123",
    "git_dirty": False,
    "ffcad_study": "0.1.0",
    "host": "here",
    "gpu": None,
    "threads": 1,
}
CURVES = "curve,x,y\n" + "".join(
    f"{level}_precision_recall,{x},{y}\n"
    for level in ("image", "pixel")
    for x, y in ((0, 1), (0.5, 1), (0.5, 0.5), (1, 0.5))
)


def write_space(path, question, **parts):
    """A search space's file."""
    lines = [f'"""{question}"""', "from optuna.distributions import *"]
    lines += [f"{name} = {value!r}" for name, value in parts.items()]
    path.write_text("\n".join(lines) + "\n")


def begin(folder, space_file, *flags):
    """A study that was asked for: its configuration, space, inputs, documents and ledger."""
    storage = Storage(folder / "runs")
    config, space, _ = parse(
        ["--space", str(space_file), "--study", "made", "--storage", str(folder / "runs"), *flags]
    )
    config = dataclasses.replace(config, objective="select_pixel_ap")
    inputs = Inputs(
        data={f"{c}@{SIZE}": f"{c}-digest" for c in config.categories},
        textures={},
        weights={"random": "random"},
        method_version=1,
    )
    documents = StudyFolder(storage, config.name)
    ask(documents, config, space, inputs, [])
    return config, space, inputs, documents, Ledger(storage)


def fit(config, configuration, case, number, metrics, status=FINISHED, **changes):
    """The record of a fit with metrics of the report split (shares), the select split's half."""
    done = configuration.iterations if status == FINISHED else 10
    values = {f"report_{name}": value for name, value in metrics.items()}
    values |= {f"select_{name}": value / 2 for name, value in metrics.items()}
    history = [
        {"iteration": i, "stage": "head", "loss": 0.5, "time": 100.0 + i}
        | {k: v * i / done for k, v in values.items() if k.startswith("select_")}
        for i in range(10, done + 1, 10)
    ]
    fields = {
        "key": case.key,
        "status": status,
        "study": config.name,
        "trial": number,
        "configuration": configuration.to_dict(),
        "digest": configuration.digest(),
        "category": case.category,
        "seed": case.seed,
        "select_on": config.select_on,
        "inputs": {"images": {"train": 10, "select": 4, "report": 4}},
        "metrics": values if status == FINISHED else {},
        "history": history,
        "iteration": done,
        "iterations": configuration.iterations,
        "seconds": 60.0,
        "environment": ENVIRONMENT,
        "began": 100.0,
        "ended": 160.0,
    }
    return FitRecord(**{**fields, **changes})


def finish_grid(study, metrics_of, only=lambda cell, category, seed: True):
    """Finishes a grid's fits.

    Args:
        study: what `begin` gave.
        metrics_of: (cell, category, seed) -> metrics; an exception's text instead fails the fit.
        only: which fits are done at all.
    """
    config, space, inputs, *_ = study
    for number, (configuration, case) in enumerate(cell_cases(config, space, inputs)):
        of = space.cell_of(configuration)[0], case.category, case.seed
        if only(*of):
            _finish_case(study, number, configuration, case, metrics_of(*of))


def finish_tuned(study, metrics_of):
    """Finishes fits of a grid whose cells are tuned.

    Args:
        study: what `begin` gave.
        metrics_of: (cell, draw from 1 on, category, seed) -> metrics; None where the fit is not
            done.
    """
    config, space, inputs, *_ = study
    draws = {}
    for number, (configuration, case) in enumerate(cell_cases(config, space, inputs)):
        cell = space.cell_of(configuration)[0]
        of_cell = draws.setdefault(cell, {})
        draw = of_cell.setdefault(configuration.digest(), len(of_cell) + 1)
        metrics = metrics_of(cell, draw, case.category, case.seed)
        if metrics is not None:
            _finish_case(study, number, configuration, case, metrics)


def _finish_case(study, number, configuration, case, metrics):
    config, space, _, documents, ledger = study
    trial = new_trial(number, space.parameters(configuration), configuration, (case,))
    if isinstance(metrics, str):
        record = fit(config, configuration, case, number, {}, FAILED, error=metrics)
        trial = dataclasses.replace(trial, state=FAILED, error=metrics, spent=10, ended=160.0)
    else:
        record = fit(config, configuration, case, number, metrics)
        value = record.metrics["select_pixel_ap"]
        trial = dataclasses.replace(
            trial, state=FINISHED, value=value, spent=record.iteration, ended=160.0
        )
        folder = ledger.folder(case.key)
        ledger.storage.write(f"{folder}/curves.csv", CURVES.encode())
    ledger.write(record)
    documents.write_trial(trial)
    documents.count_trial(number)


def finish_search(study, drawn, value_of, stopped=()):
    """Finishes a search's trials on all cases, or stops them before their last case.

    Args:
        study: what `begin` gave.
        drawn: for each trial knob -> value.
        value_of: (trial's number, category, seed) -> report pixel AP.
        stopped: numbers of trials.
    """
    config, _, inputs, documents, ledger = study
    for number, values in enumerate(drawn):
        configuration = TrainConfig.from_dict({**config.fixed, **values})
        cases = cases_of(config, inputs, configuration)
        trial = new_trial(number, values, configuration, cases)
        done = cases[:-1] if number in stopped else cases
        metrics = []
        for case in done:
            value = value_of(number, case.category, case.seed)
            record = fit(
                config, configuration, case, number, {"pixel_ap": value, "image_auroc": value}
            )
            metrics.append(record.metrics["select_pixel_ap"])
            ledger.write(record)
        state = STOPPED if number in stopped else FINISHED
        trial = dataclasses.replace(
            trial,
            state=state,
            value=None if state == STOPPED else sum(metrics) / len(metrics),
            intermediate={1: metrics[0]} if metrics else {},
            spent=len(done) * configuration.iterations,
            ended=160.0,
        )
        documents.write_trial(trial)
        documents.count_trial(number)
