"""How much of a GPU's memory a space's largest configuration takes: measured once on each kind.

Measured is one process that has a whole GPU of the kind: some iterations of each stage and an
inspection, on images of the study's first category; its context and kernels count as well as what
torch's allocator has reserved. One that runs out of memory took all that there is. What came out is
kept on the storage, for all studies whose largest configuration is the same:

    <storage>/gpus/<kind and memory>/<method version>-<configuration's digest>.json

A file that cannot be read is measured anew.
"""

import re
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ffcad.config import ConfigError, TrainConfig, knobs
from ffcad.training import METHOD_VERSION
from study.config import StudyConfig, StudyError
from study.ledger import LedgerError, read_document, write_document
from study.packing import Peak
from study.spaces import Space
from study.storage import Storage

# Knobs that a fit's memory grows with, and of choices the dearer one last.
GROWING = (
    "image_size",
    "batch_size",
    "ffc_layers",
    "global_ratio",
    "ffc_encoder",
    "ffc_autoencoder",
    "local_fourier_unit",
    "autoencoder_channels",
    "head_channels",
)
CHOICES = {"precision": ("bfloat16", "float16", "float32"), "optimizer": ("sgd", "adamw")}


def largest_configuration(space: Space) -> TrainConfig:
    """A configuration that takes at least the memory of each of a space: all knobs that it grows
    with at their greatest, whether or not the space can draw that.

    Raises:
        StudyError: if that is no configuration.
    """
    values = {name: max(space.values_of(name)) for name in GROWING}
    for name, order in CHOICES.items():
        values[name] = max(space.values_of(name), key=order.index)
    fixed = {name: space.values_of(name)[0] for name in knobs() if name not in values}
    try:
        return TrainConfig.from_dict({**fixed, **values, "encoder_weights": "random"})
    except ConfigError as e:
        raise StudyError(
            f"--gpus-per-trial auto: the largest configuration of {space.name!r} cannot be made "
            f"({e}); give a number"
        ) from e


def kept_peak(storage: Storage, gpu: str, total_mb: float, largest: TrainConfig) -> Peak | None:
    """What was measured before; None where nothing was, or it cannot be read.

    Args:
        storage: where it is kept.
        gpu, total_mb: the kind of GPU, as CUDA names it, and its memory in 10**6 bytes.
        largest: the configuration.
    """
    try:
        document = read_document(storage, _name(gpu, total_mb, largest), dict)
        return Peak(document["gpu"], document["total_mb"], document["peak_mb"])
    except (FileNotFoundError, LedgerError, KeyError):
        return None


def keep_peak(storage: Storage, peak: Peak, largest: TrainConfig) -> None:
    """Keeps what was measured, for this study and others."""
    document = {**vars(peak), "configuration": largest.to_dict()}
    write_document(storage, _name(peak.gpu, peak.total_mb, largest), document)


def begin_measuring(config: StudyConfig, largest: TrainConfig, node: str) -> ray.ObjectRef:
    """Measures in a task that has a whole GPU of a node; the process ends with it.

    Args:
        config: the study; a trial's cores are the task's.
        largest: its largest configuration.
        node: Ray's id of a node that has a GPU of the kind.

    Returns:
        The task, whose result is a `Peak`.
    """
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    measure = ray.remote(max_calls=1)(measure_peak)
    return measure.options(
        num_cpus=config.cpus_per_trial, num_gpus=1, scheduling_strategy=strategy
    ).remote(config, largest.to_dict())


def measure_peak(config: StudyConfig, largest: dict[str, Any]) -> Peak:
    """What a worker does: trains some iterations of each stage, and inspects.

    Args:
        config: the study.
        largest: every knob of its largest configuration.

    Raises:
        RuntimeError: if there is no GPU here.
    """
    from study.measuring import measured_peak

    return measured_peak(config, TrainConfig.from_dict(largest))


def _name(gpu: str, total_mb: float, largest: TrainConfig) -> str:
    kind = re.sub(r"[^A-Za-z0-9]+", "-", f"{gpu} {total_mb / 1000:.0f} GB")
    return f"gpus/{kind}/{METHOD_VERSION}-{largest.digest()}.json"
