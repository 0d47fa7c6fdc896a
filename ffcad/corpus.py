"""Images that an encoder is made from: any folders of unlabelled images, or classes of them.

Files are decoded when they are drawn, so a corpus may be larger than the memory. Crop j of batch i
is drawn from a generator made of (seed, i), as everywhere in ffcad.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ffcad.batches import batch_indices, derived_seed
from ffcad.datasets.cache import cached, digest_of
from ffcad.datasets.images import (
    DECODING_VERSION,
    Unreadable,
    in_threads,
    is_image_file,
    read_rgb,
    sha256,
    stamp,
)
from ffcad.pretrain_config import PretrainConfig

# Images that progress is measured on: features are compared at thousands of positions of each one,
# but a class is told once.
MOST_HELD_OUT, MOST_HELD_OUT_LABELLED = 256, 10_000
# Names of images that were left out, in a note.
NAMED = 3
# Aspect ratios of random crops, as in torchvision's RandomResizedCrop.
ASPECTS = (3 / 4, 4 / 3)


class CorpusError(ValueError):
    """A corpus that cannot be used."""


@dataclass(frozen=True)
class Corpus:
    """Images, one by one, with the digest of all.

    Attributes:
        images: paths of files, or (H, W, 3) uint8 arrays.
        digest: of their contents, and of the labels.
        labels: class of each image; None without.
        classes: their names; empty without.
        notes: what was left out, a line each.
    """

    images: Sequence[Path] | Sequence[np.ndarray]
    digest: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> Image.Image:
        """Image i, RGB.

        Raises:
            CorpusError: if its file can no longer be read.
        """
        image = self.images[i]
        if not isinstance(image, Path):
            return Image.fromarray(np.asarray(image))
        try:
            return read_rgb(image.read_bytes())
        except (OSError, Unreadable) as e:
            raise CorpusError(f"{image}: could be read before, but now: {e}") from e

    def split(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices that are trained on, and those that are held out, at least one of each."""
        order = np.random.default_rng(derived_seed(seed, 0, "held out")).permutation(len(self))
        most = MOST_HELD_OUT if self.labels is None else MOST_HELD_OUT_LABELLED
        held_out = max(1, min(round(share * len(self)), most))
        return np.sort(order[held_out:]), np.sort(order[:held_out])


def read_corpus(folders: Sequence[Path], *, labelled: bool = False) -> Corpus:
    """All different images below some folders; those that do not decode are left out, with a note.

    Every file is read once for its digest; what was found is kept in the cache of decoded images.

    Args:
        folders: searched with all their subfolders.
        labelled: whether each folder's own subfolders are classes, as in torchvision's ImageFolder.

    Raises:
        CorpusError: if a folder does not exist, a file cannot be read, or there are fewer than two
            images, or classes.
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise CorpusError(f"corpus {folder} {what}; give folders of images")
        paths += sorted(path for path in folder.rglob("*") if is_image_file(path))
    names = ", ".join(map(str, folders))
    contents = _contents(paths)
    # An image that is there twice would be trained on and held out.
    first = {content: i for i, content in reversed([*enumerate(contents)]) if content}
    good = sorted(first.values())
    notes = _left_out([path for path, content in zip(paths, contents, strict=True) if not content])
    if len(good) < 2:
        raise CorpusError(
            f"corpus {names}: {len(good)} different images that can be read ({len(paths)} files); "
            "at least 2 are needed, one to train on and one to measure on"
        )
    labels, classes = None, ()
    if labelled:
        labels, classes = _classes([paths[i] for i in good], [Path(f) for f in folders], names)
    # In the order of the contents, so that the folders' names and order count for nothing.
    order = sorted(range(len(good)), key=lambda i: contents[good[i]])
    parts: list[Any] = [[contents[good[i]] for i in order]]
    if labels is not None:
        labels = labels[order]
        parts += [labels.tolist(), list(classes)]
    return Corpus(
        [paths[good[i]] for i in order],
        digest_of(["corpus", DECODING_VERSION, *parts]),
        labels,
        classes,
        notes,
    )


def corpus_of_arrays(parts: Sequence[np.ndarray], digests: Sequence[str]) -> Corpus:
    """Images that are decoded already, as a category's normal ones are.

    Args:
        parts: arrays of (N, H, W, 3) uint8, memory-mapped or not.
        digests: of each part.

    Raises:
        CorpusError: if there are fewer than two images.
    """
    images = _Chain(parts)
    if len(images) < 2:
        raise CorpusError(f"{len(images)} normal images; at least 2 are needed to make an encoder")
    return Corpus(images, digest_of(["arrays", *digests]))


class _Chain(Sequence):
    """Several arrays of images, one after the other, without a copy."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> np.ndarray:
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[part][i - self.starts[part]]


