"""What a study cost, and what it saved."""

import dataclasses
from statistics import fmean

from study.budget import Budget, budget_of
from study.ledger import BEGUN, FAILED, FINISHED, STOPPED
from study.report_plan import plan_blocks
from study.report_tables import Block, duration, facts
from study.results import NEW, StudyResults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """What a study cost, in seconds of work; waiting for a free worker is not among it.

    Attributes:
        seconds: training, evaluating and writing of its own fits, whatever came of them.
        gpu_seconds: of those on a GPU, times the GPUs of a trial.
        budget: iterations of its decided trials, and what became of them.
        stopped_seconds: what early stopping left out, as time at the pace of the study's own fits;
            None without any.
        reused_fits, reused_seconds: finished fits of other studies, and what they took there.
        fits: state -> number of fits.
    """

    seconds: float
    gpu_seconds: float
    budget: Budget
    stopped_seconds: float | None
    reused_fits: int
    reused_seconds: float
    fits: dict[str, int]


def spent(results: StudyResults) -> Spent:
    """Adds up what the records say."""
    name = results.config.name
    own = [f for f in results.fits if f.study == name]
    others = [f for f in results.fits if f.study != name and f.status == FINISHED]
    budget = budget_of(results.current, {f.key: f for f in results.fits})
    paces = [f.work_seconds / f.iteration for f in own if f.iteration]
    states = [case.state for case in results.cases.values()]
    return Spent(
        seconds=sum(f.work_seconds for f in own),
        gpu_seconds=sum(f.gpu_seconds for f in own),
        budget=budget,
        stopped_seconds=budget.stopped * fmean(paces) if paces else None,
        reused_fits=len(others),
        reused_seconds=sum(f.work_seconds for f in others),
        fits={s: states.count(s) for s in (FINISHED, STOPPED, FAILED, BEGUN, NEW)},
    )


def cost_blocks(results: StudyResults) -> list[Block]:
    """What was spent, and what was not."""
    cost = spent(results)
    counts = ", ".join(f"{n} {state}" for state, n in cost.fits.items() if n)
    done, whole = cost.budget.spent, cost.budget.whole
    share = f" ({done / whole:.0%})" if whole else ""
    rows = [
        ("Fits", counts or "none"),
        ("Work of this study's fits", duration(cost.seconds)),
        ("Iterations of decided trials", f"{done:,} of {whole:,}{share}"),
    ]
    if cost.gpu_seconds:
        rows.append(("GPU-hours", f"{cost.gpu_seconds / 3600:.2f}"))
    if cost.budget.stopped:
        saved = f"{cost.budget.stopped:,} iterations"
        if cost.stopped_seconds is not None:
            saved += f", about {duration(cost.stopped_seconds)}"
        rows.append(("Saved by early stopping", saved))
    if cost.reused_fits:
        rows.append(
            (
                "Saved by fits of other studies",
                f"{cost.reused_fits} fits, {duration(cost.reused_seconds)} of work",
            )
        )
    peak = max((f.peak_memory_mb for f in results.fits), default=0.0)
    if peak:
        where = "of the GPU" if any(f.environment["gpu"] for f in results.fits) else "of a worker"
        rows.append((f"Greatest memory {where}", f"{peak:,.0f} MB"))
    note = "Work is training, evaluating and writing, on one worker each."
    return [facts("Cost", rows, (note,)), *plan_blocks(results)]
