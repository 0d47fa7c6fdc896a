"""Words for configurations and results, the same on the console and in MLflow."""

from typing import Any

from ffcad.config import TrainConfig
from study.config import CONFIRMING, StudyConfig
from study.trials import TrialRecord

RANDOM_ENCODER = "The frozen encoder has random weights: the results say little about the method."
SOME_RANDOM_ENCODERS = (
    "Some configurations have a frozen encoder with random weights: their results say little about "
    "the method."
)
SAME_IMAGES = "Protocol 'paper': chosen and reported on the same images."


def confirmation_name(name: str) -> str:
    """The name of the study that confirms another one's best configuration."""
    return f"{name}{CONFIRMING}"


def confirmed_study(config: StudyConfig) -> str | None:
    """The name of the study that one confirms; None of a study that was asked for itself."""
    own = config.name.endswith(CONFIRMING) and config.space.endswith(CONFIRMING)
    return config.name.removesuffix(CONFIRMING) if own else None


def cell_names(config: StudyConfig) -> dict[str, str]:
    """The names of a grid's cells, by the digest of their configuration; empty for a search."""
    if not config.cells:
        return {}
    return {c.digest(): ", ".join(names) for names, c in config.search_space().distinct_cells()}


def varying_knobs(trials: list[TrialRecord]) -> list[str]:
    """The searched knobs that take more than one value among the trials, or are not always used."""
    drawn = list(dict.fromkeys(name for t in trials for name in t.drawn))
    return [n for n in drawn if len({repr(t.drawn.get(n)) for t in trials}) > 1] or drawn


def tuned_knobs(config: StudyConfig, trial: TrialRecord) -> list[str]:
    """The nuisance knobs that are used in a grid's trial."""
    configuration = TrainConfig.from_dict(trial.configuration)
    return [name for name in config.nuisance if configuration.is_active(name)]


def settings(trial: TrialRecord, names: list[str]) -> list[str]:
    """A trial's values of some knobs, as 'name value'."""
    return [f"{n} {_value(trial.drawn[n])}" for n in names if n in trial.drawn]


def caveats(config: StudyConfig, trials: list[TrialRecord]) -> list[str]:
    """How the results came about, and what they do not tell; a line each."""
    n = len(config.cases)
    cases = f"{n} case{'s' * (n > 1)}"
    lines = [f"Chosen by {config.objective}; the other metrics are the report split's; {cases}."]
    if config.confirm:
        lines.append(
            "The best of many is lucky: report the figures of study "
            f"{confirmation_name(config.name)}, which has it on fresh seeds."
        )
    if config.select_on == "paper":
        lines.append(SAME_IMAGES)
    random = [t.configuration["encoder_weights"] == "random" for t in trials]
    if any(random):
        lines.append(RANDOM_ENCODER if all(random) else SOME_RANDOM_ENCODERS)
    return lines


def splits_explained(select_on: str) -> str:
    """What the two groups of metrics are of, by the study's protocol."""
    return {
        "holdout": "`select_` metrics are of the half of the test images that choices are made on, "
        "`report_` metrics of the other half, which no choice has seen.",
        "synthetic": "`select_` metrics are of held-out normal images with simulated anomalies, on "
        "which choices are made, `report_` metrics of the test images, which no choice has seen.",
        "paper": "`select_` and `report_` metrics are of the same test images: the choices have "
        "seen what is reported.",
    }[select_on]


def is_warning(line: str) -> bool:
    """Whether a caveat is one that nobody must miss."""
    return line in (RANDOM_ENCODER, SOME_RANDOM_ENCODERS, SAME_IMAGES)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
