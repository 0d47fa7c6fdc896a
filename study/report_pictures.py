"""A sheet of the images that two configurations judge most differently, from their checkpoints.

Only on request: it needs the images and loads two models per category.
"""

import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from scipy.stats import rankdata

from ffcad.checkpoint import CheckpointError
from ffcad.datasets import CategoryData, DataError
from ffcad.predictor import Predictor
from study.data import load_data
from study.ledger import CHECKPOINT, FitRecord, Ledger
from study.report_comparison import Comparisons
from study.report_figures import canvas, png
from study.report_search import ranked
from study.report_tables import Block, Figure, Text
from study.results import ConfigurationResult, StudyResults
from study.storage import Storage

ROWS, ROWS_OF_CATEGORY = 6, 2
# As `ffcad.pictures` has it.
COLOURS = colormaps["inferno"]


class NoPictures(Exception):
    """Why there is no sheet, in one line."""


@dataclass(frozen=True)
class Judged:
    """An image of the report split with what two configurations find on it.

    Attributes:
        heading: which image it is.
        image: (S, S, 3) uint8.
        mask: (S, S) bool; None where there is no truth.
        maps: two of (S, S), scaled to [0, 1] within their configuration and category.
        ranks: of its two scores within the split, in (0, 1]; 1 is the most anomalous.
    """

    heading: str
    image: np.ndarray
    mask: np.ndarray | None
    maps: tuple[np.ndarray, np.ndarray]
    ranks: tuple[float, float]

    @property
    def disagreement(self) -> float:
        """How far apart the two ranks are."""
        return abs(self.ranks[0] - self.ranks[1])


def disagreement_blocks(
    results: StudyResults, storage: Storage, comparisons: Comparisons
) -> list[Block]:
    """The sheet, or a line that says why there is none; what is missing of it is said too."""
    judged, missing = [], []
    try:
        names, pair = _pair(results, comparisons)
        if pair[0].config.image_size != pair[1].config.image_size:
            raise NoPictures("the two configurations see images of different sizes")
        for category in results.config.categories:
            try:
                judged += _of_category(results, Ledger(storage), pair, category)
            except NoPictures as e:
                missing.append(f"{category}: {e}")
        if not judged:
            raise NoPictures("; ".join(missing))
    except NoPictures as e:
        return [Text(f"No sheet of images: {e}.")]
    shown = sorted(judged, key=lambda j: -j.disagreement)[:ROWS]
    figure = Figure(
        title="Images judged most differently",
        caption="Of the report split, one seed per category. Scores are compared by their rank "
        "among the split's images: 100 % is the most anomalous of them. Maps run from dark to "
        "bright, from the first to the last thousandth of what the configuration gives in that "
        "category; white in the truth is defective.",
        draw=partial(_sheet, shown, names),
        alternative="; ".join(
            f"{j.heading}: rank {j.ranks[0]:.0%} by {names[0]}, {j.ranks[1]:.0%} by {names[1]}"
            for j in shown
        ),
    )
    return [figure, *([Text(f"Left out: {'; '.join(missing)}.")] if missing else [])]


def _pair(
    results: StudyResults, comparisons: Comparisons
) -> tuple[tuple[str, str], tuple[ConfigurationResult, ConfigurationResult]]:
    """Of a grid the reference and the cell that differs most from it; of a search the best two."""
    if not results.cells:
        order = ranked(results)
        if len(order) < 2:
            raise NoPictures("there are not two finished configurations")
        names = tuple(f"trial {c.trials[0].number}" for c in order[:2])
        return names, (order[0], order[1])
    metric = results.paper_metrics[-1]
    own = [c for c in comparisons.values() if c.metric == metric]
    if not own:
        raise NoPictures("no two cells have a finished fit on the same case")
    cells = {cell.name: cell.chosen for cell in results.cells}
    most = max(own, key=lambda c: abs(c.difference)).cell
    return (results.reference, most), (cells[results.reference], cells[most])


def _of_category(
    results: StudyResults,
    ledger: Ledger,
    pair: tuple[ConfigurationResult, ConfigurationResult],
    category: str,
) -> list[Judged]:
    fits = [{f.seed: f for f in c.finished if f.category == category} for c in pair]
    shared = sorted(set(fits[0]) & set(fits[1]))
    if not shared:
        raise NoPictures("no seed is finished by both")
    size = pair[0].config.image_size
    try:
        data = load_data(results.config, category, size)
    except (DataError, OSError) as e:
        raise NoPictures(str(e)) from e
    if data.digest != results.inputs.data[f"{category}@{size}"]:
        raise NoPictures("its images are not those of the study any more")
    found = [_predicted(ledger, of[shared[0]], data) for of in fits]
    scores, maps = zip(*found, strict=True)
    ranks = [rankdata(s) / len(s) for s in scores]
    order = np.argsort(-np.abs(ranks[0] - ranks[1]), kind="stable")[:ROWS_OF_CATEGORY]
    split = data.report
    return [
        Judged(
            heading=f"{category}, {split.defect_types[i]}, {Path(split.paths[i]).name}",
            image=np.asarray(split.images[i]),
            mask=None if split.masks is None else np.asarray(split.masks[i]),
            maps=(maps[0][i], maps[1][i]),
            ranks=(float(ranks[0][i]), float(ranks[1][i])),
        )
        for i in order.tolist()
    ]


def _predicted(ledger: Ledger, fit: FitRecord, data: CategoryData) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and maps (N, S, S) of the report split; maps scaled to [0, 1]."""
    name = f"{ledger.folder(fit.key)}/{CHECKPOINT}"
    try:
        with ledger.storage.at_hand(name) as path:
            predictor = Predictor.load(path)
    except (FileNotFoundError, CheckpointError) as e:
        raise NoPictures(f"the checkpoint of fit {fit.key} is gone or cannot be read") from e
    scores, maps = predictor(np.asarray(data.report.images))
    low, high = np.quantile(maps, [0.001, 0.999])
    return scores, np.clip((maps - low) / max(high - low, 1e-12), 0, 1)


def _sheet(judged: list[Judged], names: tuple[str, str]) -> bytes:
    """A row per image: image, truth, both maps."""
    figure = canvas(0.4 + 2.2 * len(judged))
    grid = figure.subplots(len(judged), 4, squeeze=False)
    titles = ("image", "truth", *(textwrap.shorten(n, 24, placeholder="…") for n in names))
    for row, one in zip(grid, judged, strict=True):
        truth = np.zeros(one.image.shape[:2]) if one.mask is None else one.mask
        row[0].imshow(one.image)
        row[1].imshow(truth, cmap="gray", vmin=0, vmax=1)
        for axes, anomaly_map, rank in zip(row[2:], one.maps, one.ranks, strict=True):
            axes.imshow(anomaly_map, cmap=COLOURS, vmin=0, vmax=1)
            axes.set_xlabel(f"rank {rank:.0%}", fontsize=9)
        row[0].set_xlabel(textwrap.fill(one.heading, 28), fontsize=8, parse_math=False, loc="left")
        row[1].set_xlabel("not known" if one.mask is None else "", fontsize=9)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10, parse_math=False)
    return png(figure)
