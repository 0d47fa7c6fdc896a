"""A candidate trained again with more iterations and more normal images."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ffcad.config import TrainConfig
from ffcad.datasets import CategoryData, DataError, Split, load_textures
from ffcad.datasets.cache import digest_of
from ffcad.encoder_weights import save_encoder
from ffcad.predictor import Predictor
from ffcad.training import Progress, train
from study.config import StudyConfig, StudyError
from study.registry.candidates import Candidate
from study.registry.given_images import normal_images
from study.registry.scoring import content, digest, groups_of

# Of the images that are added, this share calibrates and is never trained on.
KEPT_OUT = 5


@dataclass(frozen=True, kw_only=True)
class Additions:
    """Normal images that are no part of the study's data.

    Attributes:
        trained: those that are trained on.
        kept_out: a fifth, for calibration; nothing that is nearly the same is trained on.
        left_out: how many are in the study's data, or there twice.
    """

    trained: Split
    kept_out: Split
    left_out: int

    def contents(self) -> list[str]:
        """Digests of all of them, sorted; which ones calibrate follows from it."""
        return sorted(content(self.trained) | content(self.kept_out))


def read_additions(folder: Path, data: CategoryData) -> Additions:
    """Reads normal images, and parts them by their content, not by names or order.

    Args:
        folder: of normal images, directly in it or in `good/`.
        data: the study's, at the size of the candidate.

    Raises:
        DataError: if it has a defective image, or too few new ones that differ.
    """
    split = normal_images(folder, data.image_size)
    used = set().union(*(content(s) for s in (data.train, data.select, data.report)))
    digests = {digest(split.images[i]): i for i in range(len(split))}
    new = [i for name, i in sorted(digests.items()) if name not in used]
    if len(new) < KEPT_OUT:
        raise DataError(
            f"--normal-images {folder}: {len(new)} of {len(split)} images are new; at least "
            f"{KEPT_OUT} are needed, one of which calibrates"
        )
    kept = _fifth(new, groups_of(split))
    if not kept:
        raise DataError(
            f"--normal-images {folder}: too many of the {len(new)} new images are one frame again, "
            "so none can be kept out; add others"
        )
    trained = [i for i in new if i not in set(kept)]
    return Additions(
        trained=_part(split, trained), kept_out=_part(split, kept), left_out=len(split) - len(new)
    )


def _fifth(new: list[int], groups: np.ndarray) -> list[int]:
    """A fifth of the images at most, but one; frames that are nearly alike stay together, as one
    that calibrates would be no new one if the next was trained on."""
    members: dict[int, list[int]] = {}
    for i in new:
        members.setdefault(int(groups[i]), []).append(i)
    wanted, kept = -(-len(new) // KEPT_OUT), []
    for group in members.values():
        if len(kept) + len(group) <= wanted:
            kept += group
    return kept


def retrain(
    candidate: Candidate,
    study: StudyConfig,
    data: CategoryData,
    trained: Path,
    folder: Path,
    *,
    factor: float,
    additions: Additions | None,
    tell: Callable[[Progress, int], None],
) -> Path:
    """Trains the candidate's configuration anew; broken off, the same call goes on.

    Args:
        candidate: the fit.
        study: whose it is.
        data: its images; select and report splits stay as they are.
        trained: the fit's checkpoint, whose frozen encoder is taken.
        folder: for the checkpoint.
        factor: times as many iterations of both stages.
        additions: more normal images.
        tell: called with each progress and the number of all iterations.

    Returns:
        The checkpoint.

    Raises:
        StudyError: if another process trains the same.
    """
    with _alone(folder):
        encoder = folder / "encoder.safetensors"
        save_encoder(encoder, Predictor.load(trained, "cpu").model.encoder, {})
        config = dataclasses.replace(
            more_iterations(candidate.config, factor), encoder_weights=str(encoder)
        )
        if additions is not None:
            data = dataclasses.replace(
                data,
                train=_joined(data.train, additions.trained),
                digest=digest_of([data.digest, additions.contents()]),
            )
        textures = None
        if study.textures is not None:
            textures = load_textures(Path(study.textures), config.image_size)
        checkpoint = folder / "checkpoint.pt"
        for progress in train(
            config, data, candidate.fit.seed, textures=textures, checkpoint=checkpoint
        ):
            tell(progress, config.iterations)
        return checkpoint


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / ".lock", timeout=0))
        except Timeout:
            raise StudyError(
                f"another promotion trains the same in {folder}; wait for it, or end it"
            ) from None
        yield


def more_iterations(config: TrainConfig, factor: float) -> TrainConfig:
    """The configuration with both stages longer by a factor."""
    return dataclasses.replace(
        config,
        autoencoder_iterations=round(factor * config.autoencoder_iterations),
        head_iterations=round(factor * config.head_iterations),
    )


def _part(split: Split, chosen: list[int]) -> Split:
    return Split(
        images=split.images[np.array(chosen, int)],
        labels=split.labels[chosen],
        defect_types=[split.defect_types[i] for i in chosen],
        paths=[split.paths[i] for i in chosen],
        masks=None if split.masks is None else split.masks[chosen],
    )


def _joined(one: Split, other: Split) -> Split:
    return Split(
        images=np.concatenate([np.asarray(one.images), np.asarray(other.images)]),
        labels=np.concatenate([one.labels, other.labels]),
        defect_types=one.defect_types + other.defect_types,
        paths=one.paths + other.paths,
        masks=None,
    )
