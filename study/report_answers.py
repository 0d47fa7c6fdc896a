"""The first words of a grid's report: what its comparisons say, and what they do not."""

from study.analysis import Comparison
from study.paired_statistics import LEVEL, spread
from study.report_comparison import Comparisons
from study.report_notes import has_no_width
from study.report_tables import (
    Text,
    heading,
    interval,
    mean_and_spread,
    meaning,
    p_value,
    points,
    quoted,
)
from study.results import StudyResults
from study.tuned_cells import half_tuned, tuning_note
from study.verdicts import BETTER, NO_DIFFERENCE, TOO_FEW, WORSE


def answers(results: StudyResults, comparisons: Comparisons) -> list[Text]:
    """What the comparisons say, a sentence for each verdict; then what makes them uncertain."""
    if len(results.cells) == 1:
        return [_alone(results)]
    if not comparisons:
        return [Text("No two cells have a finished fit on the same case yet: nothing to compare.")]
    lines = []
    for metric in results.metrics:
        own = [c for c in comparisons.values() if c.metric == metric]
        text = "; ".join(_verdicts(own))
        lines.append(Text(f"{heading(metric)}, compared with {quoted(results.reference)}: {text}."))
    for metric in results.metrics:
        own = [c for c in comparisons.values() if c.metric == metric]
        lines += _shared_seeds(metric, own)
    if half_tuned(results.cells):
        lines.append(Text(tuning_note(results.cells, results.config.objective), warning=True))
    return lines


def _verdicts(own: list[Comparison]) -> list[str]:
    """What the comparisons of one metric say, without the full stop."""
    said = [
        f"{quoted(c.cell)} is {c.verdict} by {points(abs(c.difference)).lstrip('+')} points "
        f"(95 % interval {interval(c.low, c.high)}{_width(c)})"
        for c in own
        if c.verdict in (BETTER, WORSE)
    ]
    if open_ := [c.cell for c in own if c.verdict == NO_DIFFERENCE]:
        said.append(f"no difference is shown for {_listed(open_)}")
    undecided = [c for c in own if c.verdict == TOO_FEW]
    # More categories would not help these: an interval needs two seeds of one category.
    if one_seed := [c for c in undecided if c.lacks_seeds]:
        said.append(
            f"no verdict on {_listed([c.cell for c in one_seed])}: one seed per category gives no "
            f"interval, whatever the number of categories; give a second seed, {_needed(one_seed)}"
        )
    if few := [c for c in undecided if c.low is not None]:
        # Only those with a difference count, where there are any.
        some_alike = any(0 < c.differing < c.pairs for c in few)
        differ = f", of which {_range([c.differing for c in few])} differ" if some_alike else ""
        said.append(
            f"too few cases for a verdict on {_listed([c.cell for c in few])}: each has "
            f"{_range([c.pairs for c in few])} in common with the reference{differ}, "
            f"{_needed(few)}"
        )
    return said


def _width(comparison: Comparison) -> str:
    """A caveat of an interval that looks surer than a few seeds can be."""
    flat = has_no_width(comparison.low, comparison.high)
    return ", without width because its seeds agree" if flat else ""


def _needed(undecided: list[Comparison]) -> str:
    """How many cases would do, beside what was said of those that there are."""
    numbers = [c.needed_pairs for c in undecided]
    if None in numbers:
        return "but beside so many comparisons no number of cases is enough"
    return f"and {max(numbers)} or more cases in all are needed"


def _shared_seeds(metric: str, own: list[Comparison]) -> list[Text]:
    """A warning of the cells whose seeds are lucky in several categories at once."""
    found = [c for c in own if c.shared_seed_p is not None and c.shared_seed_p <= LEVEL]
    if not found:
        return []
    said = ", ".join(f"{quoted(c.cell)} (p {p_value(c.shared_seed_p)})" for c in found)
    return [
        Text(
            f"{heading(metric)}: a seed seems to move several categories at once, in the "
            f"difference of {said}. Then intervals are too narrow and p-values too small; only "
            "more seeds make up for it.",
            warning=True,
        )
    ]


def _alone(results: StudyResults) -> Text:
    """What there is to say of a single cell."""
    (cell,) = results.cells
    known = {metric: spread(s) for metric in results.metrics if (s := cell.chosen.scores(metric))}
    if not known:
        return Text("No fit is finished yet.")
    said = " and ".join(
        f"{meaning(m)} {mean_and_spread(k.mean, k.seeds)} %" for m, k in known.items()
    )
    return Text(f"{quoted(cell.name)} has {said} on the report split.")


def _listed(names: list[str]) -> str:
    return ", ".join(map(quoted, names))


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
