"""The two stages of training (section 3.2) as an iterator of progress, with exact resume.

    data = load_category("mvtec", Path("data"), "screw", image_size=256)
    for progress in train(TrainConfig(), data, seed=0):
        print(progress.iteration, progress.loss)

Batch i, its augmentation, its anomalies and its HSAS masks are drawn from generators made of the
seed and i alone. So a training that was killed and goes on from its checkpoint ends with the same
weights as one that was not, whatever the number of loader workers.
"""

import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ffcad.batches import Batches, derived_seed, training_images
from ffcad.checkpoint import (
    CheckpointError,
    OtherEncoder,
    load_last_good,
    previous_checkpoint,
    save_checkpoint,
)
from ffcad.config import TrainConfig, knobs
from ffcad.datasets import CategoryData, Split, Textures
from ffcad.encoder_weights import load_encoder_weights
from ffcad.metrics import all_metrics
from ffcad.model import FFCAD, feature_product
from ffcad.objectives import (
    make_optimizer,
    reconstruction_loss,
    segmentation_loss,
    stage_learning_rate,
)
from ffcad.predictor import autocast, pick_device, predict

# Raised by whoever changes the numbers that a training gives; a golden test notices.
METHOD_VERSION = 1

AUTOENCODER, HEAD = "autoencoder", "head"


class NonFiniteLoss(RuntimeError):
    """The loss, or the weights that it led to, became infinite or not a number."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an iteration.

    Attributes:
        stage: 'autoencoder' or 'head'.
        iteration: iterations done, both stages counted.
        iterations: iterations of both stages.
        loss: of this iteration.
        seconds: spent so far, in earlier sittings too; evaluation included, the caller's time not.
        metrics: at evaluations the select split's ('select_image_auroc', ...), at the end the
            report split's as well; else None.
        history: all evaluations so far: iteration, stage, mean loss since the last, metrics.
        final: whether the training is done.
        model: the model in its present state.
        encoder_digest: names the frozen encoder's weights; see `load_encoder_weights`.
        note: one line if the newest checkpoint could not be read when this sitting began, so that
            training went on from the one before; else None.
        resumed_at: the iteration at which this sitting began; 0 where the training is new.
    """

    stage: str
    iteration: int
    iterations: int
    loss: float
    seconds: float
    metrics: dict[str, float] | None
    history: list[dict[str, Any]]
    final: bool
    model: FFCAD
    encoder_digest: str
    note: str | None = None
    resumed_at: int = 0


def train(
    config: TrainConfig,
    data: CategoryData,
    seed: int = 0,
    *,
    textures: Textures | None = None,
    checkpoint: Path | None = None,
) -> Iterator[Progress]:
    """Trains and evaluates one configuration on one case.

    Args:
        config: the knobs.
        data: a category's splits at `config.image_size`.
        seed: of the initial weights, the batches, the anomalies and HSAS.
        textures: anomaly source images; without them images serve as their own source.
        checkpoint: where the state is kept. If the file is there, or the previous one beside it,
            training goes on from the newest that can be read (one that is done yields its final
            progress again). It is written at every evaluation, and when the iterator is closed
            early, by `close()` or because nothing refers to it any more, as after a `break`: so
            stopping on purpose between two evaluations loses nothing. What ends by an exception
            from inside, and what is killed, goes on from the last evaluation.

    Yields:
        A `Progress` after every iteration; the last one is `final`.

    Raises:
        NonFiniteLoss: with stage and iteration.
        CheckpointError: if the checkpoint is of another training; `UnreadableCheckpoint` if
            neither it nor the previous one can be read.
        ValueError: if data or textures have another size than `config.image_size`.
    """
    fit = _Fit(config, data, seed, textures)
    if checkpoint is not None and (
        checkpoint.is_file() or previous_checkpoint(checkpoint).is_file()
    ):
        fit.restore(checkpoint)
    if fit.iteration == config.iterations:
        yield fit.progress(fit.last_metrics())
        return
    started = time.perf_counter() - fit.seconds
    try:
        for batch in fit.loader():
            fit.step(batch)
            metrics = fit.evaluate() if fit.evaluation_is_due() else None
            fit.seconds = time.perf_counter() - started
            if metrics is not None and checkpoint is not None:
                fit.save(checkpoint)
            yielded = time.perf_counter()
            yield fit.progress(metrics)
            started += time.perf_counter() - yielded  # the caller's time is not the training's
    except GeneratorExit:  # comes only where an iteration is done, never in the middle of one
        if checkpoint is not None and fit.iteration > fit.saved_at:
            fit.save(checkpoint)
        raise


