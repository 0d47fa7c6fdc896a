"""What a report says of trials that did not finish, and of what was noted meanwhile."""

from study.ledger import BEGUN, FAILED, STOPPED
from study.report_tables import (
    BAD,
    MUTED,
    NOTHING,
    Block,
    Column,
    Entry,
    Listing,
    Table,
    Text,
)
from study.results import NEW, StudyResults
from study.trials import RETIRED, TrialRecord
from study.wording import cell_names, settings

MOST_ROWS = 40


def ended_early(results: StudyResults) -> list[Block]:
    """The trials that did not finish, and what workers noted."""
    trials = [t for t in results.current if t.state in (STOPPED, FAILED)]
    begun = [t for t in results.current if t.state == BEGUN]
    missing = sum(case.state == NEW for case in results.cases.values())
    blocks: list[Block] = []
    if not trials:
        blocks.append(Text("No trial was stopped early, and none failed."))
    else:
        blocks.append(_ended_table(results, trials))
    if begun or missing:
        rows = [case for case in results.cases.values() if case.state == BEGUN]
        blocks.append(
            Text(
                f"{len(rows)} fits are begun and {missing} not begun; they are in no mean and in "
                "no difference."
            )
        )
    if retired := [t for t in results.trials if t.state == RETIRED]:
        blocks.append(
            Text(f"{len(retired)} trials belong to an earlier question and are left out.")
        )
    notes = [f"{f.category}, seed {f.seed}: {note}" for f in results.fits for note in f.notes]
    if lines := [*results.notes, *notes]:
        shown = lines[:MOST_ROWS]
        if len(lines) > MOST_ROWS:
            shown.append(f"and {len(lines) - MOST_ROWS} more: python -m study status --json")
        blocks += [Text("Noted meanwhile:"), Listing(tuple(shown))]
    return blocks


def _ended_table(results: StudyResults, trials: list[TrialRecord]) -> Table:
    names = cell_names(results.config)
    rows = []
    for t in trials[:MOST_ROWS]:
        said = names.get(t.digest) or ", ".join(settings(t, list(t.drawn)))
        cases = ", ".join(f"{c.category}, seed {c.seed}" for c in t.cases[:3])
        more = len(t.cases) - 3
        done = f"{t.spent:,} of {t.budget:,}"
        why = t.error if t.state == FAILED else "stopped early: weaker than others at its rung"
        rows.append(
            (
                Entry(str(t.number)),
                Entry(said),
                Entry(cases + (f" and {more} more" if more > 0 else "")),
                Entry(t.state, BAD if t.state == FAILED else MUTED),
                Entry(done),
                Entry(why or NOTHING),
            )
        )
    notes = ["They are in no mean and in no ranking: less training is no fair comparison."]
    if len(trials) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(trials)}.")
    return Table(
        title="Stopped early or failed",
        columns=(
            Column("Trial"),
            Column("Cell" if results.cells else "Settings", numeric=False),
            Column("Cases", numeric=False),
            Column("State", numeric=False),
            Column("Done", "iterations"),
            Column("Why", numeric=False),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )
