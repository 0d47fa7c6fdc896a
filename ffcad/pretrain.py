"""Makes the weights of a frozen encoder, as an iterator of progress with exact resume.

    teacher = load_teacher("torchvision")
    corpus = read_corpus([Path("photographs")])
    recipe, architecture = PretrainConfig(), EncoderArchitecture(ratio=0.5, layers=2)
    for progress in pretrain(recipe, architecture, corpus, teacher):
        print(progress.iteration, progress.figures)
    save_encoder(Path("encoder.safetensors"), progress)

Nobody publishes an FFC-ResNet-18, so every architecture needs a making of its own: by distillation
from ResNet-18 (the default), by a warm start from its kernels alone, or supervised on class labels.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ffcad.batches import derived_seed
from ffcad.checkpoint import (
    CheckpointError,
    load_last_good,
    previous_checkpoint,
    save_checkpoint,
)
from ffcad.corpus import Corpus, Crops, central_crop
from ffcad.encoder_weights import Teacher
from ffcad.predictor import autocast, normalise, pick_device, to_float
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig, encoder_key
from ffcad.pretrain_objectives import Classification, Distillation
from ffcad.resnet import FFCResNet
from ffcad.training import leave_ctrl_c_to_the_parent
from ffcad.warm_start import calibrate

# A held-out loss below this is no loss: a warm start that is exact.
NOTHING_LEFT = 1e-6
# A branch with more dead channels than this is worth a note.
MANY_DEAD = 0.5
KEYS = frozenset(
    (
        "key",
        "recipe",
        "iteration",
        "history",
        "loss",
        "losses",
        "seconds",
        "model",
        "best",
        "best_loss",
        "stale",
        "optimizer",
        "scaler",
        "figures",
    )
)


class PretrainError(RuntimeError):
    """A making that cannot give a useful encoder."""


@dataclass(frozen=True)
class PretrainProgress:
    """Where a making stands.

    Attributes:
        iteration, iterations: done, and at most to be done.
        loss: of this iteration; not a number before the first.
        seconds: spent so far, in earlier sittings too.
        figures: at evaluations, of the held-out images: 'loss' and what the method measures
            (`ffcad.agreement`, or 'top1' and 'top5'); else None.
        history: all evaluations: iteration, 'training_loss' since the last, figures.
        final: whether it is done; the encoder then has the weights of the best evaluation, with
            statistics taken anew, and the figures are those of that.
        encoder: at the end; else None.
        card: at the end, what is known of the weights: architecture, recipe, digests, figures,
            cost; else None.
        note: one line if the newest checkpoint could not be read when this sitting began.
        resumed_at: the iteration at which this sitting began.
    """

    iteration: int
    iterations: int
    loss: float
    seconds: float
    figures: dict[str, float] | None
    history: list[dict[str, Any]]
    final: bool
    encoder: FFCResNet | None
    card: dict[str, Any] | None
    note: str | None = None
    resumed_at: int = 0


def pretrain(
    recipe: PretrainConfig,
    architecture: EncoderArchitecture,
    corpus: Corpus,
    teacher: Teacher | None = None,
    *,
    checkpoint: Path | None = None,
) -> Iterator[PretrainProgress]:
    """Makes an encoder.

    Args:
        recipe: the knobs.
        architecture: of the encoder; a plain ResNet-18 is what the teacher is, without any making.
        corpus: images to make it from, with labels for a supervised making.
        teacher: a ResNet-18; not needed for a supervised making.
        checkpoint: where the state is kept, as in `ffcad.training.train`.

    Yields:
        A `PretrainProgress` at the start, after every iteration, and at the end.

    Raises:
        PretrainError: if the loss is not finite, or a branch of the encoder is dead.
        CheckpointError: if the checkpoint is of another making; `UnreadableCheckpoint` if neither
            it nor the previous one can be read.
        ValueError: if teacher or labels are missing.
    """
    making = _Making(recipe, architecture, corpus, teacher)
    if checkpoint is not None and (
        checkpoint.is_file() or previous_checkpoint(checkpoint).is_file()
    ):
        making.restore(checkpoint)
    if making.figures is not None:
        yield making.progress(making.figures, final=True)
        return
    started = time.perf_counter() - making.seconds
    try:
        if making.iteration == 0 and making.iterations:
            yield making.progress(making.evaluate())
        for batch in making.loader():
            if making.is_over():
                break
            making.step(batch)
            figures = making.evaluate() if making.evaluation_is_due() else None
            making.seconds = time.perf_counter() - started
            if figures is not None and checkpoint is not None:
                making.save(checkpoint)
            yielded = time.perf_counter()
            yield making.progress(figures)
            started += time.perf_counter() - yielded
    except GeneratorExit:
        if checkpoint is not None and making.iteration > making.saved_at:
            making.save(checkpoint)
        raise
    making.finish()
    making.seconds = time.perf_counter() - started
    if checkpoint is not None:
        making.save(checkpoint)
    yield making.progress(making.figures, final=True)


class _Making:
    """The state of one making: network, optimizer, position, history, the best weights so far."""

    def __init__(
        self,
        recipe: PretrainConfig,
        architecture: EncoderArchitecture,
        corpus: Corpus,
        teacher: Teacher | None,
    ) -> None:
        if recipe.method != "supervised" and teacher is None:
            raise ValueError(f"method {recipe.method!r} needs a teacher; give load_teacher(...)")
        if recipe.method == "supervised" and corpus.labels is None:
            raise ValueError("method 'supervised' needs labels; read_corpus(..., labelled=True)")
        if recipe.method == "supervised":
            teacher = None
        self.recipe, self.architecture, self.corpus = recipe, architecture, corpus
        self.teacher_digest = teacher and teacher.digest
        self.key = encoder_key(recipe, architecture, self.teacher_digest, corpus.digest)
        self.device = pick_device(recipe.device)
        self.trained, self.held_out = corpus.split(recipe.held_out, recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(recipe.seed, 0, "encoder"))
            if recipe.method == "supervised":
                self.objective: Classification | Distillation = Classification(
                    recipe, architecture, len(corpus.classes), self.device
                )
            else:
                first = [] if architecture.is_resnet18 else [*self._first_batches()]
                self.objective = Distillation(recipe, architecture, teacher, first, self.device)
        self.model = self.objective.model
        self.optimizer = self.objective.optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.iteration = self.saved_at = self.resumed_at = 0
        self.seconds, self.loss = 0.0, math.nan
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.best, self.best_loss, self.stale = copy.deepcopy(self.model.state_dict()), math.inf, 0
        self.figures: dict[str, float] | None = None
        self.note: str | None = None

    @property
    def iterations(self) -> int:
        """At most to be done."""
        return 0 if self.recipe.method == "warm_start" else self.recipe.iterations

    def loader(self) -> DataLoader:
        """Batches from the next iteration on."""
        return DataLoader(
            Crops(self.corpus, self.trained, self.recipe),
            batch_size=None,
            sampler=range(self.iteration, self.iterations),
            num_workers=self.recipe.loader_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_ctrl_c_to_the_parent,
        )

    def is_over(self) -> bool:
        """Whether nothing can be gained any more."""
        return self.stale >= self.recipe.patience or self.best_loss < NOTHING_LEFT

    def step(self, batch: dict[str, Tensor]) -> None:
        """One iteration."""
        self.model.train()
        rate = self.objective.rate * _share_of_rate(self.iteration, self.iterations, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = self._images(batch, self.iteration), batch.get("labels")
        with autocast(self.recipe, self.device):
            loss = self.objective.loss(images, labels)
        value = loss.item()
        if not np.isfinite(value):
            raise PretrainError(
                f"the loss became {value} at iteration {self.iteration + 1}; lower "
                f"{self.objective.rate_knob}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        self.loss = value
        self.losses.append(value)

    def _images(self, batch: dict[str, Tensor], iteration: int) -> Tensor:
        """Crops under varied light, normalised: (B, 3, S, S)."""
        images = to_float(batch["images"], self.device)
        seed = derived_seed(self.recipe.seed, iteration, "light")
        draw = torch.rand(2, len(images), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        gain, shift = self.recipe.brightness * (2 * draw.to(self.device) - 1)
        return normalise((images * (1 + gain) + shift / 2).clamp(0, 1))

    def _first_batches(self) -> Iterator[Tensor]:
        """What the norms' statistics are taken from."""
        crops = Crops(self.corpus, self.trained, self.recipe)
        for i in range(self.recipe.calibration_batches):
            yield self._images(crops[i], i)

    def _held_out_batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        size, labels = self.recipe.batch_size, self.corpus.labels
        for start in range(0, len(self.held_out), size):
            chosen = self.held_out[start : start + size]
            images = np.stack(
                [central_crop(self.corpus.image(int(i)), self.recipe.image_size) for i in chosen]
            )
            batch = normalise(to_float(images, self.device))
            yield batch, None if labels is None else torch.from_numpy(labels[chosen])

    def evaluation_is_due(self) -> bool:
        """Every so many iterations, and at the end."""
        due = self.iteration % self.recipe.evaluate_every == 0
        return due or self.iteration == self.iterations

    def evaluate(self) -> dict[str, float]:
        """Figures of the held-out images; kept in the history."""
        figures = self.objective.figures(self._held_out_batches())
        mean = float(np.mean(self.losses)) if self.losses else None
        self.history.append({"iteration": self.iteration, "training_loss": mean, **figures})
        self.losses = []
        if figures["loss"] < self.best_loss:
            self.best, self.best_loss = copy.deepcopy(self.model.state_dict()), figures["loss"]
            self.stale = 0
        else:
            self.stale += 1
        return figures

    def finish(self) -> None:
        """The best weights, with the norms' statistics taken anew, and what they are worth.

        Raises:
            PretrainError: if a branch is dead.
        """
        self.model.load_state_dict(self.best)
        if self.iteration > 0:
            calibrate(self.model, self._first_batches())
        self.figures = self.objective.figures(self._held_out_batches())
        for name, share in self.figures.items():
            if name.endswith("_dead") and share == 1.0:
                raise PretrainError(
                    f"all channels of {name.removesuffix('_dead')} are constant: the encoder is of "
                    f"no use; lower {self.objective.rate_knob} or take more varied images"
                )
        self.best = {}

    def progress(
        self, figures: dict[str, float] | None, *, final: bool = False
    ) -> PretrainProgress:
        """What the caller sees."""
        return PretrainProgress(
            iteration=self.iteration,
            iterations=self.iterations,
            loss=self.loss,
            seconds=self.seconds,
            figures=figures,
            history=list(self.history),
            final=final,
            encoder=self.objective.encoder if final else None,
            card=self._card() if final else None,
            note=self.note,
            resumed_at=self.resumed_at,
        )

    def _card(self) -> dict[str, Any]:
        dead = [k for k, v in self.figures.items() if k.endswith("_dead") and v > MANY_DEAD]
        return {
            "key": self.key,
            "architecture": dataclasses.asdict(self.architecture),
            "recipe": self.recipe.to_dict(),
            "teacher": self.teacher_digest,
            "corpus": self.corpus.digest,
            "images": {"trained": len(self.trained), "held_out": len(self.held_out)},
            "figures": self.figures,
            "history": self.history,
            "iterations": self.iteration,
            "seconds": self.seconds,
            "notes": [
                *self.corpus.notes,
                *(
                    f"{name}: {self.figures[name]:.0%} of the channels are constant"
                    for name in dead
                ),
            ],
        }

    def save(self, path: Path) -> None:
        """Writes the checkpoint; a finished making's has no optimizer."""
        done = self.figures is not None
        state = {
            "key": self.key,
            "recipe": self.recipe.to_dict(),
            "iteration": self.iteration,
            "history": self.history,
            "loss": self.loss,
            "losses": self.losses,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "optimizer": None if done else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "figures": self.figures,
        }
        keep_old = self.note is None or self.saved_at > self.resumed_at
        save_checkpoint(path, state, keep_old=keep_old)
        self.saved_at = self.iteration

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint stands, the previous one if the newest cannot be read.

        Raises:
            CheckpointError: if it is of another making.
            UnreadableCheckpoint: if neither can be read.
        """
        state, self.note = load_last_good(path, KEYS)
        if state["key"] != self.key:
            raise CheckpointError(
                f"{path} is of another making (key {state['key']}, here {self.key}): architecture, "
                "recipe, teacher or corpus differ; give another --out, or remove it to begin anew"
            )
        self.iteration = self.resumed_at = self.saved_at = state["iteration"]
        self.history, self.seconds = state["history"], state["seconds"]
        self.loss, self.losses = state["loss"], state["losses"]
        self.model.load_state_dict(state["model"])
        self.best, self.best_loss, self.stale = state["best"], state["best_loss"], state["stale"]
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.figures = state["figures"]


def _share_of_rate(iteration: int, iterations: int, recipe: PretrainConfig) -> float:
    """Rises in a line over the warm-up, then falls to 0 by a cosine."""
    warmup = round(recipe.warmup * iterations)
    if iteration < warmup:
        return (iteration + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))
