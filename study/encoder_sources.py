"""What a study's encoders are made from: the teacher, the corpus, and the digests of both."""

import contextlib
import hashlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffcad.corpus import Corpus, corpus_of_arrays, read_corpus
from ffcad.datasets import CategoryData
from ffcad.datasets.cache import cached
from ffcad.encoder_weights import Teacher, WeightsError, load_teacher, save_encoder
from ffcad.pretrain_config import METHODS, PRETRAIN_VERSION, PretrainConfig
from study.config import StudyConfig, StudyError
from study.data import load_data
from study.encoders import EncoderNeed, EncoderStore

if TYPE_CHECKING:  # Workers need no Optuna, which a space brings.
    from study.spaces import Space

SUPERVISED = "supervised"
# Images that are read at once to take a digest.
BLOCK = 64


def describe_makings(
    config: StudyConfig, space: "Space", store: EncoderStore
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Reads what encoders of a study are made from, and puts the teacher onto the storage.

    Args:
        config: the study.
        space: its search space; nothing is read where it makes no encoder.
        store: on the study's storage.

    Returns:
        Method -> 'recipe' (every knob), 'teacher' and 'corpus' (digests) and 'version'; and what
        the user should know of the corpus.

    Raises:
        StudyError: if the teacher cannot be had, or a supervised making has no labelled corpus.
        CorpusError, DataError: if the corpus cannot be used.
        ConfigError: if a knob of the recipe cannot be used.
    """
    makings, notes = {}, []
    for method in METHODS:
        if method not in space.values_of("encoder_weights"):
            continue
        recipe = recipe_of(config, method, max(space.values_of("image_size")))
        corpus = study_corpus(config, recipe)
        notes += corpus.notes
        teacher = None
        if method != SUPERVISED:
            teacher = study_teacher(config)
            _publish(teacher, store)
        makings[method] = {
            "recipe": recipe.to_dict(),
            "teacher": teacher and teacher.digest,
            "corpus": corpus.digest,
            "version": PRETRAIN_VERSION,
        }
    return makings, list(dict.fromkeys(notes))


def recipe_of(config: StudyConfig, method: str, image_size: int) -> PretrainConfig:
    """The recipe of a study, at the size of its fits unless it says another one.

    Args:
        config: the study.
        method: one of `METHODS`.
        image_size: the largest of its fits, pixels.
    """
    return PretrainConfig.from_dict({"image_size": image_size, **config.recipe, "method": method})


def study_corpus(config: StudyConfig, recipe: PretrainConfig) -> Corpus:
    """The images that a study's encoders are made from: its folders', or what its fits train on.

    Images of a test split are never among the latter.

    Raises:
        CorpusError, DataError, StudyError: if they cannot be used.
    """
    labelled = recipe.method == SUPERVISED
    if config.corpus:
        return read_corpus([Path(folder) for folder in config.corpus], labelled=labelled)
    if labelled:
        raise StudyError(
            "--encoder supervised needs labels; give --corpus with a folder of images that has one "
            "folder for each class"
        )
    parts = [load_data(config, name, recipe.image_size) for name in sorted(config.categories)]
    return corpus_of_arrays([d.train.images for d in parts], [_train_digest(d) for d in parts])


def study_teacher(config: StudyConfig) -> Teacher:
    """The teacher that a study was given.

    Raises:
        StudyError: if it cannot be had, with what to do.
    """
    try:
        # torchvision says that it downloads, in the middle of what the user reads.
        with contextlib.redirect_stdout(io.StringIO()):
            return load_teacher(config.teacher)
    except WeightsError as e:
        if config.teacher != "torchvision":
            raise StudyError(f"--teacher {e}") from e
        raise StudyError(
            f"torchvision's ResNet-18 weights could not be downloaded ({e.__cause__ or e}); "
            "download them elsewhere and give --teacher FILE, or do without with --encoder random"
        ) from e


def load_sources(
    config: StudyConfig, need: EncoderNeed, version: int, store: EncoderStore
) -> tuple[Corpus, Teacher | None]:
    """Corpus and teacher as a worker has them, which must be the driver's.

    Args:
        config: the study.
        need: the encoder that is to be made.
        version: the driver's `PRETRAIN_VERSION`.
        store: holds the teacher.

    Raises:
        RuntimeError: if something differs, with what to do.
    """
    if version != PRETRAIN_VERSION:
        raise RuntimeError(
            f"this worker makes encoders by version {PRETRAIN_VERSION}, the driver by {version}; "
            "install the same code on every machine"
        )
    corpus = study_corpus(config, need.recipe)
    if corpus.digest != need.corpus:
        raise RuntimeError(
            "this worker's corpus is not the driver's; --corpus, or --data-root, must hold the "
            "same on every machine"
        )
    if need.teacher is None:
        return corpus, None
    with store.storage.at_hand(store.teacher(need.teacher)) as path:
        teacher = load_teacher(str(path))
    if teacher.digest != need.teacher:
        raise RuntimeError(
            f"{store.storage.uri(store.teacher(need.teacher))} is not the study's teacher; remove "
            "it and give the same command"
        )
    return corpus, teacher


def _publish(teacher: Teacher, store: EncoderStore) -> None:
    """Puts the teacher where every worker finds it."""
    storage, name = store.storage, store.teacher(teacher.digest)
    with contextlib.suppress(FileNotFoundError, WeightsError), storage.at_hand(name) as path:
        if load_teacher(str(path)).digest == teacher.digest:
            return
    with tempfile.TemporaryDirectory(prefix="ffcad-teacher-") as folder:
        path = Path(folder) / Path(name).name
        save_encoder(path, teacher.network, {"teacher": teacher.digest})
        storage.upload(path, name)


def _train_digest(data: CategoryData) -> str:
    """Of the pixels that are trained on: another protocol or another test image is another data
    set, but no other encoder."""

    def build(entry: Path) -> str:
        digest = hashlib.sha256(str(data.train.images.shape).encode())
        for start in range(0, len(data.train), BLOCK):
            digest.update(np.ascontiguousarray(data.train.images[start : start + BLOCK]).tobytes())
        return digest.hexdigest()

    return cached(None, ["training pixels", data.digest], build)[1]
