"""Pictures of what a detector sees: one inspected image, or a sheet of the telling cases.

Drawn without pyplot and its global state, so also in a thread or on a machine without a screen.
The file's suffix decides the format (.png, .jpg ...). Anomaly maps have one colour scale per sheet;
overlays show the image in grey, coloured where the map is high; truth is outlined in cyan.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from scipy.ndimage import binary_dilation

from ffcad.datasets import Split

COLOURS = colormaps["inferno"]  # perceptually uniform
TRUTH, FOUND = "#00e5ff", "#ffffff"
DPI = 100
LARGE = 1_000_000  # bytes


@dataclass(frozen=True)
class Inspected:
    """One image with what was found on it.

    Attributes:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W) float.
        heading: what is written above, at the left.
        remark: what is written above, at the right, smaller.
        mask: (H, W), nonzero where defective; None where it is not known.
    """

    image: np.ndarray
    anomaly_map: np.ndarray
    heading: str = ""
    remark: str = ""
    mask: np.ndarray | None = None


def case_sheet(
    split: Split,
    scores: np.ndarray,
    maps: np.ndarray,
    path: Path,
    *,
    title: str,
    threshold: float | None = None,
    rows: int = 4,
    worst: bool = True,
) -> None:
    """Draws the cases that a detector gets most wrong, or most right: normal left, defective right.

    Args:
        split: images with labels, and masks where they are known.
        scores: (N,) anomaly scores.
        maps: (N, H, W) anomaly maps; all of them set the colour scale, so that the sheets of the
            best and of the worst cases can be compared.
        path: where the picture goes; about 1600 pixels wide.
        title: one line.
        threshold: where given, what lies above it is outlined on the overlays.
        rows: cases of each kind.
        worst: highest-scored normal and lowest-scored defective images; else the other ends.
    """
    normal, defective = (
        [
            _case(split, scores, maps, i, place, len(chosen))
            for place, i in enumerate(chosen[:rows], start=1)
        ]
        for chosen in ranked(np.asarray(split.labels, bool), scores, worst)
    )
    ends = ("highest", "lowest") if worst else ("lowest", "highest")
    groups = {
        f"normal images with the {ends[0]} scores": normal,
        f"defective images with the {ends[1]} scores": defective,
    }
    groups = {name: cases for name, cases in groups.items() if cases}
    limits = (float(np.min(maps)), float(np.max(maps)))
    _draw(groups, path, title, limits, threshold, panel=180 if len(groups) == 2 else 256)


def inspection_picture(
    inspected: Inspected,
    path: Path,
    *,
    limits: tuple[float, float],
    threshold: float | None = None,
) -> None:
    """Draws image, anomaly map, overlay and, where the mask is known, its outline.

    Args:
        inspected: the image and its map.
        path: where the picture goes.
        limits: the map's values at the ends of the colour scale.
        threshold: where given, what lies above it is outlined on the overlay.
    """
    _draw({"": [inspected]}, path, "", limits, threshold, panel=300)


def ranked(labels: np.ndarray, scores: np.ndarray, worst: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the normal and of the defective images, the most telling first."""
    ascending = np.argsort(scores, kind="stable")
    normal, defective = ascending[~labels[ascending]], ascending[labels[ascending]]
    return (normal[::-1], defective) if worst else (normal, defective[::-1])


def _case(
    split: Split, scores: np.ndarray, maps: np.ndarray, i: int, place: int, of: int
) -> Inspected:
    kind = f"defective: {split.defect_types[i]}" if split.labels[i] else "normal"
    return Inspected(
        np.asarray(split.images[i]),
        maps[i],
        f"{kind} · score {scores[i]:.3f}",
        f"{_shortened(split.paths[i])}  ({place} of {of})",
        None if split.masks is None else np.asarray(split.masks[i]),
    )


