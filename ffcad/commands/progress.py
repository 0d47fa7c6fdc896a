"""How far a training is and how long it will take: a bar, or lines where there is no terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ffcad.config import TrainConfig
from ffcad.cost import iteration_macs
from ffcad.iterated_work import Standing
from ffcad.pretrain import PretrainProgress
from ffcad.training import AUTOENCODER, HEAD, Progress

SECONDS_BETWEEN_LINES = 10

Kind = TypeVar("Kind", bound=Standing)


def shown(
    training: Iterable[Progress], config: TrainConfig, console: Console
) -> Iterator[Progress]:
    """Passes a training's progress on and shows it meanwhile."""
    left, total = TimeLeft(config), config.iterations
    return _shown(training, console, total, left, lambda progress: progress.stage, _evaluation)


def shown_making(
    making: Iterable[PretrainProgress], console: Console
) -> Iterator[PretrainProgress]:
    """Passes the progress of an encoder's making on and shows it meanwhile."""

    def left(progress: PretrainProgress) -> float | None:
        done = progress.iteration - progress.resumed_at
        if progress.final or done == 0:
            return 0.0 if progress.final else None
        nonlocal began
        began = progress.seconds if began is None else began
        pace = (progress.seconds - began) / max(1, done - 1)
        return pace * (progress.iterations - progress.iteration) if done > 1 else None

    began: float | None = None
    return _shown(making, console, None, left, lambda progress: "encoder", _agreement)


def _shown(
    training: Iterable[Kind],
    console: Console,
    total: int | None,
    time_left: Callable[[Kind], float | None],
    name: Callable[[Kind], str],
    evaluation: Callable[[Kind], str | None],
) -> Iterator[Kind]:
    """Passes progress on and shows it: a bar, or a line every few seconds.

    Args:
        training: the progress.
        console: where to.
        total: iterations; None takes the progress's own.
        time_left: seconds, as far as they are known.
        name: of what is trained now.
        evaluation: the line of an evaluation; None where there is none.
    """
    bar = None
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} loss {task.fields[loss]}"),
            TextColumn("{task.fields[left]} left"),
        )
        bar = Bar(*columns, console=console, expand=True)
        task = bar.add_task("starting", total=total, loss="?", left="?")
    next_line = 0.0
    with bar or nullcontext():
        for progress in training:
            left, done = duration(time_left(progress)), progress.iteration
            if line := evaluation(progress):
                console.print(line, soft_wrap=True)
            if bar is not None:
                bar.update(
                    task,
                    description=name(progress),
                    completed=done,
                    total=progress.iterations,
                    loss=f"{progress.loss:.3g}",
                    left=left,
                )
            elif done and time.monotonic() >= next_line:
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                console.print(
                    f"{name(progress)} {done}/{progress.iterations}, loss "
                    f"{progress.loss:.3g}, {duration(progress.seconds)} spent, {left} left",
                    soft_wrap=True,
                )
            yield progress


class TimeLeft:
    """Estimates the seconds left from the pace of this sitting.

    An iteration of stage two takes several times as long as one of stage one, so while stage one
    runs, stage two is taken to be slower by the ratio of their multiply-accumulates.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.lengths = {AUTOENCODER: config.autoencoder_iterations, HEAD: config.head_iterations}
        macs_one, macs_two = iteration_macs(config)
        self.slower = macs_two / macs_one
        self.stage: str | None = None

    def __call__(self, progress: Progress) -> float | None:
        """Seconds left; None where nothing can be said yet, at the start of a sitting or stage."""
        if progress.final:
            return 0.0
        if progress.stage != self.stage:
            # A stage's first iteration warms up and would spoil the pace.
            self.stage, self.since = progress.stage, (progress.iteration, progress.seconds)
            return None
        begun, spent = self.since
        pace = (progress.seconds - spent) / (progress.iteration - begun)
        stage_two = self.lengths[HEAD]
        if progress.stage == HEAD:
            return pace * (progress.iterations - progress.iteration)
        stage_one = self.lengths[AUTOENCODER] - progress.iteration
        return pace * (stage_one + self.slower * stage_two)


def duration(seconds: float | None) -> str:
    """1:02:03, 2:03, or ? for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _evaluation(progress: Progress) -> str | None:
    if progress.metrics is None:
        return None
    names = ("image_auroc", "pixel_auroc", "pixel_ap")
    found = {name: progress.metrics.get(f"select_{name}") for name in names}
    values = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if value is not None)
    return f"{progress.stage} {progress.iteration}/{progress.iterations}: select {values}"


def _agreement(progress: PretrainProgress) -> str | None:
    figures = progress.figures
    if figures is None:
        return None
    if "top1" in figures:
        words = f"top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}"
    else:
        words = ", ".join(
            f"level {k} cosine {figures[f'level{k}_cosine']:.3f} CKA {figures[f'level{k}_cka']:.3f}"
            for k in (1, 2, 3)
        )
    end = "held out at the end" if progress.final else "held out"
    where = f"encoder {progress.iteration}/{progress.iterations}"
    return f"{where}: {end}: loss {figures['loss']:.4f}, {words}"
