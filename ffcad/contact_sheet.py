"""A page of inspected images, the most anomalous first, that needs no other file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from PIL import Image, ImageDraw

from ffcad.pages import page_environment
from ffcad.pictures import overlay
from ffcad.regions import Region

SIDE = 240  # of a thumbnail's longer side, pixels
BOX = "#00e5ff"


@dataclass(frozen=True)
class Card:
    """One image on the page.

    Attributes:
        name: of its file.
        score: its anomaly score.
        defect: the verdict; None where there is no threshold.
        regions: how many lie above the pixel threshold.
        thumbnail: a JPEG.
        picture: the larger picture's path from the page's folder.
    """

    name: str
    score: float
    defect: bool | None
    regions: int
    thumbnail: bytes
    picture: str


def thumbnail(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    regions: Sequence[Region],
    size: tuple[int, int],
    limits: tuple[float, float],
) -> bytes:
    """The overlay in the file's proportions with a box around each region, as a JPEG.

    Args:
        image: (S, S, 3) uint8.
        anomaly_map: (S, S).
        regions: with boxes in pixels of the file's image.
        size: (width, height) of that.
        limits: the map's values at the ends of the colour scale.
    """
    norm = Normalize(limits[0], limits[1] if limits[1] > limits[0] else limits[0] + 1)
    shown = Image.fromarray(np.rint(overlay(image, anomaly_map, norm) * 255).astype(np.uint8))
    scale = SIDE / max(size)
    shown = shown.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
    draw = ImageDraw.Draw(shown)
    for region in regions:
        x0, y0, x1, y1 = (edge * scale for edge in region.box)
        # Just outside of it, so that it hides nothing of a small one.
        draw.rectangle((x0 - 2, y0 - 2, x1 + 1, y1 + 1), outline=BOX)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_contact_sheet(
    path: Path, cards: Sequence[Card], *, title: str, facts: Sequence[str], warnings: Sequence[str]
) -> None:
    """Writes the page.

    Args:
        path: where it goes; the cards' pictures are linked from there.
        cards: are sorted by score.
        title: what inspected.
        facts: a line each, below the title.
        warnings: a line each, so that they are seen.
    """
    environment = page_environment("ffcad")
    page = environment.get_template("contact_sheet.html").render(
        cards=sorted(cards, key=lambda card: -card.score),
        judged=any(card.defect is not None for card in cards),
        title=title,
        facts=facts,
        warnings=warnings,
    )
    path.write_text(page, encoding="utf-8")
