"""Four kinds of surface, normal or with a defect, for the synthetic data set.

A scene draws what varies between normal images first (phase, tilt, light, colours of threads, ...)
and then its defect, so a structural defect can be drawn by rendering the same surface twice, and
its mask is where the two differ. No defect is a noise-shaped region of another texture, as the
simulated anomalies of training are: they are lines, bodies, absent and displaced parts.

A scene is one function although that makes it long: its defects need what its surface was drawn
with.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from ffcad.datasets.drawing import (
    SIDE,
    X,
    Y,
    anywhere,
    blend,
    blot,
    curve,
    inside,
    smooth_noise,
    stroke,
    turned,
)

Scene = Callable[[Generator, str | None], tuple[np.ndarray, np.ndarray]]


def weave(rng: Generator, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A plain weave: threads go over and under each other."""
    pitch = rng.uniform(12.5, 13.5)
    u, v = turned(rng.uniform(0, 2 * pitch), rng.uniform(0, 2 * pitch), rng.uniform(-3, 3))
    u = u + 1.5 * smooth_noise(rng, 4, 4)
    v = v + 1.5 * smooth_noise(rng, 4, 4)
    shades = 1 + 0.045 * rng.standard_normal((2, 64))
    colours = np.array([[0.47, 0.52, 0.60], [0.62, 0.60, 0.55]]) + rng.normal(0, 0.01, (2, 3))
    fibres = 0.035 * rng.standard_normal((SIDE, SIDE)).astype(np.float32)

    def surface(u: np.ndarray, v: np.ndarray, gap: np.ndarray | None = None) -> np.ndarray:
        column, row = np.floor(u / pitch), np.floor(v / pitch)
        rise = np.cos(np.pi * v / pitch + np.pi * column) * 0.5  # of the warp; the weft falls
        rise = rise + 0.5 * np.cos(np.pi * u / pitch + np.pi * row + np.pi)
        round_u = np.sqrt(np.clip(1 - (2 * (u / pitch - column) - 1) ** 2, 0, 1))
        round_v = np.sqrt(np.clip(1 - (2 * (v / pitch - row) - 1) ** 2, 0, 1))
        warp = (0.35 + 0.65 * round_u) * (0.85 + 0.25 * rise) * shades[0, column.astype(int) % 64]
        weft = (0.35 + 0.65 * round_v) * (0.85 - 0.25 * rise) * shades[1, row.astype(int) % 64]
        on_top = (column + row) % 2 == 0
        if gap is not None:
            on_top = on_top | gap
            warp = np.where(gap, 0.8 * warp, warp)
        return np.where(
            on_top[..., None], warp[..., None] * colours[0], weft[..., None] * colours[1]
        ) * (1 + fibres[..., None])

    normal = surface(u, v)
    x0, y0 = anywhere(rng, 40)
    if defect == "missing_thread":
        row = np.floor(v / pitch)
        length = rng.uniform(35, 90)
        gap = (row == row[int(y0), int(x0)]) & (np.abs(u - u[int(y0), int(x0)]) < length / 2)
        return surface(u, v, gap), gap
    if defect == "pulled_thread":
        reach = np.exp(-((X - x0) ** 2) / 2 / rng.uniform(18, 30) ** 2)
        reach *= np.exp(-((Y - y0) ** 2) / 2 / rng.uniform(6.5, 8.5) ** 2)
        pull = float(rng.choice([-1, 1])) * rng.uniform(6.5, 8.5) * reach
        # What rises from the cloth catches the light on one side.
        fold = np.clip(1 - 0.5 * np.gradient(pull, axis=0), 0.85, 1.4)
        return surface(u, v + pull) * fold[..., None], np.abs(pull) > 0.8
    if defect == "knot":
        distance = blot(rng, x0, y0, rng.uniform(9, 15), 0.3)
        height = np.sqrt(np.clip(-distance / 10, 0, 1))
        light = 0.75 + 0.35 * height + 0.06 * ((x0 - X) + (y0 - Y)) / 10
        wound = 1 + 0.12 * np.sin((X * rng.uniform(-1, 1) + Y) * 1.3)
        body = (light * wound)[..., None] * colours[rng.integers(2)] * 0.95
        return blend(normal, inside(distance, 2), body), distance < 0
    if defect == "stain":
        distance = blot(rng, x0, y0, rng.uniform(14, 28), 0.5)
        tint = 1 - rng.uniform(0.22, 0.42) * np.array([0.8, 0.95, 1.1])
        return blend(normal, inside(distance, 8), normal * tint), distance < 0
    return normal, np.zeros((SIDE, SIDE), bool)


