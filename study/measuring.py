"""How fast a configuration trains on this machine and what memory it takes, from a few iterations
of each stage."""

import dataclasses
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, Split, Textures, load_textures
from ffcad.metrics import all_metrics
from ffcad.predictor import predict
from ffcad.training import Progress, train
from study.config import StudyConfig
from study.data import load_data
from study.fit_costs import Speed, work_of
from study.machine import reset_peak_memory
from study.packing import Peak

# More iterations than a measurement ever does, and a rate at which none of them goes astray.
MANY, SMALL_RATE = 10**9, 1e-9
# What is measured no better by more of them.
ENOUGH_ITERATIONS = 50
# Of each stage, until the allocator has what it will need.
MEMORY_SECONDS = 3.0


def measured_speed(
    config: TrainConfig,
    data: CategoryData,
    textures: Textures | None,
    seconds: float,
    threads: int,
) -> Speed:
    """Trains and inspects for a while; nothing of it is kept, on the disk or elsewhere.

    Args:
        config: what is measured; its encoder is random, which costs the same.
        data: real images, of its size.
        textures: the study's.
        seconds: about how long it may take, the building of the models aside; at least one
            iteration of each stage is done, and no more than are enough.
        threads: of torch, in a fit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            # That the encoder is random, which is no news here.
            warnings.simplefilter("ignore")
            return _speed(config, data, textures, seconds)
    finally:
        torch.set_num_threads(before)


def measured_peak(study: StudyConfig, config: TrainConfig) -> Peak:
    """The most memory that a configuration takes of this process's GPU, all in all.

    Args:
        study: whose first category is trained on.
        config: what is measured.

    Raises:
        RuntimeError: if there is no GPU here.
    """
    torch.set_num_threads(study.cpus_per_trial)
    data = load_data(study, study.categories[0], config.image_size)
    textures = study.textures and load_textures(Path(study.textures), config.image_size)
    device = torch.cuda.get_device_properties(0)
    reset_peak_memory()
    try:
        for count in ((MANY, 0), (0, MANY)):
            _, progress = _iterations(config, count, data, textures or None, MEMORY_SECONDS)
            _inspection(progress, data.select, MEMORY_SECONDS)
            # Else the next stage's model would stand beside this one.
            del progress
    except torch.OutOfMemoryError:
        return Peak(device.name, device.total_memory / 1e6, device.total_memory / 1e6)
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    peak = torch.cuda.max_memory_reserved() + outside
    return Peak(device.name, device.total_memory / 1e6, peak / 1e6)


def _speed(
    config: TrainConfig, data: CategoryData, textures: Textures | None, seconds: float
) -> Speed:
    stages, progress = [], None
    for count in ((MANY, 0), (0, MANY)):
        spent, progress = _iterations(config, count, data, textures, 0.4 * seconds)
        stages.append(spent)
    image = _inspection(progress, data.select, 0.2 * seconds)
    return Speed(work_of(config), config.batch_size, tuple(stages), image)


def _iterations(
    config: TrainConfig,
    count: tuple[int, int],
    data: CategoryData,
    textures: Textures | None,
    seconds: float,
) -> tuple[float, Progress]:
    """Seconds per iteration of one stage, and where the training stood."""
    probe = dataclasses.replace(
        config,
        autoencoder_iterations=count[0],
        head_iterations=count[1],
        evaluate_every=MANY,
        encoder_weights="random",
        sgd_learning_rate=SMALL_RATE,
        adamw_learning_rate=SMALL_RATE,
    )
    first = None
    for progress in train(probe, data, textures=textures):
        if first is None:
            first = progress
        if progress.seconds > seconds or progress.iteration > ENOUGH_ITERATIONS:
            break
    if progress is first:  # One iteration was too long already.
        return first.seconds, first
    # The first one also allocates what the others use again.
    spent = progress.seconds - first.seconds
    return spent / (progress.iteration - first.iteration), progress


def _inspection(progress: Progress, split: Split, seconds: float) -> float:
    """Seconds per image of an evaluation, its metrics included."""
    batch, started, images = progress.model.config.batch_size, time.perf_counter(), 0
    while images < len(split) and time.perf_counter() - started < seconds:
        chosen = split.images[images : images + batch]
        predict(progress.model, chosen)
        images += len(chosen)
    per_image = (time.perf_counter() - started) / images
    maps = np.random.default_rng(0).random(split.images.shape[:3], np.float32)
    started = time.perf_counter()
    all_metrics(maps.max(axis=(1, 2)), split.labels, maps, split.masks)
    return per_image + (time.perf_counter() - started) / len(split)