def leave_ctrl_c_to_the_parent(worker: int) -> None:
    """A terminal sends Ctrl-C to the loader's workers too; who trains decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Fit:
    """The state of one training: model, optimizer, position, history."""

    def __init__(
        self, config: TrainConfig, data: CategoryData, seed: int, textures: Textures | None
    ) -> None:
        for name, images in (
            ("data", data.train.images),
            ("textures", textures and textures.images),
        ):
            if images is not None and images.shape[1:3] != (config.image_size,) * 2:
                raise ValueError(
                    f"{name} has images of {images.shape[1:3]} but image_size is "
                    f"{config.image_size}; load it with that size"
                )
        self.config, self.data, self.seed, self.textures = config, data, seed, textures
        self.device = pick_device(config.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(seed, 0, "weights"))
            self.model = FFCAD(config)
        self.encoder_digest = load_encoder_weights(self.model.encoder, config.encoder_weights)
        self.model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if config.compile:
            for part in (self.model.encoder, self.model.autoencoder, self.model.head):
                part.compile()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.iteration = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.loss = math.nan  # of the last iteration
        self.losses: list[float] = []  # since the last evaluation
        self.saved_at = 0  # the iteration of the newest checkpoint
        self.resumed_at = 0
        self.note: str | None = None
        self._enter_stage()

    @property
    def stage(self) -> str:
        """The stage of the iteration that comes next, or of the last one."""
        before_end = min(self.iteration, self.config.iterations - 1)
        return AUTOENCODER if before_end < self.config.autoencoder_iterations else HEAD

    @property
    def trained(self) -> nn.Module:
        """The part that the stage trains."""
        return self.model.autoencoder if self.stage == AUTOENCODER else self.model.head

    def _enter_stage(self) -> None:
        self.model.requires_grad_(False).eval()
        self.trained.requires_grad_(True).train()
        self.optimizer = make_optimizer(self.config, self.trained)

    def loader(self) -> DataLoader:
        """Batches from the next iteration on."""
        c = self.config
        batches = Batches(self.data.train, self.textures, self.seed, c.batch_size)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.iteration, c.iterations),
            num_workers=c.loader_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_ctrl_c_to_the_parent,
        )

    def step(self, batch: dict[str, Tensor]) -> None:
        """One iteration."""
        if self.iteration == self.config.autoencoder_iterations and self.iteration > 0:
            self._enter_stage()
        rate = stage_learning_rate(self.config, self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(self.config, self.device):
            loss = self._loss(batch)
        value = loss.item()
        if not np.isfinite(value):
            raise self._diverged(f"the loss became {value}", self.iteration + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.config.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        self.loss = value
        self.losses.append(value)

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Each stage computes what it trains and no more (decision 6 in docs/design.md)."""
        seed = derived_seed(self.seed, self.iteration, "anomalies")
        generator = torch.Generator().manual_seed(seed)
        normal, anomalous, mask = training_images(batch, self.config, self.device, generator)
        model = self.model
        if self.stage == AUTOENCODER:
            target = model.encoder(normal)
            return reconstruction_loss(
                target, model.autoencoder(anomalous, generator), self.config.reconstruction_loss
            )
        seen = anomalous if self.config.head_encoder_input == "anomalous" else normal
        with torch.no_grad():
            product = feature_product(model.encoder(seen), model.autoencoder(anomalous))
        return segmentation_loss(
            model.head(product), mask, self.config.focal_gamma, self.config.l1_weight
        )

    def _diverged(self, what: str, iteration: int) -> NonFiniteLoss:
        stage = AUTOENCODER if iteration <= self.config.autoencoder_iterations else HEAD
        return NonFiniteLoss(
            f"{what} in stage {stage!r} at iteration {iteration}; lower "
            f"{self.config.optimizer}_learning_rate or set gradient_clip"
        )

    def evaluation_is_due(self) -> bool:
        """Every so many iterations, at the end of stage one, and at the end."""
        ends = (self.config.autoencoder_iterations, self.config.iterations)
        return self.iteration % self.config.evaluate_every == 0 or self.iteration in ends

    def evaluate(self) -> dict[str, float]:
        """Metrics of the select split and, at the end, of the report split; kept in the history."""
        # At the end of stage one the head is not trained yet: the discrepancy speaks.
        use_head = self.iteration > self.config.autoencoder_iterations
        metrics = self._split_metrics(self.data.select, "select", use_head)
        if self.iteration == self.config.iterations:
            if self.data.report is self.data.select:
                metrics |= {k.replace("select", "report", 1): v for k, v in metrics.items()}
            else:
                metrics |= self._split_metrics(self.data.report, "report", use_head)
        self.history.append(
            {
                "iteration": self.iteration,
                "stage": HEAD if use_head else AUTOENCODER,
                "loss": float(np.mean(self.losses)),
                **metrics,
            }
        )
        self.losses = []
        return metrics

    def _split_metrics(self, split: Split, name: str, use_head: bool) -> dict[str, float]:
        scores, maps = predict(self.model, split.images, use_head=use_head)
        if not np.isfinite(maps).all():  # the last step's loss was finite, its gradient was not
            raise self._diverged("the anomaly maps became infinite or not a number", self.iteration)
        metrics = all_metrics(scores, split.labels, maps, split.masks)
        return {f"{name}_{key}": value for key, value in metrics.items()}

    def progress(self, metrics: dict[str, float] | None) -> Progress:
        """What the caller sees after an iteration."""
        in_head = self.iteration > self.config.autoencoder_iterations
        return Progress(
            stage=HEAD if in_head else AUTOENCODER,
            iteration=self.iteration,
            iterations=self.config.iterations,
            loss=self.loss,
            seconds=self.seconds,
            metrics=metrics,
            history=list(self.history),
            final=self.iteration == self.config.iterations,
            model=self.model,
            encoder_digest=self.encoder_digest,
            note=self.note,
            resumed_at=self.resumed_at,
        )

    def last_metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return {k: v for k, v in self.history[-1].items() if k.startswith(("select_", "report_"))}

    def _identity(self) -> dict[str, Any]:
        return {
            "method_version": METHOD_VERSION,
            "seed": self.seed,
            "data_digest": self.data.digest,
            "textures_digest": self.textures.digest if self.textures else None,
            "encoder_digest": self.encoder_digest,
        }

    def save(self, path: Path) -> None:
        """Writes the checkpoint; a finished training's has no optimizer."""
        done = self.iteration == self.config.iterations
        save_checkpoint(
            path,
            {
                **self._identity(),
                "config": self.config.to_dict(),
                "iteration": self.iteration,
                "history": self.history,
                "loss": self.loss,
                "losses": self.losses,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "optimizer": None if done else self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
            # What could not be read must not take the place of what could.
            keep_old=self.note is None or self.saved_at > self.resumed_at,
        )
        self.saved_at = self.iteration

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint stands, the previous one if the newest cannot be read.

        Raises:
            CheckpointError: if it is of another configuration, case or data.
            UnreadableCheckpoint: if neither can be read.
        """
        state, self.note = load_last_good(path)
        if self.note is not None:
            path = previous_checkpoint(path)
        # Where the encoder's weights lie does not matter: their content is compared below.
        found = dataclasses.replace(
            TrainConfig.from_dict(state["config"]), encoder_weights=self.config.encoder_weights
        )
        if found.identity() != self.config.identity():
            difference = ", ".join(
                f"{k} {a!r} (here {b!r})"
                for k, (a, b) in found.differences(self.config).items()
                if knobs()[k].metadata["numerical"]
            )
            raise CheckpointError(f"{path} is of another configuration: {difference}")
        for key, value in self._identity().items():  # The encoder's digest is the last of them.
            if state[key] != value:
                kind = OtherEncoder if key == "encoder_digest" else CheckpointError
                raise kind(
                    f"{path} is of another training: its {key} is {state[key]!r}, here {value!r}"
                )
        self.iteration = self.resumed_at = self.saved_at = state["iteration"]
        self.history, self.seconds = state["history"], state["seconds"]
        self.loss, self.losses = state["loss"], state["losses"]
        self.model.load_state_dict(state["model"])
        self._enter_stage()
        # At a change of stage the optimizer in the file is the old stage's.
        starts_stage = self.iteration == self.config.autoencoder_iterations
        if state["optimizer"] is not None and not starts_stage:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
