"""Which fits of a study become models: one configuration, and of each category one of its seeds."""

from dataclasses import dataclass

from ffcad.config import TrainConfig
from study.config import StudyError
from study.ledger import CHECKPOINT, FitRecord, Ledger
from study.results import ConfigurationResult, StudyResults
from study.storage import Storage

# So many names are listed where one is not known.
LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished fit that may become a model.

    Attributes:
        configuration: what the report calls its configuration.
        config: every knob, as the study asked for them.
        fit: its record.
        checkpoint: the name of its checkpoint on the storage.
        seeds: how many of the category's fits it was chosen from, on the select split.
    """

    configuration: str
    config: TrainConfig
    fit: FitRecord
    checkpoint: str
    seeds: int


def candidates(
    results: StudyResults, storage: Storage, chosen: str | None, categories: tuple[str, ...]
) -> list[Candidate]:
    """Chooses, by the select split alone.

    Args:
        results: the study's.
        storage: of the study.
        chosen: a configuration's name as in the report, the beginning of its digest, or 'trial N';
            None takes the one with the best mean objective.
        categories: those wanted; all of the study where there are none.

    Returns:
        One for each category: of the seeds the one with the best objective on the select split.

    Raises:
        StudyError: if no configuration is finished, there is none of that name, a category is not
            the study's or has no finished fit, or a checkpoint is not there.
    """
    known = results.config.categories
    for category in categories:
        if category not in known:
            raise StudyError(
                f"--categories {category}: the study's categories are {', '.join(known)}"
            )
    configuration = named(results, chosen) if chosen else results.best
    if configuration is None:
        raise StudyError(
            f"no configuration of {results.config.name!r} is finished on all its cases; go on with "
            "the study, or name one that has finished fits with --configuration"
        )
    ledger, objective = Ledger(storage), results.config.objective
    found = []
    for category in categories or known:
        fits = [fit for fit in configuration.finished if fit.category == category]
        if not fits:
            raise StudyError(
                f"configuration {configuration.name!r} has no finished fit of {category}; go on "
                "with the study, or give --categories"
            )
        fit = max(fits, key=lambda fit: (fit.metrics[objective], -fit.seed))
        checkpoint = f"{ledger.folder(fit.key)}/{CHECKPOINT}"
        if storage.version(checkpoint) is None:
            raise StudyError(
                f"the checkpoint of fit {fit.key} ({category}, seed {fit.seed}) is not in "
                f"{storage.where} any more; bring it back, or give another --configuration"
            )
        found.append(
            Candidate(
                configuration=configuration.name,
                config=configuration.config,
                fit=fit,
                checkpoint=checkpoint,
                seeds=len(fits),
            )
        )
    return found


def named(results: StudyResults, name: str) -> ConfigurationResult:
    """The configuration of that name, digest or trial.

    Raises:
        StudyError: if there is none, or several begin so.
    """
    if name.startswith("trial ") and name[6:].isdigit():
        found = [
            configuration
            for configuration in results.configurations
            if int(name[6:]) in [trial.number for trial in configuration.trials]
        ]
    else:
        # A cell stands for its best draw; names are the user's, so the exact one comes first.
        cells = [cell.chosen for cell in results.cells if name in (cell.name, *cell.names)]
        exact = [c for c in results.configurations if c.name == name]
        digests = [c for c in results.configurations if c.config.digest().startswith(name)]
        found = cells[:1] or exact[:1] or digests
    if len(found) != 1:
        names = [f"{c.name!r} ({c.config.digest()[:8]})" for c in results.configurations]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        wrong = f"{len(found)} configurations begin so" if found else "there is none of that name"
        raise StudyError(
            f"--configuration {name!r}: {wrong}; there are {', '.join(names[:LISTED])}{more}"
        )
    return found[0]
