"""Simulated anomalies and augmentation: against slow references, and their properties."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from ffcad.anomalies import augment, perlin_noise, simulate_anomalies

STILL = dict(rotation_degrees=0.0, horizontal_flip=False, vertical_flip=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=seeded(seed))


@pytest.mark.parametrize("with_textures", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 41)])
def test_outside_the_mask_the_image_is_untouched_bit_for_bit(height, width, with_textures):
    normal = images(24, height, width)
    textures = images(24, height, width, seed=1) if with_textures else None
    found, mask = simulate_anomalies(normal, seeded(), textures=textures, probability=1.0)
    assert mask.shape == (24, 1, height, width)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    everywhere = mask.expand_as(normal) == 0
    assert torch.equal(found[everywhere], normal[everywhere])
    assert (found != normal)[~everywhere].float().mean() > 0.95
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


@pytest.mark.parametrize("lowest", [0.0, 0.2, 0.7, 1.0])
def test_the_textures_opacity_is_uniform_above_its_minimum(lowest):
    """A white and a black image under the same texture differ by what shines through."""
    knobs = dict(textures=images(300, 8, 8), probability=1.0, opacity_min=lowest)
    black, mask = simulate_anomalies(torch.zeros(300, 3, 8, 8), seeded(), **knobs)
    white, _ = simulate_anomalies(torch.ones(300, 3, 8, 8), seeded(), **knobs)
    there = mask[:, 0].flatten(1).any(dim=1)
    through = ((white - black) * mask).flatten(1).sum(dim=1) / (3 * mask.flatten(1).sum(dim=1))
    opacity = 1 - through[there]
    assert opacity.min() >= lowest - 1e-5
    assert opacity.max() <= 1 + 1e-5
    assert opacity.mean() == pytest.approx((1 + lowest) / 2, abs=0.06 * (1 - lowest) + 1e-5)
    assert opacity.min() < lowest + 0.1 * (1 - lowest) + 1e-5


def test_the_share_of_images_with_an_anomaly_is_the_probability():
    normal = images(400, 8, 8)

    def share(probability: float) -> float:
        # Above a threshold of 0 there is nearly always something.
        knobs = dict(probability=probability, perlin_threshold=0.0)
        found, mask = simulate_anomalies(normal, seeded(), **knobs)
        chosen = mask.flatten(1).any(dim=1)
        assert torch.equal(found[~chosen], normal[~chosen])
        return float(chosen.float().mean())

    assert share(0.0) == 0
    assert share(1.0) > 0.97
    assert share(0.5) == pytest.approx(0.5, abs=0.08)


def test_the_generator_is_the_only_source_of_randomness():
    normal = images(6)
    torch.manual_seed(0)
    first = simulate_anomalies(normal, seeded(), probability=1.0)
    torch.manual_seed(1)
    again = simulate_anomalies(normal, seeded(), probability=1.0)
    other = simulate_anomalies(normal, seeded(1), probability=1.0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


def test_without_textures_an_image_is_its_own_source(dial):
    """Its neighbours in the batch do not matter, and the anomaly can be seen."""
    normal = torch.tensor(dial.train.images[:16]).permute(0, 3, 1, 2) / 255
    found, mask = simulate_anomalies(normal, seeded(), probability=1.0)
    others = normal.clone()
    others[1::2] = normal[1::2].flip(0)
    alone, _ = simulate_anomalies(others, seeded(), probability=1.0)
    assert torch.equal(found[::2], alone[::2])
    difference = ((found - normal).abs() * mask).sum() / (3 * mask.sum())
    assert difference > 0.05


def test_the_textures_are_what_is_blended_in():
    normal, textures = images(8), images(8, seed=1)
    knobs = dict(probability=1.0, opacity_min=1.0)
    found, mask = simulate_anomalies(normal, seeded(), textures=textures, **knobs)
    same, _ = simulate_anomalies(normal / 2, seeded(), textures=textures, **knobs)
    torch.testing.assert_close(found * mask, same * mask, atol=1e-6, rtol=0)
    other, _ = simulate_anomalies(normal, seeded(), textures=textures.flip(0), **knobs)
    assert not torch.allclose(found * mask, other * mask)


def perlin_by_definition(
    batch: int, height: int, width: int, generator: torch.Generator, max_exponent: int
) -> np.ndarray:
    """Pixel by pixel: Perlin's improved noise of a grid that is turned about the middle."""
    exponents = torch.randint(max_exponent, (batch, 2), generator=generator).tolist()
    turns = ((torch.rand(batch, generator=generator) * 2 - 1) * 90).tolist()
    side = 2 ** (max_exponent - 1) + 1
    angles = torch.rand(batch, side, side, generator=generator).double().numpy() * 2 * math.pi
    noise = np.zeros((batch, height, width))
    for i, row, column in np.ndindex(noise.shape):
        dy, dx = row + 0.5 - height / 2, column + 0.5 - width / 2
        turn = math.radians(turns[i])
        v = (dy * math.cos(turn) + dx * math.sin(turn)) / height + 0.5
        u = (dx * math.cos(turn) - dy * math.sin(turn)) / width + 0.5
        if not (0 <= v < 1 and 0 <= u < 1):
            continue
        y, x = v * 2 ** exponents[i][0], u * 2 ** exponents[i][1]
        for cy, cx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            corner_y, corner_x = math.floor(y) + cy, math.floor(x) + cx
            ty, tx = abs(y - corner_y), abs(x - corner_x)
            weight = math.prod(1 - (6 * t**5 - 15 * t**4 + 10 * t**3) for t in (ty, tx))
            angle = angles[i, corner_y, corner_x]
            slope = math.cos(angle) * (y - corner_y) + math.sin(angle) * (x - corner_x)
            noise[i, row, column] += math.sqrt(2) * weight * slope
    return noise


