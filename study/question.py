"""What a study asks, how a changed question is written down, and what its trials are then."""

import dataclasses
import time
import uuid
import warnings
from typing import Any

from optuna.trial import FixedTrial

from ffcad.config import ConfigError, TrainConfig
from study.config import StudyConfig, StudyError, differences
from study.default_places import absolute_tracking_uri
from study.inputs import Inputs, cases_of
from study.spaces import Space
from study.trials import RETIRED, Case, StudyFolder, TrialRecord, reopened


def study_of(folder: StudyFolder) -> tuple[StudyConfig, Space, Inputs]:
    """A study as it was asked for, with the storage where it is now."""
    document = folder.read_document()
    config = StudyConfig.from_dict({**document["study"], "storage": folder.storage.where})
    return config, config.search_space(), Inputs.from_dict(document["inputs"])


def changes(folder: StudyFolder, config: StudyConfig, inputs: Inputs, extend: bool) -> list[str]:
    """What a study of this name asked otherwise before, a line each; none where there was none.

    Raises:
        StudyError: with what differs, unless it is to be extended.
    """
    if not folder.exists():
        return []
    document = folder.read_document()
    lines = differences(StudyConfig.from_dict(document["study"]).asked(), config.asked())
    lines += differences(
        {"inputs": Inputs.from_dict(document["inputs"]).contents()},
        {"inputs": inputs.contents()},
    )
    if lines and not extend:
        more = f" (and {len(lines) - 4} more)" if len(lines) > 4 else ""
        raise StudyError(
            f"study {config.name!r} in {config.storage} is another one: {'; '.join(lines[:4])}"
            f"{more}; give another --study, or --extend to make this one ask the new question"
        )
    return lines


def moved_tracking(folder: StudyFolder, config: StudyConfig) -> list[str]:
    """What the user should know where a study's runs are in another MLflow than they will be."""
    if not folder.exists():
        return []
    before = StudyConfig.from_dict({**folder.read_document()["study"], "storage": config.storage})
    old, new = absolute_tracking_uri(before.mlflow_uri), config.mlflow_uri
    if old == new:
        return []
    return [
        f"from now on the study is in {new}; `python -m study sync {config.name} --tracking-uri "
        f"{old}` closes the runs that are open there"
    ]


def open_study(
    folder: StudyFolder, config: StudyConfig, space: Space, inputs: Inputs, extend: bool
) -> None:
    """Begins a study, or goes on with it; one of the same name with another question is refused.

    Raises:
        StudyError: with what differs, unless it is to be extended.
    """
    ask(folder, config, space, inputs, changes(folder, config, inputs, extend))


def ask(
    folder: StudyFolder,
    config: StudyConfig,
    space: Space,
    inputs: Inputs,
    differences: list[str],
) -> None:
    """Writes down what a study asks; where it asked something else before, its trials follow.

    The question comes first, with a note that the trials do not all follow it yet: whoever opens
    the study after a kill in between completes that.

    Args:
        folder: the study's.
        config, space, inputs: the question.
        differences: to the one before, a line each.
    """
    document = folder.read_document() if folder.exists() else {}
    kept = folder.study_id()
    # Where the document was lost, the study's runs in MLflow are still those of the former id.
    study_id = document.get("id") or kept or uuid.uuid4().hex
    if study_id != kept:
        folder.keep_study_id(study_id)
    if differences:
        said = {"when": time.time(), "differences": differences}
        document["extended"] = [*document.get("extended", []), said]
        document["extending"] = True
        document["former_seeds"] = former_seeds(document)
        document.pop("plan", None)  # It was of another question.
    document.pop("exhausted", None)  # The space: this sitting will find out.
    asked = {"study": config.to_dict(), "inputs": dataclasses.asdict(inputs)}
    folder.write_document({**document, "id": study_id, **asked})
    complete_extension(folder, config, space, inputs)


def former_seeds(document: dict[str, Any]) -> list[int]:
    """All seeds that a study's document knows of: those that it has, and those that it had before
    it was extended, whose results were seen, too."""
    return sorted({*document["study"]["seeds"], *document.get("former_seeds", [])})


def complete_extension(
    folder: StudyFolder, config: StudyConfig, space: Space, inputs: Inputs
) -> None:
    """Lets the trials follow a question that they do not all follow yet; doing so twice is no
    harm."""
    document = folder.read_document()
    if not document.get("extending"):
        return
    for record in extended(folder.trials(), config, space, inputs):
        folder.write_trial(record, config.objective)
    folder.write_document({k: v for k, v in document.items() if k != "extending"})


def extended(
    trials: list[TrialRecord], config: StudyConfig, space: Space, inputs: Inputs
) -> list[TrialRecord]:
    """The trials of a study as its changed question sees them.

    Those that are points of the new space are gone through again with the new cases, which costs
    nothing where their fits are finished; the others are retired.
    """
    if space.is_grid:
        cells = {case.key: config for config, case in cell_cases(config, space, inputs)}
        return [_extended_cell(record, space, cells) for record in trials]
    seen, result = set(), []
    for record in trials:
        configuration = drawn_again(space, record)
        if configuration is None or configuration.digest() in seen:
            result.append(dataclasses.replace(record, state=RETIRED))
            continue
        seen.add(configuration.digest())
        cases = cases_of(config, inputs, configuration)
        same = reopened(record, cases)
        result.append(
            dataclasses.replace(
                same,
                configuration=configuration.to_dict(),
                digest=configuration.digest(),
                budget=configuration.iterations * len(cases),
            )
        )
    return result


def _extended_cell(record: TrialRecord, space: Space, cells: dict[str, TrainConfig]) -> TrialRecord:
    """A grid's trial in the changed grid, whose fits' keys and configurations are given."""
    (case,) = record.cases[:1]
    if len(record.cases) > 1 or case.key not in cells:
        return dataclasses.replace(record, state=RETIRED)
    configuration = cells[case.key]
    return dataclasses.replace(
        reopened(record, record.cases),
        drawn=space.parameters(configuration),
        configuration=configuration.to_dict(),
        digest=configuration.digest(),
    )


def drawn_again(space: Space, record: TrialRecord) -> TrainConfig | None:
    """The configuration of a trial in another space; None if that cannot draw it."""
    try:
        with warnings.catch_warnings():
            # Of a value that is out of range Optuna only warns.
            warnings.simplefilter("error", UserWarning)
            configuration = space.draw(FixedTrial(record.drawn))
    except (ConfigError, UserWarning, ValueError):  # ValueError: a knob that was not drawn
        return None
    return configuration if space.parameters(configuration) == record.drawn else None


def cell_cases(config: StudyConfig, space: Space, inputs: Inputs) -> list[tuple[TrainConfig, Case]]:
    """A grid's fits in their order: one case after the other, all cells of each, so that whatever
    is done first can be compared."""
    cells = [(c, cases_of(config, inputs, c)) for _, c in space.distinct_cells()]
    return [(c, cases[i]) for i in range(len(config.cases)) for c, cases in cells]
