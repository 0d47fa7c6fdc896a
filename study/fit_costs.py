"""What a fit costs: what finished ones of its size did, or by its work from others.

A fit costs what a finished fit of the same size cost, where the ledger has one of a like machine.
What differs in size is scaled by multiply-accumulates (`ffcad.cost`): exact for none, because
Fourier transforms and memory are not among them, and good enough to decide by.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from ffcad.config import ConfigError, TrainConfig
from study.encoders import EncoderNeed, EncoderRecord, EncoderStore
from study.ledger import FINISHED, READERS, FitRecord, Ledger, LedgerError

# Records that are read for what fits cost.
MOST_RECORDS = 400
# Within this factor the seconds of an iteration go with its multiply-accumulates.
NEAR = 4.0
# The knobs that a model's size depends on.
SIZE_KNOBS = (
    "image_size",
    "ffc_layers",
    "encoder_ratio",
    "autoencoder_ratio",
    "local_fourier_unit",
    "autoencoder_channels",
    "head_channels",
)
# With them, those that the seconds of a fit depend on; not what is trained, but how much.
COST_KNOBS = (
    *SIZE_KNOBS,
    "batch_size",
    "autoencoder_iterations",
    "head_iterations",
    "evaluate_every",
    "precision",
    "channels_last",
    "compile",
)

# (select, report): images of a category's splits.
Images = Mapping[str, tuple[int, int]]
# Seconds of a fit of a configuration on a category; None where nothing is known.
Seconds = Callable[[TrainConfig, str], float | None]


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a model for one image.

    Attributes:
        stages: of a training iteration in stage one and in stage two.
        forward: of an inspection.
        parameters: of the model, frozen ones too.
    """

    stages: tuple[float, float]
    forward: float
    parameters: int


@dataclass(frozen=True)
class Speed:
    """What was measured of one configuration.

    Attributes:
        work: its model's.
        batch_size: images per iteration.
        stages: seconds per iteration in stage one and in stage two.
        image: seconds per evaluated image.
    """

    work: Work
    batch_size: int
    stages: tuple[float, float]
    image: float


@functools.cache
def _work(size: tuple[Any, ...]) -> Work:
    from ffcad.cost import model_cost  # Brings more of torch; counting takes a second.

    values = dict(zip(SIZE_KNOBS, size, strict=True))
    ratios = values.pop("encoder_ratio"), values.pop("autoencoder_ratio")
    config = TrainConfig(
        **values,
        global_ratio=max(ratios),
        ffc_encoder=ratios[0] > 0,
        ffc_autoencoder=ratios[1] > 0,
    )
    cost = model_cost(config)
    encoder, autoencoder, head = (part.macs for part in cost.parts)
    stages = encoder + 3 * autoencoder, encoder + autoencoder + 3 * head
    return Work(stages, encoder + autoencoder + head, cost.parameters)


def work_of(config: TrainConfig) -> Work:
    """Counts a configuration's model; those of one size are counted once."""
    return _work(tuple(getattr(config, name) for name in SIZE_KNOBS))


def fit_work(config: TrainConfig, images: tuple[int, int]) -> float:
    """Multiply-accumulates of a whole fit, evaluations included.

    Args:
        config: what is trained.
        images: of the select and of the report split.
    """
    work = work_of(config)
    iterations = config.autoencoder_iterations, config.head_iterations
    training = sum(n * macs for n, macs in zip(iterations, work.stages, strict=True))
    return config.batch_size * training + _inspected(config, images) * work.forward


def _inspected(config: TrainConfig, images: tuple[int, int]) -> int:
    """Images that a fit inspects, in all its evaluations."""
    select, report = images
    evaluations = config.iterations // config.evaluate_every + 2  # And at the stages' ends.
    return evaluations * select + report


