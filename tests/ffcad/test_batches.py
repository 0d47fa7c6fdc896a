"""Batch i is a function of (seed, i) alone."""

import itertools

import numpy as np
import torch
from torch.utils.data import DataLoader

from ffcad.batches import Batches, batch_indices, derived_seed
from ffcad.datasets import Textures


def test_an_epoch_is_a_permutation_even_where_batches_cross_it():
    drawn = np.concatenate([batch_indices(7, 3, seed=0, iteration=i) for i in range(14)])
    epochs = drawn.reshape(6, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(e) for e in epochs}) == 6


def test_a_batch_larger_than_the_data_is_filled():
    drawn = np.concatenate([batch_indices(3, 8, seed=0, iteration=i) for i in range(3)])
    assert (np.bincount(drawn) == 8).all()


def test_batches_depend_on_the_seed_and_on_no_other_batch():
    late = batch_indices(60, 8, seed=1, iteration=1000)
    assert (late == batch_indices(60, 8, seed=1, iteration=1000)).all()
    assert (late != batch_indices(60, 8, seed=2, iteration=1000)).any()


def test_derived_seeds_differ_by_seed_position_and_purpose():
    purposes = ("order", "textures", "anomalies", "weights")
    seeds = {derived_seed(s, i, p) for s, i, p in itertools.product((0, 1), range(50), purposes)}
    assert len(seeds) == 2 * 50 * 4
    assert all(0 <= s < 2**63 for s in seeds)  # torch and NumPy take them
    torch.Generator().manual_seed(max(seeds))


def test_the_loader_gives_them_from_any_iteration_on(dial):
    """Images as they are, textures drawn beside them without moving the images."""
    images = np.stack([np.full((64, 64, 3), i, np.uint8) for i in range(5)])
    textures = Textures(images=images, digest="t")
    plain = Batches(dial.train, None, seed=3, batch_size=4)
    textured = Batches(dial.train, textures, seed=3, batch_size=4)
    for i, batch in zip(
        range(20, 23), DataLoader(plain, batch_size=None, sampler=range(20, 23)), strict=True
    ):
        expected = dial.train.images[batch_indices(len(dial.train), 4, 3, i)]
        assert (batch["images"].numpy() == expected).all()
        assert torch.equal(textured[i]["images"], batch["images"])
        assert textured[i]["textures"].shape == (4, 64, 64, 3)
    assert not torch.equal(textured[20]["textures"], textured[21]["textures"])
