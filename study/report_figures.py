"""The pictures of a report, as PNG: drawn without pyplot and its global state.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell
apart; where there are more cells than colours, markers and dashes differ too.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from study.analysis import Comparison
from study.verdicts import BETTER, WORSE

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
INK, GREY, LINE = "#1d2430", "#8a93a0", "#e1e5ea"
COLOURS = ("#000000", BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
DASHES = ("-", "--", ":")
DPI, WIDTH = 150, 8.0
# Characters of a cell's name on one line.
NAME = 26


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        name: for the legend; empty for a line that has none.
        x, y: its points.
        faint: whether it is one of many behind the one that counts.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False


def canvas(height: float, width: float = WIDTH) -> Canvas:
    """An empty figure, sizes in inches."""
    figure = Canvas(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Canvas) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    # Without the version of matplotlib, so that the same results give the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def plain(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """The looks that all panels share."""
    axes.set_title(title, fontsize=10.5, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel(x, fontsize=10, parse_math=False)
    axes.set_ylabel(y, fontsize=10, parse_math=False)
    axes.tick_params(labelsize=9, color=GREY)
    axes.grid(color=LINE, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def wrapped(name: str, width: int = NAME) -> str:
    """A user's name in lines, with nothing that matplotlib would take for mathematics."""
    return "\n".join(textwrap.wrap(name, width) or [""]).replace("$", r"\$")


def style(i: int) -> dict[str, object]:
    """Colour and dashes of the i-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "ls": DASHES[i // len(COLOURS) % len(DASHES)]}


def forest(
    groups: dict[str, list[Comparison]], paper: dict[tuple[str, str], float], reference: str
) -> bytes:
    """Differences to the reference with their intervals, a panel per metric.

    Args:
        groups: panel's title -> comparisons, of the same cells in each.
        paper: (cell, metric) -> the paper's difference, a share.
        reference: the cell at zero.
    """
    cells = list(dict.fromkeys(c.cell for group in groups.values() for c in group))
    labels = [wrapped(cell) for cell in cells]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = canvas(1.5 + 0.3 * len(cells) + 0.16 * lines)
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axes, (title, group) in zip(panels, groups.items(), strict=True):
        plain(axes, title, "difference, percentage points")
        axes.axvline(0, color=INK, lw=1)
        for c in group:
            y = cells.index(c.cell)
            colour = {BETTER: BLUE, WORSE: ORANGE}.get(c.verdict, GREY)
            if c.low is not None:
                axes.plot([100 * c.low, 100 * c.high], [y, y], color=colour, lw=2.2)
            decided = c.verdict in (BETTER, WORSE)
            face = colour if decided else "white"
            axes.plot(100 * c.difference, y, "o", color=colour, ms=7, mfc=face, mew=1.8)
            if (c.cell, c.metric) in paper:
                x = 100 * paper[c.cell, c.metric]
                axes.plot(x, y - 0.24, "d", color=INK, ms=5.5, mfc="white", mew=1.2)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(cells)), labels)
    panels[0].set_ylabel(f"compared with {wrapped(reference, 40)}", fontsize=9, color="#5a6474")
    return png(figure)


def slopes(cells: dict[str, dict[str, float]], reference: str, unit: str) -> bytes:
    """How each category changes from the reference to each cell: a panel per cell.

    Args:
        cells: name -> category -> mean share; the reference among them.
        reference: its name.
        unit: of the values, for the axis.
    """
    others = [name for name in cells if name != reference]
    across = min(3, len(others))
    down = -(-len(others) // across)
    categories = max(len(values) for values in cells.values())
    tall = max(2.9, 1.3 + 0.17 * categories)
    figure = canvas(tall * down, WIDTH if across > 1 else 5.4)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in panels.flat[len(others) :]:
        axes.set_axis_off()
    for i, name in enumerate(others):
        axes = panels.flat[i]
        plain(axes, y=unit if i % across == 0 else "")
        shared = [c for c in cells[reference] if c in cells[name]]
        for category in shared:
            pair = [100 * cells[reference][category], 100 * cells[name][category]]
            colour = BLUE if pair[1] > pair[0] else ORANGE if pair[1] < pair[0] else GREY
            dash = "-" if pair[1] >= pair[0] else "--"
            axes.plot([0, 1], pair, color=colour, ls=dash, marker="o", ms=4, lw=1.4)
        axes.set_xticks([0, 1], [wrapped(reference, 11), wrapped(name, 15)], fontsize=8)
        axes.set_xlim(-0.3, 1.9)
        axes.grid(axis="x", visible=False)
    # After all panels are drawn, because they share their scale.
    for i, name in enumerate(others):
        axes = panels.flat[i]
        shared = [c for c in cells[reference] if c in cells[name]]
        _end_labels(axes, [(100 * cells[name][c], c) for c in shared], tall)
    return png(figure)


def _end_labels(axes: Axes, ends: list[tuple[float, str]], tall: float) -> None:
    """Names at the right ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    least = (high - low) * 0.155 / max(0.5, tall - 1.0)
    placed: list[float] = []
    for value, name in sorted(ends):
        y = max(value, placed[-1] + least) if placed else value
        placed.append(y)
        axes.annotate(
            textwrap.shorten(name, 16, placeholder="…").replace("$", r"\$"),
            (1, value),
            (1.12, y),
            fontsize=8,
            va="center",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": LINE, "lw": 0.6},
        )
    if placed:
        axes.set_ylim(low, max(high, placed[-1] + least / 2))


