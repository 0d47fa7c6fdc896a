"""Strokes and noises that the synthetic scenes are drawn with, on a square of SIDE pixels."""

import itertools
import math

import numpy as np
from numpy.random import Generator
from PIL import Image

SIDE = 256
Y, X = np.mgrid[:SIDE, :SIDE].astype(np.float32)


def smooth_noise(rng: Generator, rows: int, columns: int) -> np.ndarray:
    """(SIDE, SIDE) noise of unit variance at `rows` x `columns` points, smooth between them."""
    points = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(points).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def turned(x0: float, y0: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (along, across) in a frame at (x0, y0), turned by an angle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos * (X - x0) + sin * (Y - y0), cos * (Y - y0) - sin * (X - x0)


def inside(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """1 where a signed distance (pixels) is negative, 0 where positive, an edge between."""
    return np.clip(0.5 - distance / softness, 0, 1)


def stroke(points: np.ndarray, width: float, taper: bool = False) -> np.ndarray:
    """Opacity of a line through points.

    Args:
        points: (K, 2) of x, y.
        width: pixels.
        taper: whether it thins out towards its ends.
    """
    nearest = np.full((SIDE, SIDE), 1e9, np.float32)
    widths = np.full((SIDE, SIDE), width, np.float32)
    pieces = len(points) - 1
    for k, (start, end) in enumerate(itertools.pairwise(points.astype(np.float32))):
        step = end - start
        along = np.clip(
            ((X - start[0]) * step[0] + (Y - start[1]) * step[1]) / max(step @ step, 1e-6), 0, 1
        )
        distance = np.hypot(X - start[0] - along * step[0], Y - start[1] - along * step[1])
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        if taper:
            middle = 1 - np.abs(2 * (k + along) / pieces - 1)
            widths = np.where(closer, width * (0.4 + 0.6 * middle), widths)
    return inside(nearest - widths / 2)


def blot(rng: Generator, x0: float, y0: float, radius: float, roughness: float) -> np.ndarray:
    """Signed distance (pixels) to a rounded, uneven patch about (x0, y0)."""
    angle = np.arctan2(Y - y0, X - x0)
    edge = np.ones_like(angle)
    for k in range(2, 6):
        edge += roughness / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    return np.hypot(X - x0, Y - y0) - radius * np.maximum(edge, 0.3)


def blend(image: np.ndarray, opacity: np.ndarray, colour: np.ndarray | float) -> np.ndarray:
    """Lays a colour, or another image, over an image."""
    image = image.astype(np.float32, copy=False)
    opacity = opacity.astype(np.float32, copy=False)[..., None]
    return image + opacity * (np.asarray(colour, np.float32) - image)


def anywhere(rng: Generator, margin: float) -> tuple[float, float]:
    """A place at least `margin` pixels from the border."""
    x, y = rng.uniform(margin, SIDE - margin, 2)
    return float(x), float(y)


def curve(rng: Generator, length: float, bend: float, pieces: int = 14) -> np.ndarray:
    """(pieces + 1, 2) points of a smooth line inside the image; `bend` is its turn in radians."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(
        rng.normal(0, 0.1, pieces) + bend * rng.uniform(-1, 1) / pieces
    )
    steps = length / pieces * np.stack([np.cos(heading), np.sin(heading)], 1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
    points -= (points.min(0) + points.max(0)) / 2
    half = (points.max(0) - points.min(0)) / 2
    reach = np.maximum(SIDE / 2 - half - 12, 0)
    return points + SIDE / 2 + rng.uniform(-1, 1, 2) * reach
