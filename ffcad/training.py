"""The two stages of training (section 3.2) as an iterator of progress, with exact resume.

    data = load_category("mvtec", Path("data"), "screw", image_size=256)
    for progress in train(TrainConfig(), data, seed=0):
        print(progress.iteration, progress.loss)

Batch i, its augmentation, its anomalies and its HSAS masks are drawn from generators made of the
seed and i alone. So a training that was killed and goes on from its checkpoint ends with the same
weights as one that was not, whatever the number of loader workers.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffcad.batches import Batches, derived_seed, training_images
from ffcad.checkpoint import (
    TRAINING_KEYS,
    CheckpointError,
    OtherEncoder,
)
from ffcad.config import TrainConfig, knobs
from ffcad.datasets import CategoryData, Split, Textures
from ffcad.encoder_weights import load_encoder_weights
from ffcad.iterated_work import IteratedWork, Standing
from ffcad.metrics import all_metrics
from ffcad.model import FFCAD, feature_product
from ffcad.objectives import (
    make_optimizer,
    reconstruction_loss,
    segmentation_loss,
    stage_learning_rate,
)
from ffcad.predictor import predict

# Raised by whoever changes the numbers that a training gives; a golden test notices.
METHOD_VERSION = 1

AUTOENCODER, HEAD = "autoencoder", "head"


class NonFiniteLoss(RuntimeError):
    """The loss, or the weights that it led to, became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Progress(Standing):
    """Where a training stands after an iteration; its history has stage, mean loss and metrics.

    Attributes:
        stage: 'autoencoder' or 'head'.
        metrics: at evaluations the select split's ('select_image_auroc', ...), at the end the
            report split's as well; else None.
        model: the model in its present state.
        encoder_digest: names the frozen encoder's weights; see `load_encoder_weights`.
    """

    stage: str
    metrics: dict[str, float] | None
    model: FFCAD
    encoder_digest: str


def train(
    config: TrainConfig,
    data: CategoryData,
    seed: int = 0,
    *,
    textures: Textures | None = None,
    checkpoint: Path | None = None,
    before_save: Callable[[], None] | None = None,
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
        before_save: is called before each writing of the checkpoint; what it raises ends the
            training and leaves the file as it was. For who shares the file with others.

    Yields:
        A `Progress` after every iteration; the last one is `final`.

    Raises:
        NonFiniteLoss: with stage and iteration.
        CheckpointError: if the checkpoint is of another training; `UnreadableCheckpoint` if
            neither it nor the previous one can be read.
        ValueError: if data or textures have another size than `config.image_size`.
    """
    yield from _Fit(config, data, seed, textures).run(checkpoint, before_save)


class _Fit(IteratedWork[Progress]):
    """The state of one training."""

    keys = TRAINING_KEYS

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
        super().__init__(config)
        self.data, self.seed, self.textures = data, seed, textures
        self.gradient_clip = config.gradient_clip
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

    @property
    def iterations(self) -> int:
        """Of both stages."""
        return self.config.iterations

    @property
    def done(self) -> bool:
        """Whether both stages are."""
        return self.iteration == self.iterations

    @property
    def rate(self) -> float:
        """By stage and schedule."""
        return stage_learning_rate(self.config, self.iteration)

    def batches(self) -> Batches:
        """Normal images, and textures."""
        return Batches(self.data.train, self.textures, self.seed, self.config.batch_size)

    def step(self, batch: dict[str, Tensor]) -> None:
        """One iteration, the first of a stage included."""
        if self.iteration == self.config.autoencoder_iterations and self.iteration > 0:
            self._enter_stage()
        super().step(batch)

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
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

    def diverged(self, what: str, iteration: int) -> NonFiniteLoss:
        """With stage, iteration, and what to do."""
        stage = AUTOENCODER if iteration <= self.config.autoencoder_iterations else HEAD
        return NonFiniteLoss(
            f"{what} in stage {stage!r} at iteration {iteration}; lower "
            f"{self.config.optimizer}_learning_rate or set gradient_clip"
        )

    def evaluation_is_due(self) -> bool:
        """Also at the end of stage one."""
        ends_stage = self.iteration == self.config.autoencoder_iterations
        return ends_stage or super().evaluation_is_due()

    def evaluate(self) -> dict[str, float]:
        """Metrics of the select split and, at the end, of the report split; kept in the history."""
        # At the end of stage one the head is not trained yet: the discrepancy speaks.
        use_head = self.iteration > self.config.autoencoder_iterations
        metrics = self._split_metrics(self.data.select, "select", use_head)
        if self.done:
            if self.data.report is self.data.select:
                metrics |= {k.replace("select", "report", 1): v for k, v in metrics.items()}
            else:
                metrics |= self._split_metrics(self.data.report, "report", use_head)
        stage, loss = HEAD if use_head else AUTOENCODER, float(np.mean(self.losses))
        self.note_evaluation({"stage": stage, "loss": loss, **metrics})
        return metrics

    def _split_metrics(self, split: Split, name: str, use_head: bool) -> dict[str, float]:
        scores, maps = predict(self.model, split.images, use_head=use_head)
        if not np.isfinite(maps).all():  # the last step's loss was finite, its gradient was not
            raise self.diverged("the anomaly maps became infinite or not a number", self.iteration)
        metrics = all_metrics(scores, split.labels, maps, split.masks)
        return {f"{name}_{key}": value for key, value in metrics.items()}

    def progress(self, figures: dict[str, float] | None) -> Progress:
        """What the caller sees after an iteration."""
        in_head = self.iteration > self.config.autoencoder_iterations
        return Progress(
            **self.standing(),
            stage=HEAD if in_head else AUTOENCODER,
            metrics=figures,
            final=self.done,
            model=self.model,
            encoder_digest=self.encoder_digest,
        )

    def last_figures(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return {k: v for k, v in self.history[-1].items() if k.startswith(("select_", "report_"))}

    def identity(self) -> dict[str, Any]:
        """What it trains, on what."""
        return {"config": self.config.to_dict(), **self._digests()}

    def _digests(self) -> dict[str, Any]:
        return {
            "method_version": METHOD_VERSION,
            "seed": self.seed,
            "data_digest": self.data.digest,
            "textures_digest": self.textures.digest if self.textures else None,
            "encoder_digest": self.encoder_digest,
        }

    def check(self, state: dict[str, Any], path: Path) -> None:
        """Refuses a checkpoint of another configuration, case or data."""
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
        for key, value in self._digests().items():  # The encoder's digest is the last of them.
            if state[key] != value:
                kind = OtherEncoder if key == "encoder_digest" else CheckpointError
                raise kind(
                    f"{path} is of another training: its {key} is {state[key]!r}, here {value!r}"
                )

    def take(self, state: dict[str, Any]) -> None:
        """The optimizer's state, unless a stage begins: in the file it is the old stage's."""
        self._enter_stage()
        starts_stage = self.iteration == self.config.autoencoder_iterations
        if state["optimizer"] is not None and not starts_stage:
            self.optimizer.load_state_dict(state["optimizer"])