@pytest.mark.parametrize("max_exponent", [1, 4, 6])
def test_perlin_noise_is_the_definitions(max_exponent):
    found = perlin_noise(6, 13, 22, seeded(), max_exponent)
    expected = perlin_by_definition(6, 13, 22, seeded(), max_exponent)
    assert np.abs(expected).max() > 0.4
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("max_exponent", [1, 3, 6, 8])
def test_anomalies_cover_a_small_part_of_the_image_at_any_scale(max_exponent):
    noise = perlin_noise(200, 48, 48, seeded(), max_exponent)
    assert noise.abs().max() <= 1
    cover = (noise > 0.5).float().mean(dim=(1, 2))
    assert 0.03 < cover.mean() < 0.08
    assert cover.max() < 0.7
    # Scales differ from image to image; with one cell for all, more stay empty.
    assert (cover > 0).float().mean() > (0.3 if max_exponent == 1 else 0.7)


def test_without_knobs_nothing_is_augmented():
    normal = images(4, 16, 24)
    assert torch.equal(augment(normal, seeded(), **STILL), normal)


@pytest.mark.parametrize(
    ("knob", "axes"), [("horizontal_flip", (-1,)), ("vertical_flip", (-2,)), (None, (-1, -2))]
)
def test_flips_mirror_half_of_the_images_and_do_nothing_else(knob, axes):
    normal = images(200, 6, 9)
    chosen = {knob: True} if knob else dict(horizontal_flip=True, vertical_flip=True)
    found = augment(normal, seeded(), **STILL | chosen)
    for axis in axes:
        others = [a for a in axes if a != axis]
        mirrored = [normal.flip(axis), normal.flip([axis, *others])]
        flipped = torch.stack([(found == m).flatten(1).all(dim=1) for m in mirrored]).any(dim=0)
        assert flipped.float().mean() == pytest.approx(0.5, abs=0.1)
    variants = [normal, *(normal.flip(a) for a in axes), normal.flip(axes)]
    matches = torch.stack([(found == v).flatten(1).all(dim=1) for v in variants])
    assert matches.any(dim=0).all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (11, 20)])
def test_rotation_turns_about_the_middle_and_mirrors_at_the_edges(height, width):
    normal, degrees = images(6, height, width), 40.0
    found = augment(normal, seeded(), **STILL | dict(rotation_degrees=degrees))
    angles = (torch.rand(3, 6, generator=seeded())[2] * 2 - 1) * math.radians(degrees)
    assert angles.abs().max() > 0.3
    middle = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = y - middle[0], x - middle[1]
    for image, turned, angle in zip(normal, found, angles.tolist(), strict=True):
        rows = math.sin(angle) * x + math.cos(angle) * y + middle[0]
        columns = math.cos(angle) * x - math.sin(angle) * y + middle[1]
        for plane, out in zip(image.numpy(), turned.numpy(), strict=True):
            expected = ndimage.map_coordinates(plane, [rows, columns], order=1, mode="reflect")
            np.testing.assert_allclose(out, expected, atol=1e-4)


def test_half_a_turn_is_both_flips():
    batch = 3000
    normal = images(batch, 5, 7)
    found = augment(normal, seeded(), **STILL | dict(rotation_degrees=180.0))
    nearest = (torch.rand(3, batch, generator=seeded())[2] - 0.5).abs().argmax()
    torch.testing.assert_close(found[nearest], normal[nearest].flip(-1, -2), atol=0.02, rtol=0)


def test_augmentation_draws_the_same_numbers_whatever_the_knobs():
    """So what comes after it, the anomalies, does not depend on them."""
    after = []
    for knobs in (STILL, dict(rotation_degrees=9.0, horizontal_flip=True, vertical_flip=True)):
        generator = seeded()
        augment(images(4), generator, **knobs)
        after.append(torch.rand(3, generator=generator))
    assert torch.equal(*after)
