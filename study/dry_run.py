"""What `--dry-run` says: what a study asks for, what there is, and what the rest will cost."""

import dataclasses
import os
import platform
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, load_textures
from study.arguments import Sought
from study.category_analysis import FEWEST_CATEGORIES
from study.config import StudyConfig
from study.costs import (
    Estimate,
    configurations_ahead,
    estimate,
    from_history,
    with_encoders,
)
from study.data import load_data
from study.fit_costs import (
    Images,
    Seconds,
    fit_work,
    history,
    is_near,
    seconds_measured,
    seconds_of_like,
    seconds_scaled,
    work_of,
)
from study.inputs import prepare
from study.ledger import Ledger
from study.machine import own_resources
from study.machine_files import keep_estimate
from study.packing import concurrency
from study.paired_statistics import LEVEL
from study.plan import Plan, make_plan
from study.question import changes
from study.spaces import Space
from study.storage import Storage
from study.trials import StudyFolder
from study.verdicts import needed_pairs, smallest_p

OK = 0
# What a measured minute has.
MEASURED_SECONDS = 60.0
# Pictures, curves and record of a fit, bytes.
FIT_BYTES = 2_000_000


def dry_run(config: StudyConfig, space: Space, sought: Sought, console: Console) -> int:
    """Says what a study would cost; starts nothing, and leaves its storage as it is.

    The estimate is kept on this machine, for the report to compare with what the study did cost.

    Args:
        config: the study, as it was asked for.
        space: its search space.
        sought: whether it is extended, and the price of a GPU-hour.
        console: where to.

    Returns:
        The exit code.

    Raises:
        StudyError: if it is another study than the one of that name, or this machine cannot hold
            one trial.
    """
    with console.status("reading the images"), tempfile.TemporaryDirectory() as elsewhere:
        # There, because it puts the teacher of encoders onto the storage.
        given, inputs, notes = prepare(dataclasses.replace(config, storage=elsewhere), space)
    config = dataclasses.replace(given, storage=config.storage)
    storage = Storage(config.storage)
    folder, ledger = StudyFolder(storage, config.name), Ledger(storage)
    extending = bool(changes(folder, config, inputs, sought.extend))
    plan = make_plan(config, space, inputs, folder, ledger, write=False, extending=extending)
    slots = concurrency(config, [own_resources()])
    sizes = sorted({c.image_size for c in configurations_ahead(space, plan)})
    data = {
        (name, size): load_data(config, name, size) for size in sizes for name in config.categories
    }
    with console.status("estimating"):
        seconds, source = _seconds(config, space, plan, ledger, data, console)
        found = estimate(config, space, inputs, plan, ledger, seconds, source, slots)
        found = with_encoders(found, space, inputs, plan, storage)
        if found.seconds is not None:
            keep_estimate(config, inputs, found)
        disk = _disk(config, space, plan, found)
    # The paper's two: image AUROC, and pixel AP where there is a mask to take it from.
    metrics = 1 + any(d.report.masks is not None for d in data.values())
    console.print(f"[bold]{config.name}[/bold]", highlight=False)
    console.print(config.question, highlight=False, markup=False)
    for line in (
        plan.describe(config),
        *describe_place(bool(os.environ.get("RAY_ADDRESS"))),
        *describe(found, disk, sought.price),
        *describe_more(config, space, seconds),
        *describe_power(config, space, metrics),
        *(f"note: {note}" for note in (*notes, *plan.notes)),
    ):
        console.print(line, highlight=False, markup=False)
    return OK


def describe(found: Estimate, disk: float, price: float | None) -> list[str]:
    """An estimate in lines for the console.

    Args:
        found: the estimate.
        disk: bytes.
        price: of a GPU-hour; None where none was given.
    """
    lines = [
        f"ledger: {found.finished} of {found.fits} fits finished, {found.begun} begun, "
        f"{found.left} left"
    ]
    if found.encoders:
        making = "not counted in, because the storage has none like them"
        if found.encoder_seconds is not None:
            making = f"{_duration(found.encoder_seconds)} at most, counted in"
        lines.append(f"encoders: {found.encoders} to make; {making}")
    if found.left and found.seconds is not None:
        once = f"{found.slots} trial{'s' * (found.slots != 1)} at once"
        lines.append(
            f"time: about {_duration(found.total_wall_seconds)}, {once}; "
            f"{_duration(found.total_seconds)} added up ({found.source})"
        )
        if found.gpus:
            lines.append(f"GPU-hours: about {found.gpu_hours:.1f}")
        if price is not None:
            cost = f"about {price * found.gpu_hours:.2f}" if found.gpus else "none, without a GPU"
            lines.append(f"money: {cost}, at {price:g} per GPU-hour")
    lines.append(f"disk: about {disk / 1e9:.1f} GB")
    return lines


