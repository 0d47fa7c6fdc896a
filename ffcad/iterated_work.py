"""What a training and the making of an encoder have in common: iterations with exact resume.

A checkpoint holds all of the state, and batch i depends on the seed and i alone. So work that was
killed and goes on from its checkpoint ends as work that was not.
"""

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ffcad.checkpoint import load_last_good, previous_checkpoint, save_checkpoint
from ffcad.config import TrainConfig
from ffcad.predictor import autocast, pick_device
from ffcad.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far iterated work is.

    Attributes:
        iteration, iterations: done, and at most to be done.
        loss: of this iteration; not a number before the first.
        seconds: spent so far, in earlier sittings too; evaluation included, the caller's time not.
        history: all evaluations so far, each with its iteration.
        final: whether the work is done.
        note: one line if the newest checkpoint could not be read when this sitting began, so that
            the work went on from the one before; else None.
        resumed_at: the iteration at which this sitting began; 0 where the work is new.
    """

    iteration: int
    iterations: int
    loss: float
    seconds: float
    history: list[dict[str, Any]]
    final: bool
    note: str | None = None
    resumed_at: int = 0


Kind = TypeVar("Kind", bound=Standing)


class IteratedWork(ABC, Generic[Kind]):
    """The state of one work: networks, optimizer, position, history.

    Args:
        config: its knobs; of them 'device', 'precision' and 'loader_workers' matter here.

    Attributes:
        keys: what its checkpoints hold.
        model: all that is kept; the optimizer has the parameters that are trained.
        losses: since the last evaluation.
        saved_at: the iteration of the newest checkpoint.
        gradient_clip: greatest norm of the gradient; None leaves it.
        before_save: is called before a checkpoint is written, and may raise.
    """

    keys: frozenset[str]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    gradient_clip: float | None = None

    def __init__(self, config: TrainConfig | PretrainConfig) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.iteration = self.saved_at = self.resumed_at = 0
        self.seconds, self.loss = 0.0, math.nan
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.note: str | None = None
        self.before_save: Callable[[], None] | None = None

    def run(
        self, checkpoint: Path | None, before_save: Callable[[], None] | None = None
    ) -> Iterator[Kind]:
        """Does what is left, from the checkpoint if there is one; see `ffcad.training.train`."""
        self.before_save = before_save
        if checkpoint is not None and (
            checkpoint.is_file() or previous_checkpoint(checkpoint).is_file()
        ):
            self.restore(checkpoint)
        if self.done:
            yield self.progress(self.last_figures())
            return
        started = time.perf_counter() - self.seconds
        try:
            if self.iteration == 0 and (figures := self.first_figures()) is not None:
                yield self.progress(figures)
            for batch in self._loader():
                if self.is_over():
                    break
                self.step(batch)
                figures = self.evaluate() if self.evaluation_is_due() else None
                self.seconds = time.perf_counter() - started
                if figures is not None and checkpoint is not None:
                    self.save(checkpoint)
                yielded = time.perf_counter()
                yield self.progress(figures)
                started += time.perf_counter() - yielded  # the caller's time is not the work's
        except GeneratorExit:  # comes only where an iteration is done, never in the middle of one
            if checkpoint is not None and self.iteration > self.saved_at:
                self.save(checkpoint)
            raise
        if self.done:
            return
        self.finish()
        self.seconds = time.perf_counter() - started
        if checkpoint is not None:
            self.save(checkpoint)
        yield self.progress(self.last_figures())

    @property
    @abstractmethod
    def iterations(self) -> int:
        """At most to be done."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether nothing is left to do; the checkpoint then has no optimizer."""

    @property
    @abstractmethod
    def rate(self) -> float:
        """The learning rate of the iteration that comes next."""

    @abstractmethod
    def batches(self) -> Dataset:
        """Its item i is the batch of iteration i."""

    @abstractmethod
    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of the iteration that comes next."""

    @abstractmethod
    def diverged(self, what: str, iteration: int) -> Exception:
        """What is raised where the loss is not finite."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Figures of images that are not trained on; kept in the history."""

    @abstractmethod
    def last_figures(self) -> dict[str, float]:
        """Those of work that is done."""

    @abstractmethod
    def progress(self, figures: dict[str, float] | None) -> Kind:
        """What the caller sees."""

    def evaluation_is_due(self) -> bool:
        """Every so many iterations, and at the end."""
        due = self.iteration % self.config.evaluate_every == 0
        return due or self.iteration == self.iterations

    def first_figures(self) -> dict[str, float] | None:
        """What is measured before the first iteration."""
        return None

    def is_over(self) -> bool:
        """Whether nothing can be gained any more, although iterations are left."""
        return False

    def finish(self) -> None:
        """What is done once after the last iteration, where that does not end the work."""

    def step(self, batch: dict[str, Tensor]) -> None:
        """One iteration."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        with autocast(self.config, self.device):
            loss = self.loss_of(batch)
        value = loss.item()
        if not np.isfinite(value):
            raise self.diverged(f"the loss became {value}", self.iteration + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        self.loss = value
        self.losses.append(value)

    def note_evaluation(self, figures: dict[str, Any]) -> None:
        """Adds to the history; losses are counted from here on."""
        self.history.append({"iteration": self.iteration, **figures})
        self.losses = []

    def standing(self) -> dict[str, Any]:
        """The fields of a `Standing`, but whether it is final."""
        return {
            "iteration": self.iteration,
            "iterations": self.iterations,
            "loss": self.loss,
            "seconds": self.seconds,
            "history": list(self.history),
            "note": self.note,
            "resumed_at": self.resumed_at,
        }

    def save(self, path: Path) -> None:
        """Writes the checkpoint, unless the caller's objection is raised."""
        if self.before_save is not None:
            self.before_save()
        state = {
            **self.identity(),
            "iteration": self.iteration,
            "history": self.history,
            "loss": self.loss,
            "losses": self.losses,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": None if self.done else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        # What could not be read must not take the place of what could.
        keep_old = self.note is None or self.saved_at > self.resumed_at
        save_checkpoint(path, state, keep_old=keep_old)
        self.saved_at = self.iteration

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its checkpoints hold besides the state that all works have."""

    @abstractmethod
    def check(self, state: dict[str, Any], path: Path) -> None:
        """Refuses a checkpoint of other work.

        Raises:
            CheckpointError: with what differs.
        """

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint stands, the previous one if the newest cannot be read.

        Raises:
            CheckpointError: if it is of other work.
            UnreadableCheckpoint: if neither can be read.
        """
        state, self.note = load_last_good(path, self.keys)
        self.check(state, path if self.note is None else previous_checkpoint(path))
        self.iteration = self.resumed_at = self.saved_at = state["iteration"]
        self.history, self.seconds = state["history"], state["seconds"]
        self.loss, self.losses = state["loss"], state["losses"]
        self.model.load_state_dict(state["model"])
        self.take(state)
        self.scaler.load_state_dict(state["scaler"])

    @abstractmethod
    def take(self, state: dict[str, Any]) -> None:
        """Takes the optimizer's state, and what is its own, from a checkpoint."""

    def _loader(self) -> DataLoader:
        """Batches from the next iteration on."""
        return DataLoader(
            self.batches(),
            batch_size=None,
            sampler=range(self.iteration, self.iterations),
            num_workers=self.config.loader_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_ctrl_c_to_the_parent,
        )


def _leave_ctrl_c_to_the_parent(worker: int) -> None:
    """A terminal sends Ctrl-C to the loader's workers too; who trains decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
