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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffcad.batches import derived_seed
from ffcad.checkpoint import STATE_KEYS, CheckpointError, previous_checkpoint
from ffcad.corpus import Corpus, Crops, central_crop
from ffcad.encoder_weights import Teacher
from ffcad.iterated_work import IteratedWork, Standing
from ffcad.predictor import normalise, to_float
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig, encoder_key
from ffcad.pretrain_objectives import Classification, Distillation
from ffcad.resnet import FFCResNet
from ffcad.warm_start import calibrate

# A held-out loss below this is no loss: a warm start that is exact.
NOTHING_LEFT = 1e-6
# A branch with more dead channels than this is worth a note.
MANY_DEAD = 0.5
UNBEATEN = "training never beat its start, whose weights are kept"


class PretrainError(RuntimeError):
    """A making that cannot give a useful encoder."""


@dataclass(frozen=True, kw_only=True)
class PretrainProgress(Standing):
    """Where a making stands; its history has 'training_loss' since the last, and figures.

    When it is final the encoder has the weights of the best evaluation, with statistics taken anew,
    and the figures are those of that.

    Attributes:
        figures: at evaluations, of the held-out images: 'loss' and what the method measures
            (`ffcad.agreement`, or 'top1' and 'top5'); else None.
        encoder: at the end; else None.
        card: at the end, what is known of the weights: architecture, recipe, digests, figures,
            cost; else None.
    """

    figures: dict[str, float] | None
    encoder: FFCResNet | None
    card: dict[str, Any] | None


def pretrain(
    recipe: PretrainConfig,
    architecture: EncoderArchitecture,
    corpus: Corpus,
    teacher: Teacher | None = None,
    *,
    checkpoint: Path | None = None,
    before_save: Callable[[], None] | None = None,
) -> Iterator[PretrainProgress]:
    """Makes an encoder.

    Args:
        recipe: the knobs.
        architecture: of the encoder; a plain ResNet-18 is what the teacher is, without any making.
        corpus: images to make it from, with labels for a supervised making.
        teacher: a ResNet-18; not needed for a supervised making.
        checkpoint, before_save: where the state is kept, and what is asked before it is written,
            as in `ffcad.training.train`.

    Yields:
        A `PretrainProgress` at the start, after every iteration, and at the end.

    Raises:
        PretrainError: if the loss is not finite, or a branch of the encoder is dead.
        CheckpointError: if the checkpoint is of another making; `UnreadableCheckpoint` if neither
            it nor the previous one can be read.
        ValueError: if teacher or labels are missing.
    """
    yield from _Making(recipe, architecture, corpus, teacher).run(checkpoint, before_save)


class _Making(IteratedWork[PretrainProgress]):
    """The state of one making; also the best weights so far."""

    keys = STATE_KEYS | {"key", "recipe", "best", "best_loss", "stale", "figures"}

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
        super().__init__(recipe)
        self.recipe, self.architecture, self.corpus = recipe, architecture, corpus
        self.teacher_digest = teacher and teacher.digest
        self.key = encoder_key(recipe, architecture, self.teacher_digest, corpus.digest)
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
        self.best, self.best_loss, self.stale = copy.deepcopy(self.model.state_dict()), math.inf, 0
        self.figures: dict[str, float] | None = None

    @property
    def iterations(self) -> int:
        """At most to be done."""
        return 0 if self.recipe.method == "warm_start" else self.recipe.iterations

    @property
    def done(self) -> bool:
        """Whether the last figures are known."""
        return self.figures is not None

    @property
    def rate(self) -> float:
        """Rises in a line over the warm-up, then falls to 0 by a cosine."""
        warmup = round(self.recipe.warmup * self.iterations)
        if self.iteration < warmup:
            return self.objective.rate * ((self.iteration + 1) / warmup)
        share = (self.iteration - warmup) / max(1, self.iterations - warmup)
        return self.objective.rate * (0.5 * (1 + math.cos(math.pi * share)))

    def batches(self) -> Crops:
        """Random crops of what is not held out."""
        return Crops(self.corpus, self.trained, self.recipe)

    def is_over(self) -> bool:
        """Whether nothing can be gained any more."""
        nothing_left = self.teacher_digest is not None and self.best_loss < NOTHING_LEFT
        # While the rate is high, the loss may stay above that of a good start; it falls with it.
        late = 2 * self.iteration >= self.iterations
        return (late and self.stale >= self.recipe.patience) or nothing_left

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """The objective's."""
        self.model.train()
        return self.objective.loss(self._images(batch, self.iteration), batch.get("labels"))

    def diverged(self, what: str, iteration: int) -> PretrainError:
        """With what to do."""
        return PretrainError(f"{what} at iteration {iteration}; lower {self.objective.rate_knob}")

    def _images(self, batch: dict[str, Tensor], iteration: int) -> Tensor:
        """Crops under varied light, normalised: (B, 3, S, S)."""
        images = to_float(batch["images"], self.device)
        seed = derived_seed(self.recipe.seed, iteration, "light")
        draw = torch.rand(2, len(images), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        gain, shift = self.recipe.brightness * (2 * draw.to(self.device) - 1)
        return normalise((images * (1 + gain) + shift / 2).clamp(0, 1))

    def _first_batches(self) -> Iterator[Tensor]:
        """What the norms' statistics are taken from."""
        crops = self.batches()
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

    def first_figures(self) -> dict[str, float] | None:
        """Of the start, if anything follows."""
        return self.evaluate() if self.iterations else None

    def evaluate(self) -> dict[str, float]:
        """Figures of the held-out images; kept in the history."""
        figures = self.objective.figures(self._held_out_batches())
        mean = float(np.mean(self.losses)) if self.losses else None
        self.note_evaluation({"training_loss": mean, **figures})
        if self.teacher_digest is None and self.iteration == 0:
            return figures  # Random weights may be right about a few images, but are no result.
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

    def last_figures(self) -> dict[str, float]:
        """Of the weights that are given out."""
        return self.figures

    def progress(self, figures: dict[str, float] | None) -> PretrainProgress:
        """What the caller sees."""
        return PretrainProgress(
            **self.standing(),
            figures=figures,
            final=self.done,
            encoder=self.objective.encoder if self.done else None,
            card=self._card() if self.done else None,
        )

    def _start_is_best(self) -> bool:
        """Whether all training led to nothing better than the weights that it began with."""
        losses = [entry["loss"] for entry in self.history]
        return self.iteration > 0 and self.best_loss == losses[0]

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
                *([UNBEATEN] if self._start_is_best() else []),
                *(
                    f"{name}: {self.figures[name]:.0%} of the channels are constant"
                    for name in dead
                ),
            ],
        }

    def identity(self) -> dict[str, Any]:
        """What it makes, and the best of it so far."""
        return {
            "key": self.key,
            "recipe": self.recipe.to_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "figures": self.figures,
        }

    def check(self, state: dict[str, Any], path: Path) -> None:
        """Refuses a checkpoint of another making."""
        if state["key"] != self.key:
            raise CheckpointError(
                f"{path} is of another making (key {state['key']}, here {self.key}): architecture, "
                "recipe, teacher or corpus differ; give another --out, or remove it, and "
                f"{previous_checkpoint(path).name} if there is one, to begin anew"
            )

    def take(self, state: dict[str, Any]) -> None:
        """The optimizer's state, the best weights and the last figures."""
        self.best, self.best_loss, self.stale = state["best"], state["best_loss"], state["stale"]
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.figures = state["figures"]