def describe_place(on_cluster: bool) -> list[str]:
    """Whose times and places an estimate is of, in lines.

    Args:
        on_cluster: whether the study would run on a cluster.
    """
    resources, gpu = own_resources(), "no GPU"
    if count := resources["GPU"]:
        gpu = f"{count} x {torch.cuda.get_device_name()}"
    lines = [f"machine: {platform.node()}, {_number(resources['CPU'], 'core')}, {gpu}"]
    if on_cluster:
        lines.append(
            "note: the cluster was neither asked nor measured. Time, trials at once, GPU-hours and "
            "money are those of the machine above alone; give the same line on a worker, with "
            "RAY_ADDRESS unset, for what its GPUs would take"
        )
    return lines


def describe_more(config: StudyConfig, space: Space, seconds: Seconds) -> list[str]:
    """What may make a study less than the estimate, and what comes after it.

    Args:
        config, space: the study.
        seconds: of a fit.
    """
    lines = []
    if not space.is_grid and config.early_stopping:
        lines.append("early stopping: makes it less, by how much is not known")
    if config.confirm:
        default = TrainConfig.from_dict(space.fixed)
        each = [seconds(default, category) for category in config.categories]
        fits = 2 * config.confirm * len(each)
        time = "" if None in each else f", about {_duration(2 * config.confirm * sum(each))} more"
        lines.append(f"confirmation: {fits} fits{time}, not counted in")
    return lines


def describe_power(config: StudyConfig, space: Space, metrics: int) -> list[str]:
    """What the cases can show at best, in lines; none where nothing is compared.

    Args:
        config, space: the study.
        metrics: that its report compares the cells by; it corrects for all of them together.
    """
    # Rows that are one configuration are compared once.
    cells = len(dataclasses.replace(space, draws=1).distinct_cells()) if space.is_grid else 2
    categories, seeds = len(config.categories), len(config.seeds)
    if not space.is_grid:
        seeds = config.confirm
    if cells < 2 or not seeds:
        return []
    pairs, comparisons = categories * seeds, (cells - 1) * metrics
    said, possible = _best_case(pairs, comparisons, "cases")
    line = (
        f"smallest p-value: {said} after Holm's correction ({_number(pairs, 'case')}, "
        f"{_number(cells - 1, 'comparison')} in {_number(metrics, 'metric')}){possible}"
    )
    if seeds < 2:
        line += "; no verdict is possible on these categories without a second seed"
    lines = [line]
    if categories >= FEWEST_CATEGORIES:
        # Each metric has a table of its own.
        said, possible = _best_case(categories, cells - 1, "categories")
        lines.append(f"on categories like these: {said} ({categories} categories){possible}")
    return lines


def _best_case(pairs: int, comparisons: int, what: str) -> tuple[str, str]:
    """The least adjusted p-value; and what it is short of, from a semicolon on."""
    # Rows of equally many pairs: the first one that is shown is shown beside none.
    others = [1.0] * (comparisons - 1)
    least, needed = smallest_p(pairs, others), needed_pairs(others)
    if least <= LEVEL:
        return f"{least:.2g}", ""
    below = f" below {needed} {what}" if needed else f" with any number of {what}"
    return f"{least:.2g}", f"; no verdict is possible{below}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _seconds(
    config: StudyConfig,
    space: Space,
    plan: Plan,
    ledger: Ledger,
    data: dict[tuple[str, int], CategoryData],
    console: Console,
) -> tuple[Seconds, str]:
    """What fits cost, from the ledger or measured now, and what it comes from."""
    ahead = configurations_ahead(space, plan)
    images: Images = {name: (len(d.select), len(d.report)) for (name, _), d in data.items()}
    records = history(ledger, config.cpus_per_trial)
    like = seconds_of_like(records)
    if all(like(c, name) is not None for c in ahead for name in config.categories):
        return like, from_history(len(records), "like these")
    if near := [record for record in records if is_near(record, ahead)]:
        return seconds_scaled(near, images), from_history(len(near), "scaled by their work")
    category = config.categories[0]
    by_work = sorted(ahead, key=lambda c: fit_work(c, images[category]))
    ends = list(dict.fromkeys((by_work[0], by_work[-1])))
    from study.measuring import measured_speed

    speeds = []
    for name, one in zip(("fastest", "slowest"), ends, strict=False):
        with console.status(f"measuring the {name} configuration"):
            size = one.image_size
            textures = config.textures and load_textures(Path(config.textures), size)
            speeds.append(
                measured_speed(
                    one,
                    data[category, size],
                    textures or None,
                    MEASURED_SECONDS / len(ends),
                    config.cpus_per_trial,
                )
            )
    return (
        seconds_measured(speeds[0], speeds[-1], images),
        f"measured on {category} on this machine, with nothing beside it",
    )


def _disk(config: StudyConfig, space: Space, plan: Plan, found: Estimate) -> float:
    """Bytes that the fits that are left will take, MLflow's copies of checkpoints included."""
    ahead = configurations_ahead(space, plan)
    if not ahead:
        return 0.0
    # A finished checkpoint has the model alone, in float32.
    weights = 4 * sum(work_of(c).parameters for c in ahead) / len(ahead)
    copies = {"none": 1, "last": 2, "best": 3}[config.log_checkpoints]
    return found.left * (copies * weights + FIT_BYTES)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
