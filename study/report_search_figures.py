"""The pictures of a search: how it went, what its knobs do, what its configurations cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution

from study.report_figures import BLUE, GREY, INK, LINE, ORANGE, canvas, plain, png, wrapped

# Perceptually uniform, also for the colour-blind; the best is dark, which stands out on white.
COLOURS = colormaps["viridis_r"]
# Where a parallel line runs that does not use a knob.
UNUSED = -0.14


@dataclass(frozen=True)
class Tried:
    """One finished configuration of a search.

    Attributes:
        trial: its number.
        drawn: knob -> value; those that it does not use are left out.
        value: its objective, a share.
    """

    trial: int
    drawn: dict[str, Any]
    value: float


def history(tried: Sequence[Tried], ended: dict[str, list[int]], objective: str) -> bytes:
    """Objective by trial, the best so far, and where trials ended early.

    Args:
        tried: finished configurations.
        ended: how trials ended otherwise -> their numbers.
        objective: what the axis shows.
    """
    figure = canvas(3.4)
    axes = figure.subplots()
    plain(axes, x="trial", y=objective)
    ordered = sorted(tried, key=lambda t: t.trial)
    numbers, values = [t.trial for t in ordered], [100 * t.value for t in ordered]
    axes.plot(numbers, values, "o", color=BLUE, ms=6, label="finished")
    if values:
        best = np.maximum.accumulate(values)
        axes.step(numbers, best, where="post", color=INK, lw=1.4, label="best so far")
    for (state, trials), marker in zip(ended.items(), ("x", "v"), strict=False):
        # At the bottom, because they have no value that compares.
        axes.plot(
            trials,
            [0.02] * len(trials),
            marker,
            color=ORANGE,
            ms=6,
            ls="",
            label=f"{state} (no value)",
            transform=axes.get_xaxis_transform(),
        )
    axes.margins(y=0.12)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return png(figure)


def bars(values: dict[str, float], x: str) -> bytes:
    """Names with a bar each, the longest first."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = canvas(1.0 + 0.36 * len(ordered))
    axes = figure.subplots()
    plain(axes, x=x)
    names = [wrapped(name) for name, _ in ordered]
    heights = [value for _, value in ordered]
    axes.barh(names, heights, color=BLUE, height=0.62)
    for i, value in enumerate(heights):
        axes.annotate(f"{value:.1f}", (value, i), (4, 0), textcoords="offset points", va="center")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.1)
    return png(figure)


def slices(
    tried: Sequence[Tried], distributions: dict[str, BaseDistribution], objective: str
) -> bytes:
    """Objective against each knob, a panel per knob, of the configurations that use it."""
    knobs = [name for name in distributions if any(name in t.drawn for t in tried)]
    across = min(3, len(knobs))
    down = -(-len(knobs) // across)
    figure = canvas(2.5 * down)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in grid.flat[len(knobs) :]:
        axes.set_axis_off()
    for i, name in enumerate(knobs):
        axes, distribution = grid.flat[i], distributions[name]
        plain(axes, x=name, y=objective if i % across == 0 else "")
        of_knob = [t for t in tried if name in t.drawn]
        values = [100 * t.value for t in of_knob]
        if isinstance(distribution, CategoricalDistribution):
            choices = list(distribution.choices)
            axes.plot([choices.index(t.drawn[name]) for t in of_knob], values, "o", color=BLUE)
            axes.set_xticks(range(len(choices)), [wrapped(str(c), 12) for c in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        else:
            axes.plot([t.drawn[name] for t in of_knob], values, "o", color=BLUE)
            if distribution.log:
                axes.set_xscale("log")
                ends = distribution.low, distribution.high
                ticks = np.geomspace(*ends, 3)
                # Matplotlib's own would overlap in a range of less than two decades.
                axes.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
                axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlim(distribution.low, distribution.high)
            axes.margins(x=0.05)
            for line in axes.lines:
                line.set_clip_on(False)
        for line in axes.lines:
            line.set(markersize=5.5, alpha=0.75)
        axes.tick_params(axis="x", which="both", labelsize=8)
    return png(figure)


def parallel(
    tried: Sequence[Tried], distributions: dict[str, BaseDistribution], objective: str
) -> bytes:
    """A line per configuration through an axis per knob, coloured by its objective."""
    knobs = list(distributions)
    figure = canvas(4.4, max(8.0, 1.35 * len(knobs)))
    axes = figure.subplots()
    values = [100 * t.value for t in tried]
    norm = Normalize(min(values), max(values))
    unused = False
    for t in sorted(tried, key=lambda t: t.value):
        heights = [_height(distributions[k], t.drawn[k]) if k in t.drawn else UNUSED for k in knobs]
        unused = unused or UNUSED in heights
        colour = COLOURS(norm(100 * t.value))
        axes.plot(range(len(knobs)), heights, color=colour, lw=1.6, alpha=0.85, marker="o", ms=3)
    for i, name in enumerate(knobs):
        axes.axvline(i, color=GREY, lw=1, zorder=1)
        for height, text in _ticks(distributions[name]):
            axes.annotate(
                text,
                (i, height),
                (5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
            )
    if unused:
        axes.axhline(UNUSED, color=LINE, lw=1, zorder=0)
        axes.annotate("not used", (0, UNUSED), (5, -9), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(knobs)), [name.replace("_", "\n") for name in knobs], fontsize=8.5)
    axes.set_yticks([])
    axes.set_ylim(UNUSED - 0.1, 1.06)
    axes.set_xlim(-0.15, len(knobs) - 0.4)
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, pad=0.01, fraction=0.04)
    bar.set_label(objective, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return png(figure)


def _height(distribution: BaseDistribution, value: Any) -> float:
    """Where a value is on its axis, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        last = len(distribution.choices) - 1
        return list(distribution.choices).index(value) / last if last else 0.5
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = np.log([low, high, value])
    return float((value - low) / (high - low)) if high > low else 0.5


def _ticks(distribution: BaseDistribution) -> list[tuple[float, str]]:
    if isinstance(distribution, CategoricalDistribution):
        return [(_height(distribution, c), str(c)) for c in distribution.choices]
    return [(0.0, f"{distribution.low:.3g}"), (1.0, f"{distribution.high:.3g}")]


def pareto(points: dict[int, tuple[float, float]], front: list[int], x: str, y: str) -> bytes:
    """Quality against cost, with the configurations that no other one beats in both.

    Args:
        points: trial -> (cost, share).
        front: those that are on the front, by cost.
        x, y: what the axes show.
    """
    figure = canvas(3.8)
    axes = figure.subplots()
    plain(axes, x=x, y=y)
    rest = [p for trial, p in points.items() if trial not in front]
    axes.plot([p[0] for p in rest], [100 * p[1] for p in rest], "o", color=GREY, ms=6, mfc="white")
    best = [points[trial] for trial in front]
    axes.step(
        [p[0] for p in best], [100 * p[1] for p in best], where="post", color=BLUE, lw=1.2, ls="--"
    )
    axes.plot([p[0] for p in best], [100 * p[1] for p in best], "o", color=BLUE, ms=7)
    for i, (at, share) in enumerate(best):
        axes.annotate(
            str(i + 1),
            (at, 100 * share),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.margins(0.12)
    return png(figure)