def history(ledger: Ledger, threads: int) -> list[FitRecord]:
    """Finished fits that were done on machines like this one.

    Args:
        ledger: of all studies on the storage.
        threads: of torch in a fit.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return [record for record in finished_fits(ledger) if machine_kind(record) == (gpu, threads)]


def cluster_history(ledger: Ledger, threads: int, gpus: float) -> list[FitRecord]:
    """Finished fits of the kind of machine of a cluster that did most of them.

    Args:
        ledger: of all studies on the storage.
        threads: of torch in a fit.
        gpus: of a trial; without any, only fits without one count.
    """
    kinds = ((record, machine_kind(record)) for record in finished_fits(ledger))
    return of_commonest_kind(
        [r for r, (gpu, of) in kinds if of == threads and (gpu is not None) == (gpus > 0)]
    )


def of_commonest_kind(records: list[FitRecord]) -> list[FitRecord]:
    """Those fits of the kind of machine that did most."""
    kinds = Counter(map(machine_kind, records))
    kind = max(kinds, key=kinds.__getitem__, default=None)
    return [record for record in records if machine_kind(record) == kind]


def machine_kind(record: FitRecord) -> tuple[str | None, int | None]:
    """What a fit's machine is known by where its time is concerned: GPU, and torch's threads."""
    return record.environment.get("gpu"), record.environment.get("threads")


def finished_fits(ledger: Ledger) -> list[FitRecord]:
    """Finished fits of all studies on a storage, with their seconds; of many some are read."""

    def read(key: str) -> FitRecord | None:
        with contextlib.suppress(LedgerError, ConfigError):  # The latter, of another version's.
            record = ledger.read(key)
            if record is not None and TrainConfig.from_dict(record.configuration):
                return record
        return None

    keys = ledger.keys()[:MOST_RECORDS]
    # An object store answers many at once as fast as one.
    with ThreadPoolExecutor(1 if ledger.storage.local else READERS) as readers:
        records = [record for record in readers.map(read, keys) if record is not None]
    return [
        record
        for record in records
        if record.status == FINISHED and record.seconds > 0 and "images" in record.inputs
    ]


def is_near(record: FitRecord, configurations: Iterable[TrainConfig]) -> bool:
    """Whether a fit is of about the size of all configurations: a far smaller one, most of whose
    time is overhead, says nothing of theirs."""
    own = _iteration_work(TrainConfig.from_dict(record.configuration))
    return all(1 / NEAR <= _iteration_work(c) / own <= NEAR for c in configurations)


def _iteration_work(config: TrainConfig) -> float:
    return fit_work(config, (0, 0)) / config.iterations


def seconds_of_like(records: Iterable[FitRecord]) -> Seconds:
    """What finished fits of the same size cost; those on the same category, where there are any."""
    known: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for record in records:
        size = _cost_class(TrainConfig.from_dict(record.configuration))
        known.setdefault(size, {}).setdefault(record.category, []).append(record.work_seconds)

    def seconds(config: TrainConfig, category: str) -> float | None:
        of_size = known.get(_cost_class(config), {})
        every = [value for values in of_size.values() for value in values]
        values = of_size.get(category, every)
        return fmean(values) if values else None

    return seconds


def seconds_scaled(records: list[FitRecord], images: Images) -> Seconds:
    """What fits of the same size cost, and where there is none, of any size, by their work.

    Args:
        records: finished fits, at least one.
        images: of the categories that fits are planned on.
    """
    like = seconds_of_like(records)
    work = sum(
        fit_work(
            TrainConfig.from_dict(record.configuration),
            (record.inputs["images"]["select"], record.inputs["images"]["report"]),
        )
        for record in records
    )
    rate = sum(record.work_seconds for record in records) / work

    def seconds(config: TrainConfig, category: str) -> float:
        found = like(config, category)
        return rate * fit_work(config, images[category]) if found is None else found

    return seconds


def seconds_measured(fastest: Speed, slowest: Speed, images: Images) -> Seconds:
    """Between two measured configurations, and beyond, on the line through them.

    Args:
        fastest, slowest: the measured ones; may be the same.
        images: of the categories that fits are planned on.
    """

    def on_line(low: float, high: float, at: float, seconds: tuple[float, float]) -> float:
        if high <= low:
            return fmean(seconds) * at / low
        slope = (seconds[1] - seconds[0]) / (high - low)
        # Noise can turn the line over; work never costs less the more of it there is.
        return max(seconds[0] + max(slope, 0.0) * (at - low), min(seconds) * min(1.0, at / low))

    def seconds(config: TrainConfig, category: str) -> float:
        work = work_of(config)
        iterations = config.autoencoder_iterations, config.head_iterations
        total = _inspected(config, images[category]) * on_line(
            fastest.work.forward,
            slowest.work.forward,
            work.forward,
            (fastest.image, slowest.image),
        )
        for stage, count in enumerate(iterations):
            total += count * on_line(
                fastest.batch_size * fastest.work.stages[stage],
                slowest.batch_size * slowest.work.stages[stage],
                config.batch_size * work.stages[stage],
                (fastest.stages[stage], slowest.stages[stage]),
            )
        return total

    return seconds


def encoder_seconds(needs: Iterable[EncoderNeed], store: EncoderStore) -> float | None:
    """What making encoders costs at most, by what the storage's own ones cost; None if it has none
    like one of them."""
    records, _ = store.read_all(store.keys())
    done = [r for r in records if r.status == FINISHED and r.seconds > 0]
    return summed(_making_seconds(need, done) for need in needs)


def _making_seconds(need: EncoderNeed, done: list[EncoderRecord]) -> float | None:
    recipe = need.recipe.used()
    size = {k: v for k, v in recipe.items() if k in ("method", "image_size", "batch_size")}
    like = [r for r in done if size.items() <= r.need.recipe.used().items()]
    if not like:
        return None
    if "iterations" not in recipe:  # Nothing is trained.
        return fmean(r.seconds for r in like)
    return need.recipe.iterations * fmean(r.seconds / max(1, r.iteration) for r in like)


def _cost_class(config: TrainConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in COST_KNOBS)


def summed(values: Iterable[float | None]) -> float | None:
    """The sum, if all are known."""
    values = list(values)
    return None if None in values else sum(values)