class Crops(Dataset):
    """Batch i: random crops of the images that (seed, i) draws, uint8 (B, S, S, 3), and labels.

    Args:
        corpus: to draw from.
        indices: of the images that may be drawn.
        recipe: of the crops.
    """

    def __init__(self, corpus: Corpus, indices: np.ndarray, recipe: PretrainConfig) -> None:
        self.corpus, self.indices, self.recipe = corpus, indices, recipe

    def __getitem__(self, iteration: int) -> dict[str, Tensor]:
        r = self.recipe
        chosen = self.indices[batch_indices(len(self.indices), r.batch_size, r.seed, iteration)]
        rng = np.random.default_rng(derived_seed(r.seed, iteration, "crops"))
        crops = [random_crop(self.corpus.image(int(i)), r, rng) for i in chosen]
        batch = {"images": torch.from_numpy(np.stack(crops))}
        if self.corpus.labels is not None:
            batch["labels"] = torch.from_numpy(self.corpus.labels[chosen])
        return batch


def random_crop(image: Image.Image, recipe: PretrainConfig, rng: np.random.Generator) -> np.ndarray:
    """A part of the image, resized to the recipe's square: (S, S, 3) uint8."""
    area = rng.uniform(recipe.crop_min, 1.0) * image.width * image.height
    aspect = math.exp(rng.uniform(*np.log(ASPECTS)))
    width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    mirrored = recipe.horizontal_flip and rng.random() < 0.5
    size = (recipe.image_size,) * 2
    box = (left, top, left + width, top + height)
    # Pillow's BILINEAR averages where it shrinks, so nothing is aliased.
    crop = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
    return np.ascontiguousarray(crop[:, ::-1] if mirrored else crop)


def central_crop(image: Image.Image, side: int) -> np.ndarray:
    """The central square, resized: (side, side, 3) uint8."""
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR, box))


def _contents(paths: list[Path]) -> list[str]:
    """Digest of each file's content; empty where it does not decode."""
    contents = [""] * len(paths)

    def one(i: int) -> str | None:
        try:
            content = paths[i].read_bytes()
            read_rgb(content)
        except OSError as e:  # Not the image's fault: it must not be left out for it.
            return f"corpus {paths[i]} cannot be read: {e.strerror or e}"
        except Unreadable:
            return None
        contents[i] = sha256(content)
        return None

    def build(entry: Path) -> list[str]:
        if problems := in_threads(one, list(range(len(paths)))):
            raise CorpusError(problems[0])
        return contents

    stamps = [[str(path.resolve()), *stamp(path.parent, path.name)] for path in paths]
    _, found = cached(None, ["corpus", DECODING_VERSION, stamps], build)
    return found


def _left_out(paths: list[Path]) -> tuple[str, ...]:
    if not paths:
        return ()
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    names = ", ".join(str(path) for path in paths[:NAMED])
    what = "image cannot be read and was" if len(paths) == 1 else "images cannot be read and were"
    return (f"{len(paths)} corpus {what} left out: {names}{more}",)


def _classes(
    paths: list[Path], folders: list[Path], names: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    found = []
    for path in paths:
        folder = next(f for f in folders if path.is_relative_to(f))
        parts = path.relative_to(folder).parts
        if len(parts) < 2:
            raise CorpusError(
                f"corpus {path} lies in no class folder; a supervised making needs "
                "<folder>/<class>/<image>, as torchvision's ImageFolder"
            )
        found.append(parts[0])
    classes = tuple(sorted(set(found)))
    if len(classes) < 2:
        raise CorpusError(f"corpus {names}: one class only ({classes[0]}); at least 2 are needed")
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in found], np.int64), classes