def _shortened(name: str, length: int = 40) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _draw(
    groups: dict[str, list[Inspected]],
    path: Path,
    title: str,
    limits: tuple[float, float],
    threshold: float | None,
    panel: int,
) -> None:
    """Lays the groups out side by side, a case in a row; lengths in pixels, from the top left."""
    cases = [case for group in groups.values() for case in group]
    names = ["image", "anomaly map", "overlay"]
    if any(case.mask is not None for case in cases):
        names.insert(1, "truth")
    gap, header, margin, bar = 4, 24, 16, 72
    group_width = len(names) * (panel + gap) - gap
    top = margin + (26 if title else 0) + (22 if any(groups) else 0) + 16
    width = margin + len(groups) * (group_width + 24) + bar
    height = top + max(map(len, groups.values())) * (header + panel) + margin
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, size: float, **style) -> None:
        figure.text(
            x / width, 1 - y / height, text, fontsize=size, va="baseline", parse_math=False, **style
        )  # a file name may hold dollar signs

    write(margin, margin + 12, title, 12, weight="bold")
    if threshold is not None:
        legend = f"white outline: anomaly map above {threshold:.3g}"
        write(width - margin, margin + 12, legend, 8, ha="right", color="#555555")
    norm = Normalize(limits[0], limits[1] if limits[1] > limits[0] else limits[0] + 1)
    for g, (group_name, group) in enumerate(groups.items()):
        left = margin + g * (group_width + 24)
        write(left, top - 22, group_name, 10, weight="bold")
        for column, name in enumerate(names):
            write(left + column * (panel + gap), top - 4, name, 8, color="#555555")
        for row, case in enumerate(group):
            y = top + row * (header + panel)
            write(left, y + header - 7, case.heading, 9)
            write(left + group_width, y + header - 7, case.remark, 6, ha="right", color="#555555")
            for column, name in enumerate(names):
                x = left + column * (panel + gap)
                box = (x / width, 1 - (y + header + panel) / height, panel / width, panel / height)
                _panel(figure.add_axes(box), name, case, norm, threshold)
    bottom = top + header + panel
    box = ((width - bar) / width, 1 - bottom / height, 14 / width, panel / height)
    figure.colorbar(ScalarMappable(norm, COLOURS), cax=figure.add_axes(box)).ax.tick_params(
        labelsize=8
    )
    _save(figure, Path(path))


def _panel(
    axes: Axes, name: str, case: Inspected, norm: Normalize, threshold: float | None
) -> None:
    axes.axis("off")
    if name == "anomaly map":
        axes.imshow(case.anomaly_map, cmap=COLOURS, norm=norm)
    elif name == "overlay":
        axes.imshow(overlay(case.image, case.anomaly_map, norm))
        if threshold is not None:
            _outline(axes, case.anomaly_map >= threshold, FOUND)
    else:
        axes.imshow(case.image)
    if name == "truth":
        if case.mask is None:
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=TRUTH)
        else:
            _outline(axes, np.asarray(case.mask) != 0, TRUTH)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, norm: Normalize) -> np.ndarray:
    """The image in grey under the map's colours, which cover it more where the map is higher.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (H, W).
        norm: the map's values to [0, 1].

    Returns:
        (H, W, 3) float in [0, 1].
    """
    grey = (image @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]
    height = np.clip(np.asarray(norm(anomaly_map)), 0, 1)
    opacity = 0.75 * height[..., None]
    return (1 - opacity) * grey + opacity * COLOURS(height)[..., :3]


def _outline(axes: Axes, region: np.ndarray, colour: str) -> None:
    """Draws a line around a region of pixels, just outside of it: tiny defects stay visible."""
    if not region.any():
        return
    wider = binary_dilation(region, iterations=max(1, region.shape[1] // 100))
    padded = np.pad(wider.astype(float), 1)  # so that a region at the border is closed
    y, x = (np.arange(-1, n + 1) for n in region.shape)
    lines = axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=1.2)
    lines.set_path_effects([Stroke(linewidth=2.4, foreground="black"), Normal()])
    axes.set_xlim(-0.5, region.shape[1] - 0.5)
    axes.set_ylim(region.shape[0] - 0.5, -0.5)


def _save(figure: Figure, path: Path) -> None:
    """Writes the figure; what would be a large PNG (of noisy images) gets 256 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    picture = Image.open(buffer).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        if buffer.tell() > LARGE:
            picture = picture.quantize(256)
        picture.save(path)
    else:
        picture.save(path, quality=90)
