"""Curves of a split: ROC, precision-recall and per-region overlap, as a picture and as a table.

They come from the same counts as the metrics, so each curve's area is its metric. A curve of
millions of pixels is thinned to the points that its shape needs.
"""

import csv
import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ffcad.metrics import (
    AUPRO_LIMIT,
    _area,
    _auroc,
    _average_precision,
    _check_one_map_each,
    _corners,
    _image_sweep,
    _pixel_sweep,
    _Sweep,
)

POINTS = 400
CANDIDATES = 20_000  # among which the points of a long curve are chosen
DPI = 100
LEVELS = {"image": "#1f5fa8", "pixel": "#d9661f"}
# The end of a curve's name: its panel's title, the metric that is its area, where there is room.
PANELS = {
    "roc": ("ROC", "AUROC", "lower right"),
    "precision_recall": ("Precision and recall", "AP", "lower left"),
    "pro": ("Per-region overlap", "AUPRO", "lower right"),
}


@dataclass(frozen=True)
class Curve:
    """A curve of at most 400 points, from the highest threshold to the lowest.

    Attributes:
        name: 'image_roc', 'image_precision_recall', 'pixel_roc', 'pixel_precision_recall' or
            'pixel_pro'.
        x_label: what x is.
        y_label: what y is.
        x: (P,) rates or recall, ascending: from 0 to 1, for 'pixel_pro' to 0.3.
        y: (P,) in [0, 1].
        area: below the curve before it was thinned, over its width: exactly the metric.
    """

    name: str
    x_label: str
    y_label: str
    x: np.ndarray
    y: np.ndarray
    area: float


def split_curves(scores: Any, labels: Any, maps: Any, masks: Any | None) -> list[Curve]:
    """The curves of one category's split: of its images and, where there are masks, its pixels.

    Args:
        scores: (N,) image scores; higher is more anomalous.
        labels: (N,) bool or 0 and 1, true where the image is defective.
        maps: (N, H, W) anomaly maps; not read where `masks` is None.
        masks: (N, H, W) bool or 0 and 1, true where defective; None where no ground truth exists.

    Returns:
        ROC and precision-recall of the images, and with masks ROC, precision-recall and
        per-region overlap of the pixels, in this order.

    Raises:
        MetricError: as in `ffcad.metrics.all_metrics`.
    """
    curves = _roc_and_precision_recall("image", _image_sweep(scores, labels))
    if masks is None:
        return curves
    _check_one_map_each(scores, maps)
    sweep = _pixel_sweep(maps, masks, with_regions=True)
    # A sum of shares: rounding alone can make it more than 1.
    x, y = _until(*_corners(sweep, np.minimum(sweep.overlap, 1.0)), AUPRO_LIMIT)
    area = _area(sweep, sweep.overlap, AUPRO_LIMIT)
    return [
        *curves,
        *_roc_and_precision_recall("pixel", sweep),
        Curve("pixel_pro", "false-positive rate", "per-region overlap", *thinned(x, y), area),
    ]


def _roc_and_precision_recall(level: str, sweep: _Sweep) -> list[Curve]:
    recall = sweep.positives / sweep.positives_total
    roc = thinned(*_corners(sweep, recall))
    # As average precision has it: a threshold's precision holds for all the recall that it adds.
    precision = np.repeat(sweep.positives / (sweep.positives + sweep.negatives), 2)
    steps = np.zeros(precision.size)
    steps[1::2] = recall
    steps[2::2] = recall[:-1]
    area = _average_precision(sweep)
    return [
        Curve(f"{level}_roc", "false-positive rate", "true-positive rate", *roc, _auroc(sweep)),
        Curve(f"{level}_precision_recall", "recall", "precision", *thinned(steps, precision), area),
    ]


def _until(x: np.ndarray, y: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """The curve from its beginning to x = `limit`, where it is cut by linear interpolation."""
    inside = int(np.searchsorted(x, limit, side="right"))
    at_limit = np.interp(limit, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1])
    return np.append(x[:inside], limit), np.append(y[:inside], at_limit)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` of a curve's points, its ends among them, that keep its shape.

    Again and again, the chord that is worst (its length times the greatest distance of the curve
    from it) is replaced by two that meet on the curve, at the point that was farthest away.
    """
    differs = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    x, y = _evenly(x[differs], y[differs])
    if x.size <= POINTS:
        return x, y
    chosen = {0, x.size - 1}
    waiting = [_worst(x, y, 0, x.size - 1)]
    while len(chosen) < POINTS:
        badness, first, middle, last = heapq.heappop(waiting)
        if badness == 0:
            break  # All that is left lies on the chords.
        chosen.add(middle)
        for start, end in ((first, middle), (middle, last)):
            heapq.heappush(waiting, _worst(x, y, start, end))
    keep = sorted(chosen)
    return x[keep], y[keep]


def _evenly(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a long curve, `CANDIDATES` points at equal distances along it, its ends among them."""
    if x.size <= CANDIDATES:
        return x, y
    along = np.abs(np.diff(x, prepend=x[0]))
    along += np.abs(np.diff(y, prepend=y[0]))
    np.cumsum(along, out=along)
    keep = np.searchsorted(along, np.linspace(0, along[-1], CANDIDATES))
    keep[-1] = x.size - 1
    keep = np.unique(keep)
    return x[keep], y[keep]


def _worst(x: np.ndarray, y: np.ndarray, first: int, last: int) -> tuple[float, int, int, int]:
    """How bad a chord is, as a negative number, and its start, farthest point and end."""
    if last - first < 2:
        return 0.0, first, first, last
    dx, dy = x[last] - x[first], y[last] - y[first]
    inner = slice(first + 1, last)
    off = np.abs((x[inner] - x[first]) * dy - (y[inner] - y[first]) * dx)
    middle = int(np.argmax(off))
    return -float(off[middle]), first, first + 1 + middle, last


def curves_picture(curves: list[Curve], path: Path, title: str) -> None:
    """Draws ROC, precision-recall and per-region overlap side by side.

    Args:
        curves: of one split; a panel for which there is none is left out.
        path: where the picture goes; its suffix decides the format.
        title: one line.
    """
    panels = {
        kind: found
        for kind in PANELS
        if (found := [c for c in curves if c.name.partition("_")[2] == kind])
    }
    width = 4.4 * len(panels)
    figure = Figure(figsize=(width, 4.8), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", wrap=True, parse_math=False)
    for axes, (kind, found) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _panel(axes, kind, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _panel(axes: Axes, kind: str, curves: list[Curve]) -> None:
    heading, metric, place = PANELS[kind]
    for curve in curves:
        level = curve.name.partition("_")[0]
        label = f"{level} {metric} {curve.area:.3f}"
        # A perfect detector's curve runs along the border, where it would be cut in half.
        axes.plot(curve.x, curve.y, color=LEVELS[level], label=label, lw=1.8, clip_on=False)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls="--", zorder=1)
    axes.set_title(heading, fontsize=11)
    axes.set_xlabel(curves[0].x_label)
    axes.set_ylabel(curves[0].y_label)
    axes.set_xlim(0, curves[0].x[-1])
    axes.set_ylim(0, 1)
    axes.set_box_aspect(1)
    axes.grid(color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc=place, fontsize=9, framealpha=0.9)


def curves_table(curves: list[Curve], path: Path) -> None:
    """Writes the points as a CSV with the columns curve, x, y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(("curve", "x", "y"))
        for curve in curves:
            for x, y in zip(curve.x, curve.y, strict=True):
                writer.writerow((curve.name, f"{x:.8g}", f"{y:.8g}"))