def lines_figure(
    panels: dict[str, list[Line]],
    x: str,
    y: str,
    *,
    marks: Sequence[float] = (),
    square: bool = False,
) -> bytes:
    """Lines in one or several panels, with one legend for all of them.

    Args:
        panels: title -> lines; a name has the same colour in all of them.
        x, y: what the axes show, with units.
        marks: where a vertical line stands.
        square: whether both axes go from 0 to 1.
    """
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    names = list(dict.fromkeys(line.name for p in panels.values() for line in p if line.name))
    rows = -(-len(names) // 2)
    figure = canvas((3.0 if across > 1 else 3.6) * down + 0.24 * rows)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles = {}
    for i, (title, lines) in enumerate(panels.items()):
        axes = grid.flat[i]
        bottom = i + across >= len(panels)
        plain(axes, title, x if bottom else "", y if i % across == 0 else "")
        axes.tick_params(labelbottom=bottom)
        for line in sorted(lines, key=lambda line: not line.faint):
            looks = style(names.index(line.name)) if line.name else {"color": GREY, "ls": "-"}
            width, alpha = (0.8, 0.3) if line.faint else (1.9, 1.0)
            (drawn,) = axes.plot(line.x, line.y, lw=width, alpha=alpha, **looks)
            if line.name and not line.faint:
                handles.setdefault(line.name, drawn)
        for mark in marks:
            axes.axvline(mark, color=GREY, lw=1, ls=":")
        if square:
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
    if handles:
        figure.legend(
            handles.values(),
            [wrapped(name, 46) for name in handles],
            loc="outside lower center",
            ncols=min(2, len(handles)),
            fontsize=9,
            frameon=False,
        )
    return png(figure)


def mean_curve(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], points: int = 201
) -> tuple[list[float], list[float]]:
    """The mean of curves over [0, 1], at equal distances.

    Args:
        curves: (x, y) each, x ascending; vertical steps are taken at their lower end.
        points: of the mean.
    """
    at = np.linspace(0, 1, points)
    values = []
    for x, y in curves:
        # interp takes one y for each x: of a step the last one, where the next stretch begins.
        values.append(np.interp(at, np.asarray(x), np.asarray(y)))
    return at.tolist(), [fmean(column) for column in zip(*values, strict=True)]
