"""Simulated anomalies after DRAEM (Zavrtanik et al., ICCV 2021), and augmentation of normal images.

Everything works on a batch, on the images' device. The random numbers are drawn on the CPU from the
given generator, so a GPU sees the same anomalies as a CPU.

Shapes: B batch, H height, W width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def simulate_anomalies(
    images: Tensor,
    generator: torch.Generator,
    *,
    textures: Tensor | None = None,
    probability: float = 0.5,
    perlin_max_exponent: int = 6,
    perlin_threshold: float = 0.5,
    opacity_min: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Blends a texture into regions where rotated Perlin noise exceeds a threshold.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: on the CPU; the only source of randomness.
        textures: (B, 3, H, W) in [0, 1], one per image; without them an image's own shifted, turned
            and recoloured copy is blended in.
        probability: share of the images that get an anomaly.
        perlin_max_exponent: cells per axis are 2**e, e uniform in 0 .. perlin_max_exponent - 1, for
            each axis by itself.
        perlin_threshold: noise above it is anomalous; the noise lies in [-1, 1].
        opacity_min: the texture's opacity is uniform in [opacity_min, 1].

    Returns:
        The images (B, 3, H, W) and their masks (B, 1, H, W), 1 where anomalous, else 0. A mask may
        be empty where the noise stayed below the threshold.
    """
    b, _, h, w = images.shape
    noise = perlin_noise(b, h, w, generator, perlin_max_exponent, images.device)
    chosen = torch.rand(b, generator=generator) < probability
    opacity = opacity_min + (1 - opacity_min) * torch.rand(b, generator=generator)
    source = _shifted(images, generator) if textures is None else textures
    source = _recoloured(_turned(source, generator), generator)
    mask = (noise > perlin_threshold) & chosen.to(images.device)[:, None, None]
    mask = mask[:, None].to(images.dtype)  # (B, 1, H, W)
    opacity = opacity.to(images.device, images.dtype)[:, None, None, None]
    blended = opacity * source + (1 - opacity) * images
    return images + mask * (blended - images), mask


def perlin_noise(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    max_exponent: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Perlin noise with a random number of cells per axis, turned by up to 90 degrees.

    Turning the coordinates instead of the finished noise needs no interpolation; outside the turned
    square the noise is 0, as in DRAEM.

    Args:
        batch, height, width: of the result.
        generator: on the CPU.
        max_exponent: cells per axis are 2**e, e uniform in 0 .. max_exponent - 1.
        device: where it is computed.

    Returns:
        (batch, height, width) in [-1, 1].
    """
    exponents = torch.randint(max_exponent, (batch, 2), generator=generator)
    cells = (2**exponents).float().to(device)  # (B, 2): along y, along x
    turn = ((torch.rand(batch, generator=generator) * 2 - 1) * (math.pi / 2)).to(device)
    side = 2 ** (max_exponent - 1) + 1
    angles = torch.rand(batch, side * side, generator=generator).to(device) * (2 * math.pi)
    slope_y, slope_x = angles.cos(), angles.sin()  # (B, side * side): the grid's gradients

    # Pixel centres relative to the middle, in pixels, turned; then as a share of each side.
    ys = torch.arange(height, device=device) + 0.5 - height / 2
    xs = torch.arange(width, device=device) + 0.5 - width / 2
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    v = (cos * y + sin * x) / height + 0.5  # (B, H, W)
    u = (cos * x - sin * y) / width + 0.5
    inside = (v >= 0) & (v < 1) & (u >= 0) & (u < 1)

    gy = (v.clamp(0, 1 - 1e-6)) * cells[:, 0, None, None]
    gx = (u.clamp(0, 1 - 1e-6)) * cells[:, 1, None, None]
    iy, ix = gy.floor(), gx.floor()
    fy, fx = gy - iy, gx - ix
    corners = (iy * side + ix).long().flatten(1)  # (B, H * W)

    def corner(dy: int, dx: int) -> Tensor:
        at = corners + (dy * side + dx)
        gradient_y = slope_y.gather(1, at).view_as(fy)
        gradient_x = slope_x.gather(1, at).view_as(fx)
        return gradient_y * (fy - dy) + gradient_x * (fx - dx)

    wy, wx = _fade(fy), _fade(fx)
    top = torch.lerp(corner(0, 0), corner(0, 1), wx)
    bottom = torch.lerp(corner(1, 0), corner(1, 1), wx)
    return math.sqrt(2) * torch.lerp(top, bottom, wy) * inside


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotation_degrees: float,
    horizontal_flip: bool,
    vertical_flip: bool,
) -> Tensor:
    """Random rotation, edges mirrored, and random flips of each image.

    Args:
        images: (B, 3, H, W).
        generator: on the CPU.
        rotation_degrees: greatest angle, either way.
        horizontal_flip, vertical_flip: whether half of the images are mirrored along that axis.

    Returns:
        (B, 3, H, W).
    """
    b, _, h, w = images.shape
    draws = torch.rand(3, b, generator=generator)
    for wanted, draw, axis in ((horizontal_flip, draws[0], -1), (vertical_flip, draws[1], -2)):
        if wanted:
            flip = (draw < 0.5).to(images.device)[:, None, None, None]
            images = torch.where(flip, images.flip(axis), images)
    if rotation_degrees == 0:
        return images
    angle = (draws[2] * 2 - 1) * math.radians(rotation_degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(b)
    # affine_grid's coordinates run from -1 to 1 on both axes, whatever the sides.
    rows = [torch.stack([cos, -sin * h / w, zero], 1), torch.stack([sin * w / h, cos, zero], 1)]
    theta = torch.stack(rows, dim=1).to(images.device, images.dtype)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _fade(t: Tensor) -> Tensor:
    return t**3 * (t * (6 * t - 15) + 10)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved cyclically by a quarter to three quarters of its sides."""
    b, _, h, w = images.shape
    share = 0.25 + 0.5 * torch.rand(b, 2, generator=generator)
    rows = (torch.arange(h) + (share[:, :1] * h).long()) % h  # (B, H)
    columns = (torch.arange(w) + (share[:, 1:] * w).long()) % w
    rows, columns = rows.to(images.device), columns.to(images.device)
    sample = torch.arange(b, device=images.device)[:, None, None]
    channels_last = images.permute(0, 2, 3, 1)
    return channels_last[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored along either axis and, where it is square, transposed, at random."""
    draw = (torch.rand(3, len(images), generator=generator) < 0.5).to(images.device)
    draw = draw[..., None, None, None]
    images = torch.where(draw[0], images.flip(-1), images)
    images = torch.where(draw[1], images.flip(-2), images)
    if images.shape[-1] == images.shape[-2]:
        images = torch.where(draw[2], images.transpose(-1, -2), images)
    return images


def _recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random gain and offset per channel, gamma, and inversion of a quarter of the images."""
    b = len(images)
    gain = 0.6 + 0.8 * torch.rand(b, 3, 1, 1, generator=generator)
    offset = 0.4 * torch.rand(b, 3, 1, 1, generator=generator) - 0.2
    gamma = 2 ** (2 * torch.rand(b, 1, 1, 1, generator=generator) - 1)
    invert = torch.rand(b, 1, 1, 1, generator=generator) < 0.25
    gain, offset, gamma, invert = (t.to(images.device) for t in (gain, offset, gamma, invert))
    images = ((images - 0.5) * gain + 0.5 + offset).clamp(0, 1) ** gamma
    return torch.where(invert, 1 - images, images)