def plate(rng: Generator, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A brushed metal plate with six chamfered holes."""
    tilt = rng.uniform(-3, 3)
    u, v = turned(SIDE / 2 + rng.uniform(-8, 8), SIDE / 2 + rng.uniform(-8, 8), tilt)
    brushed = 0.035 * smooth_noise(rng, SIDE, 5) + 0.03 * smooth_noise(rng, SIDE // 2, 24)
    sheen = 0.06 * np.cos(2 * np.pi * (X / SIDE * rng.uniform(0.6, 1.2) + rng.uniform()))
    metal = (0.60 + rng.uniform(-0.03, 0.03) + brushed + sheen)[..., None]
    metal = metal * np.array([0.98, 1.0, 1.03])
    light = rng.uniform(-2.6, -1.9)
    radius = rng.uniform(13, 14)
    holes = [
        (cx + rng.normal(0, 0.7), cy + rng.normal(0, 0.7))
        for cx in (-78, 0, 78)
        for cy in (-44, 44)
    ]

    def surface(holes: list[tuple[float, float]]) -> np.ndarray:
        offsets = np.stack([[u - cx, v - cy] for cx, cy in holes])  # (holes, 2, SIDE, SIDE)
        which = (offsets**2).sum(1).argmin(0)
        du, dv = np.take_along_axis(offsets, which[None, None], 0)[0]
        distance = np.hypot(du, dv) - radius
        facing = np.cos(np.arctan2(dv, du) - light)
        floor = 0.13 + 0.06 * inside(distance + 6 + 4 * facing, 8)
        image = blend(metal, inside(distance - 4), (0.55 - 0.25 * facing)[..., None])
        return blend(image, inside(distance), floor[..., None])

    normal = surface(holes)
    k = int(rng.integers(len(holes)))
    if defect == "missing_hole":
        image = surface(holes[:k] + holes[k + 1 :])
        return image, _changed(image, normal)
    if defect == "shifted_hole":
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(8, 13)
        moved = (holes[k][0] + far * np.cos(angle), holes[k][1] + far * np.sin(angle))
        image = surface([*holes[:k], moved, *holes[k + 1 :]])
        return image, _changed(image, normal)
    if defect == "scratch":
        points = curve(rng, rng.uniform(45, 110), 0.5)
        width = rng.uniform(1.4, 2.2)
        depth = rng.uniform(0.18, 0.32)
        line, shadow = stroke(points, width, taper=True), stroke(points + 1.2, width, taper=True)
        image = blend(normal, shadow * 0.8, normal - depth * 0.7)
        return blend(image, line, normal + depth), np.maximum(line, shadow) > 0.5
    if defect == "dent":
        size = rng.uniform(6, 9)
        x0, y0 = anywhere(rng, 24)
        while (
            min(np.hypot(u[int(y0), int(x0)] - a, v[int(y0), int(x0)] - b) for a, b in holes) < 36
        ):
            x0, y0 = anywhere(rng, 24)
        along, _ = turned(x0, y0, np.rad2deg(light))
        bowl = np.exp(-((X - x0) ** 2 + (Y - y0) ** 2) / 2 / size**2)
        shading = rng.uniform(0.2, 0.3) * along / size * bowl * np.exp(0.5)
        return normal * (1 + shading[..., None]), bowl > np.exp(-2)
    return normal, np.zeros((SIDE, SIDE), bool)


def dial(rng: Generator, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A printed gauge with a needle."""
    x0, y0 = (SIDE / 2 + rng.uniform(-5, 5, 2)).tolist()
    tilt = rng.uniform(-4, 4)
    u, v = turned(x0, y0, tilt)
    radius, angle = np.hypot(u, v), np.rad2deg(np.arctan2(u, -v))  # 0 is up, to the right positive
    panel = (0.30 + 0.02 * smooth_noise(rng, 64, 64) + 0.03 * smooth_noise(rng, 3, 3))[..., None]
    paper = np.array([0.86, 0.85, 0.80]) + rng.normal(0, 0.008, 3)
    reading = rng.uniform(-125, 125)
    glare = turned(x0 + rng.uniform(-60, 60), y0, 35)[1]
    glare = 0.09 * np.exp(-((glare / rng.uniform(10, 25)) ** 2)) * inside(radius - 100)

    nearest = np.rint((angle + 135) / 9)  # number of the nearest of 31 ticks; every fifth is long
    aside = radius * np.sin(np.deg2rad(angle + 135 - 9 * nearest))  # distance from its middle line
    long = nearest % 5 == 0
    lines = ((22, 34), (14, 43), (18, 52))  # half width and height below the hub, pixels

    def face(absent: tuple[int, ...] = (), bend: float = 0.0) -> np.ndarray:
        image = blend(panel * np.array([1, 1.02, 1.06]), inside(radius - 112), [0.16, 0.16, 0.17])
        image = blend(image, inside(radius - 104), paper)
        zone = inside(np.abs(radius - 66) - 3) * (np.abs(angle) < 135)
        red = (angle > 80)[..., None]
        image = blend(image, zone, np.where(red, [0.75, 0.22, 0.18], [0.30, 0.55, 0.35]))
        shown = (np.abs(angle) < 140) & ~np.isin(nearest, absent)
        tick = inside(np.abs(radius - 88) - np.where(long, 10, 5))
        tick = tick * inside(np.abs(aside) - np.where(long, 1.8, 1.0))
        image = blend(image, tick * shown, 0.12)
        imprint = [inside(np.abs(v - y) - 2) * inside(np.abs(u) - x) for x, y in lines]
        image = blend(image, sum(imprint), 0.35)
        tip = np.array([_polar(x0, y0, tilt + reading, r) for r in (-16, 0, 50)])
        end = tip[2] + np.array(_polar(0, 0, tilt + reading + bend, 28))
        needle = stroke(np.concatenate([tip, end[None]]), 3.4)
        image = blend(image, needle, [0.62, 0.12, 0.10])
        image = blend(image, inside(np.hypot(u, v) - 8), 0.18)
        return image + glare[..., None]

    normal = face()
    if defect == "missing_tick":
        first = int(rng.integers(31))
        image = face(absent=tuple(range(first, first + int(rng.integers(2, 6)))))
        return image, _changed(image, normal)
    if defect == "bent_needle":
        image = face(bend=float(rng.choice([-1, 1])) * rng.uniform(25, 50))
        return image, _changed(image, normal)
    if defect == "smudge":
        place = _polar(x0, y0, rng.uniform(0, 360), rng.uniform(15, 85))
        along, across = turned(*place, rng.uniform(0, 180))
        distance = np.hypot(along / rng.uniform(1.6, 2.6), across) - rng.uniform(7, 12)
        streaks = 0.8 + 0.2 * np.sin(across * 1.7)
        opacity = inside(distance, 6) * rng.uniform(0.35, 0.65) * streaks
        return blend(normal, opacity, [0.22, 0.21, 0.24]), distance < 0
    if defect == "hair":
        line = stroke(curve(rng, rng.uniform(60, 120), 2.5), rng.uniform(1.8, 3.0))
        dark = rng.uniform(0.1, 0.35)
        return blend(normal, 0.85 * line, [dark, dark * 0.8, dark * 0.6]), line > 0.5
    return normal, np.zeros((SIDE, SIDE), bool)


def wood(rng: Generator, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A board with its grain running from top to bottom."""
    across = X + rng.uniform(-1.5, 1.5) * (Y - SIDE / 2) / 20
    across = across + 7 * smooth_noise(rng, 3, 4) + 1.2 * smooth_noise(rng, 6, 40)
    start = rng.uniform(0, 1000)
    spacing = rng.uniform(15, 19)
    uneven = rng.uniform(0, 2 * np.pi, 2).tolist()
    fibres = 0.03 * smooth_noise(rng, 12, SIDE) + 0.02 * smooth_noise(rng, 40, SIDE)
    pores = ndimage.uniform_filter1d((rng.random((SIDE, SIDE)) < 0.006).astype(np.float32), 9, 0)
    light = np.array([0.74, 0.56, 0.37]) + rng.normal(0, 0.012, 3)
    dark = np.array([0.53, 0.35, 0.20]) + rng.normal(0, 0.012, 3)

    def surface(push: np.ndarray | float = 0.0) -> np.ndarray:
        ring = (across + push + start) / spacing
        ring = ring + 0.5 * np.sin(ring * 0.31 + uneven[0]) + 0.3 * np.sin(ring * 0.83 + uneven[1])
        late = (ring % 1) ** 2.5  # early wood turns slowly into late wood, which ends sharply
        edge = np.clip((1 - ring % 1) / 0.12, 0, 1)
        image = blend(np.broadcast_to(light, (SIDE, SIDE, 3)), late * edge, dark)
        return image + fibres[..., None] - 1.2 * pores[..., None]

    normal = surface()
    x0, y0 = anywhere(rng, 36)
    if defect == "crack":
        steps = int(rng.integers(12, 20))
        xs = np.cumsum(rng.normal(0, 1.6, steps)) + x0
        ys = np.linspace(0, rng.uniform(55, 120), steps)
        points = np.stack([xs, ys + rng.uniform(5, SIDE - 5 - ys[-1])], 1)
        line = stroke(points, rng.uniform(2.0, 3.4), taper=True)
        return blend(normal, 0.9 * line, dark * 0.4), line > 0.5
    if defect == "knot":
        size = rng.uniform(8, 13)
        far = np.hypot((X - x0), (Y - y0) / 1.4)
        push = rng.uniform(1.4, 1.8) * size * np.sign(x0 - X) * np.exp(-((far / size / 1.6) ** 2))
        push = push * np.clip(np.abs(X - x0) / 3, 0, 1)
        rings = 0.85 + 0.15 * np.sin(far * 1.6)
        core = rings[..., None] * (dark * 0.72)
        image = blend(surface(push), inside(far - size, 4), core)
        return image, (far < size + 1) | (np.abs(push) > 4)
    if defect == "insect_holes":
        image, mask = normal, np.zeros((SIDE, SIDE), bool)
        for _ in range(int(rng.integers(2, 6))):
            distance = np.hypot(X - x0 - rng.normal(0, 16), Y - y0 - rng.normal(0, 16))
            distance = distance - rng.uniform(1.8, 3.2)
            image = blend(image, 0.5 * inside(distance - 1.5, 2), light * 1.1)
            image = blend(image, inside(distance), dark * 0.3)
            mask |= distance < 1
        return image, mask
    if defect == "glue":
        distance = blot(rng, x0, y0, rng.uniform(12, 22), 0.35)
        milky = 0.55 * ndimage.gaussian_filter(normal, (3, 3, 0)) + 0.45 * light * 1.05
        rim = 0.07 * np.exp(-(((distance + 3) / 2) ** 2)) * np.sign((X - x0) + (Y - y0) + 0.1)
        return blend(normal, inside(distance, 3), milky + rim[..., None]), distance < 0
    return normal, np.zeros((SIDE, SIDE), bool)


SCENES: dict[str, tuple[Scene, tuple[str, ...]]] = {
    "dial": (dial, ("bent_needle", "hair", "missing_tick", "smudge")),
    "plate": (plate, ("dent", "missing_hole", "scratch", "shifted_hole")),
    "weave": (weave, ("knot", "missing_thread", "pulled_thread", "stain")),
    "wood": (wood, ("crack", "glue", "insect_holes", "knot")),
}


def _polar(x0: float, y0: float, degrees: float, radius: float) -> tuple[float, float]:
    """The point at a clock angle (0 is up) and a distance."""
    turn = np.deg2rad(degrees)
    return x0 + radius * float(np.sin(turn)), y0 - radius * float(np.cos(turn))


def _changed(image: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Where two renderings of a surface differ visibly, small gaps closed."""
    differs = np.abs(image - normal).max(-1) > 0.04
    return ndimage.binary_closing(differs, iterations=2) | differs
