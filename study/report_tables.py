"""What a report is made of, before it becomes HTML, Markdown or LaTeX: sections of text, tables and
figures. Texts and entries are plain; each rendering escapes them in its own way.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

# How an entry looks: as it is, as the best or the reference, as good or bad news, or as an aside.
PLAIN, STRONG, GOOD, BAD, MUTED = "plain", "strong", "good", "bad", "muted"
# What stands where there is no value.
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: what is shown.
        tone: how.
    """

    text: str
    tone: str = PLAIN


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what it is.
        unit: of its numbers; empty where they have none.
        numeric: whether its entries are numbers, which stand to the right.
    """

    title: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        columns: its columns.
        rows: entries, one for each column.
        notes: how to read it, a sentence each.

    Raises:
        ValueError: if a row has another number of entries than there are columns.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has {len(self.columns)} columns but a row of {len(row)}"
                )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Attributes:
        title: what it shows; its file is called after it.
        caption: how to read it.
        draw: makes the file's content; called when a rendering needs it, and once only.
        alternative: what it says to who cannot see it.
    """

    title: str
    caption: str
    draw: Callable[[], bytes]
    alternative: str

    @cached_property
    def png(self) -> bytes:
        """The file's content."""
        return self.draw()

    @property
    def file(self) -> str:
        """Its file's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") + ".png"


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: plain.
        warning: whether a reader must not miss it.
    """

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Text that is typed or kept as it is, a line each."""

    lines: tuple[str, ...]


Block = Text | Table | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report.

    Attributes:
        study: the study's name.
        question: what it asks.
        state: how much of it is done, and when the report was made.
        sections: in the order in which they are read.
    """

    study: str
    question: str
    state: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """All of its pictures."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Figure)]

    @property
    def tables(self) -> list[Table]:
        """All of its tables."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table)]


def number(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int) -> str:
    """A number with its sign; one that rounds to zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share in percent, with one digit behind the point as in the paper."""
    return number(None if value is None else 100 * value, 1)


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return signed(None if value is None else 100 * value, 2)


def interval(low: float | None, high: float | None) -> str:
    """An interval of differences, in percentage points."""
    return NOTHING if low is None or high is None else f"[{points(low)}, {points(high)}]"


def mean_and_spread(mean: float | None, spread: float | None) -> str:
    """'73.1 ± 0.4', both in percent."""
    if mean is None:
        return NOTHING
    return (
        percent(mean)
        if spread is None
        else f"{percent(mean)} \N{PLUS-MINUS SIGN} {percent(spread)}"
    )


def p_value(value: float | None) -> str:
    """A p-value, to three digits behind the point."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """'3 h 20 min', '12 min 5 s', '4.2 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def quoted(name: str) -> str:
    """A user's name within a sentence."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def said_metric(name: str) -> str:
    """pixel_ap as 'pixel AP'."""
    words = name.split("_")
    return " ".join(w.upper() if w.startswith("au") or w in ("ap", "f1") else w for w in words)


def meaning(metric: str) -> str:
    """A metric of the report split in words: 'pixel AP'."""
    return said_metric(bare(metric))


def heading(metric: str) -> str:
    """The same at the beginning of a line: 'Pixel AP'."""
    words = meaning(metric)
    return words[0].upper() + words[1:]


def facts(title: str, rows: list[tuple[str, str]], notes: tuple[str, ...] = ()) -> Table:
    """A table of two columns."""
    return Table(
        title=title,
        columns=(Column("What", numeric=False), Column("Value", numeric=False)),
        rows=tuple((Entry(name), Entry(value, PLAIN)) for name, value in rows),
        notes=notes,
    )


def bare(metric: str) -> str:
    """The metric without its split, as the paper's numbers and the defect types have it."""
    return metric.removeprefix("report_")
