"""How far a training is and how long it will take: a bar, or lines where there is no terminal."""

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ffcad.config import TrainConfig
from ffcad.cost import iteration_macs
from ffcad.training import AUTOENCODER, HEAD, Progress

SECONDS_BETWEEN_LINES = 10


def shown(
    training: Iterable[Progress], config: TrainConfig, console: Console
) -> Iterator[Progress]:
    """Passes a training's progress on and shows it meanwhile."""
    time_left = TimeLeft(config)
    bar = None
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} loss {task.fields[loss]}"),
            TextColumn("{task.fields[left]} left"),
        )
        bar = Bar(*columns, console=console, expand=True)
        task = bar.add_task("starting", total=config.iterations, loss="?", left="?")
    next_line = 0.0
    with bar or nullcontext():
        for progress in training:
            left = duration(time_left(progress))
            if progress.metrics is not None:
                console.print(_evaluation(progress), soft_wrap=True)
            if bar is not None:
                loss = f"{progress.loss:.3g}"
                done = progress.iteration
                bar.update(task, description=progress.stage, completed=done, loss=loss, left=left)
            elif time.monotonic() >= next_line:
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                console.print(
                    f"{progress.stage} {progress.iteration}/{progress.iterations}, loss "
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


def _evaluation(progress: Progress) -> str:
    names = ("image_auroc", "pixel_auroc", "pixel_ap")
    found = {name: progress.metrics.get(f"select_{name}") for name in names}
    values = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if value is not None)
    return f"{progress.stage} {progress.iteration}/{progress.iterations}: select {values}"
