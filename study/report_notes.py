"""Notes that the tables of differences share: how many cases are needed, and what an interval
without width is worth."""

from collections.abc import Mapping

from study.report_tables import points, quoted

Interval = tuple[float | None, float | None]


def has_no_width(low: float | None, high: float | None) -> bool:
    """Whether an interval's ends are the same number as they are printed."""
    return low is not None and high is not None and points(low) == points(high)


def needed_notes(needed: Mapping[str, int | None], what: str, and_also: str = "") -> list[str]:
    """From how many on there can be a verdict, for the rows that have too few; else nothing.

    Args:
        needed: name of a row -> the number; 0 where there are enough, None where none would do.
        what: is counted, in the plural.
        and_also: what must be among them.
    """
    short = {name: number for name, number in needed.items() if number != 0}
    if not short:
        return []
    said = []
    for number in sorted({n for n in short.values() if n is not None}):
        names = ", ".join(quoted(name) for name, n in short.items() if n == number)
        said.append(f"{number} {what} for {names}")
    if hopeless := [quoted(name) for name, number in short.items() if number is None]:
        said.append(f"beside so many comparisons no number for {', '.join(hopeless)}")
    return [
        f"Needed for a verdict at least, if those that are added differ{and_also}: "
        f"{'; '.join(said)}."
    ]


def width_notes(intervals: Mapping[str, Interval], agree: str) -> list[str]:
    """That some intervals have no width, and what that means; none where all have one.

    Args:
        intervals: name of a row -> its ends.
        agree: what has the same difference everywhere then.
    """
    names = [quoted(name) for name, ends in intervals.items() if has_no_width(*ends)]
    if not names:
        return []
    return [
        f"Intervals without width: {', '.join(names)}. There {agree} agree to the digits shown, "
        "which a few may do by chance; such an interval is no proof that others would."
    ]
