"""The best configuration of a study and the default, fitted again on seeds that chose neither.

The best of many is partly lucky: its figures on the cases that it was chosen on are too good. So
they are taken anew, on fresh seeds, beside the default's on the same ones, by a study of its own,
which is a grid of two cells. It is a function of the first study alone: the same command goes on
with it, and where the best has become another one, or more seeds are asked for, it is extended.
"""

import dataclasses
from collections.abc import Collection

from rich.console import Console

from ffcad.config import TrainConfig
from study.config import StudyConfig, space_fields
from study.driver import OK, run_study
from study.inputs import prepare
from study.question import former_seeds
from study.results import read_results
from study.spaces import Space, checked
from study.storage import Storage
from study.wording import confirmation_name

BEST, DEFAULT = "best", "default"


def confirmation(
    config: StudyConfig, space: Space, best: TrainConfig, seeds: Collection[int]
) -> tuple[StudyConfig, Space]:
    """The study that confirms another one's best configuration.

    Args:
        config, space: the study whose best is confirmed, with its objective and seeds to confirm.
        best: its best configuration.
        seeds: all that it has, or had before it was extended.

    Returns:
        A grid of the cells 'best' and 'default', on the same categories and on as many seeds as
        are asked for, which follow the greatest one of those. Where the encoder is among what
        varies, the default has the best's: the knob's own default is a random one, and beside that
        everything is better.
    """
    varying = [space.search, space.nuisance, *space.cells.values()]
    encoder = {"encoder_weights": best.encoder_weights}
    default = encoder if any("encoder_weights" in knobs for knobs in varying) else {}
    grid = checked(
        f"{space.name}-confirm",
        f"Is the best configuration of {config.name} better than the default on fresh seeds?",
        {},
        space.fixed,
        cells={BEST: space.parameters(best), DEFAULT: default},
        reference=DEFAULT,
    )
    first = max(seeds) + 1
    confirming = dataclasses.replace(
        config,
        **space_fields(grid),
        name=confirmation_name(config.name),
        seeds=tuple(range(first, first + config.confirm)),
        confirm=0,
    )
    return confirming, grid


def confirm_best(config: StudyConfig, space: Space, console: Console) -> int:
    """Fits the best configuration of a study that is done, and the default, on fresh seeds.

    Args:
        config: the study, with its objective chosen.
        space: its search space.
        console: where to.

    Returns:
        The exit code, as `run_study`'s; 0 where there is nothing to confirm.
    """
    results = read_results(Storage(config.storage), config.name)
    if results.best is None:
        return OK
    seeds = former_seeds(results.document)
    confirming, grid = confirmation(config, space, results.best.config, seeds)
    if len(grid.distinct_cells()) == 1:
        console.print("The best configuration is the default: there is nothing to confirm.")
        return OK
    with console.status("reading the images"):
        confirming, inputs, notes = prepare(confirming, grid)
    return run_study(confirming, grid, inputs, notes, console, extend=True)
