"""How many trials share a GPU and a machine: plain numbers, and the cap that keeps each to its
share.

A share is a fraction of a GPU of which a whole number fits: 1/2, 1/3, 1/4 ... Ray gives a GPU to
several trials by such fractions, and takes no notice of memory; so the fraction is chosen from a
measured peak, and torch is told not to take more.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from study.config import AUTO, StudyConfig, StudyError

# What of a GPU's memory a fit is planned with, over what was measured of the largest one: data of
# another category and the allocator's fragments differ by some per cent.
HEAD_ROOM = 1.15
# What a process takes of a GPU beside torch's allocator: the context and the kernels; bytes.
OUTSIDE_BYTES = 600_000_000
# Ray counts resources to four digits.
DIGITS = 10_000

# A node's, or those of one to come, under Ray's names.
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Peak:
    """What the largest configuration of a space needs of a kind of GPU.

    Attributes:
        gpu: the kind, as CUDA names it.
        total_mb: its memory, in units of 10**6 bytes.
        peak_mb: the most that the configuration's process had of it.
    """

    gpu: str
    total_mb: float
    peak_mb: float

    @property
    def fits(self) -> int:
        """How many find room in one; at least 1, which shows by itself whether that was true."""
        return max(1, int(self.total_mb / (HEAD_ROOM * self.peak_mb)))


def share_of(fits: int) -> float:
    """The GPU's fraction of each of `fits` trials, rounded so that they are no more than a GPU."""
    return math.floor(DIGITS / fits) / DIGITS


def fits_on_one(gpus: float) -> int:
    """How many trials that have `gpus` each share a GPU, where that is a fraction."""
    return int(1 / gpus + 1e-6)


def chosen_share(peaks: Iterable[Peak], nodes: Iterable[Resources], cpus: int) -> float:
    """The share of a GPU that the largest configuration finds room in, on every kind.

    A node's cores may allow fewer trials than its GPUs' memory; then each has more of the memory.

    Args:
        peaks: of each kind of GPU.
        nodes: the cluster's.
        cpus: of a trial.
    """
    by_memory = min(peak.fits for peak in peaks)
    by_cores = max(
        (int(node.get("CPU", 0) / cpus / node["GPU"]) for node in nodes if node.get("GPU")),
        default=by_memory,
    )
    return share_of(max(1, min(by_memory, by_cores)))


def larger_share(gpus: float) -> float | None:
    """What a trial gets that ran out of memory: half as many share the GPU then.

    Args:
        gpus: what it had.

    Returns:
        The share; None where it had a whole GPU, or none.
    """
    if not 0 < gpus < 1:
        return None
    return share_of(max(1, fits_on_one(gpus) // 2))


def gpus_of_trial(gpus: float, larger: float | None) -> float:
    """What a trial has: as all of the study, or the larger share that it has come back for, in an
    earlier sitting perhaps, which may have run on other machines.

    Args:
        gpus: of the study's trials.
        larger: of this one; None where it did not come back.
    """
    return max(gpus, larger or 0.0) if gpus else 0.0


def trials_on(node: Resources, cpus: int, gpus: float) -> int:
    """How many trials a node holds at once.

    Args:
        node: its resources.
        cpus, gpus: of a trial.
    """
    slots = int(node.get("CPU", 0) / cpus)
    if gpus > 0:
        has = int(node.get("GPU", 0))
        slots = min(slots, has * fits_on_one(gpus) if gpus < 1 else int(has / gpus))
    return slots


def whole_gpu(nodes: Iterable[Resources], cpus: int) -> float:
    """1.0 where a trial can have a GPU; that of a node without cores for it, as a cluster's head is
    where no trial is to land, is none.

    Args:
        nodes: their resources.
        cpus: of a trial.
    """
    return float(any(node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= cpus for node in nodes))


def concurrency(config: StudyConfig, nodes: list[Resources]) -> tuple[int, float]:
    """How many trials run at once on machines that are there, and the GPUs of each.

    Args:
        config: what was asked for; a share that is not measured yet counts as a whole GPU.
        nodes: their resources.

    Raises:
        StudyError: if not even one trial fits.
    """
    gpus = config.gpus_per_trial
    if gpus in (None, AUTO):
        gpus = whole_gpu(nodes, config.cpus_per_trial)
    slots = sum(trials_on(node, config.cpus_per_trial, gpus) for node in nodes)
    if slots == 0:
        cpus = max((node.get("CPU", 0) for node in nodes), default=0)
        if cpus < config.cpus_per_trial:
            raise StudyError(f"--cpus-per-trial {config.cpus_per_trial}: there are {cpus:g} cores")
        most = max((node.get("GPU", 0) for node in nodes), default=0)
        raise StudyError(f"--gpus-per-trial {gpus:g}: there are {most:g} GPUs")
    return min(slots, config.max_concurrent or slots), gpus


def keep_to_share(gpus: float) -> None:
    """Has torch refuse this process more of its GPU's memory than its share, and any GPU without
    one, which Ray itself would leave visible. Before CUDA is used.

    So a fit that needs more than was thought runs out of memory itself, and none of its neighbours
    does.

    Args:
        gpus: of the trial.
    """
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not 0 < gpus < 1 or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, gpus - OUTSIDE_BYTES / total))
