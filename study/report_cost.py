"""What a study cost, what it saved, and how wrong the plan was."""

import dataclasses
from statistics import fmean

from study.ledger import BEGUN, FAILED, FINISHED, STOPPED, FitRecord
from study.report_tables import (
    Block,
    Text,
    duration,
    facts,
)
from study.results import NEW, StudyResults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """What a study cost, in seconds of work; waiting for a free worker is not among it.

    Attributes:
        seconds: training, evaluating and writing of its own fits, whatever came of them.
        gpu_seconds: of those on a GPU, times the GPUs of a trial.
        iterations, budget: of its decided trials: spent, and of the whole trainings.
        stopped_iterations: that early stopping left out.
        stopped_seconds: the same as time, at the pace of the study's own fits; None without any.
        reused_fits, reused_seconds: finished fits of other studies, and what they took there.
        fits: state -> number of fits.
    """

    seconds: float
    gpu_seconds: float
    iterations: int
    budget: int
    stopped_iterations: int
    stopped_seconds: float | None
    reused_fits: int
    reused_seconds: float
    fits: dict[str, int]


def spent(results: StudyResults) -> Spent:
    """Adds up what the records say."""
    name = results.config.name
    own = [f for f in results.fits if f.study == name]
    others = [f for f in results.fits if f.study != name and f.status == FINISHED]
    decided = [t for t in results.current if t.decided]
    paces = [_seconds(f) / f.iteration for f in own if f.iteration]
    left = sum(t.budget - t.spent for t in decided if t.state == STOPPED)
    states = [case.state for case in results.cases.values()]
    return Spent(
        seconds=sum(map(_seconds, own)),
        gpu_seconds=sum(_seconds(f) * _gpus(f) for f in own if f.environment["gpu"]),
        iterations=sum(t.spent for t in decided),
        budget=sum(t.budget for t in decided),
        stopped_iterations=left,
        stopped_seconds=left * fmean(paces) if paces else None,
        reused_fits=len(others),
        reused_seconds=sum(map(_seconds, others)),
        fits={s: states.count(s) for s in (FINISHED, STOPPED, FAILED, BEGUN, NEW)},
    )


def _seconds(fit: FitRecord) -> float:
    return fit.seconds + fit.writing_seconds


def _gpus(fit: FitRecord) -> float:
    """Its share of a GPU, in its last sitting; a whole one where an older version noted none."""
    noted = [sitting["gpus"] for sitting in fit.sittings[-1:] if sitting.get("gpus")]
    return noted[0] if noted else 1.0


def cost_blocks(results: StudyResults) -> list[Block]:
    """What was spent, and what was not."""
    cost = spent(results)
    counts = ", ".join(f"{n} {state}" for state, n in cost.fits.items() if n)
    share = f" ({cost.iterations / cost.budget:.0%})" if cost.budget else ""
    rows = [
        ("Fits", counts or "none"),
        ("Work of this study's fits", duration(cost.seconds)),
        ("Iterations of decided trials", f"{cost.iterations:,} of {cost.budget:,}{share}"),
    ]
    if cost.gpu_seconds:
        rows.append(("GPU-hours", f"{cost.gpu_seconds / 3600:.2f}"))
    if cost.stopped_iterations:
        saved = f"{cost.stopped_iterations:,} iterations"
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
    return [facts("Cost", rows, (note,)), *_plan_against_truth(results)]


def _plan_against_truth(results: StudyResults) -> list[Block]:
    """How wrong the estimate was that the driver made when the study began."""
    if "plan" not in results.document:
        why = (
            "No plan was kept: when the study began, nothing told its time, and no --dry-run of it"
        )
        return [Text(f"{why} had been made on that machine.")]
    plan = results.document["plan"]
    if plan["seconds"] is None:
        return [Text("When the study began, nothing was known to estimate its time from.")]
    # Encoders are in the plan's sum where their time was known; fits' records have no part of it.
    planned = plan["seconds"] - (plan["encoder_seconds"] or 0.0)
    took = sum(_seconds(fit) for fit in results.fits) - plan["spent_seconds"]
    done = sum(case.state == FINISHED for case in results.cases.values()) - plan["finished"]
    left = plan["fits"] - plan["finished"]
    rows = [
        ("Fits that were left", str(left)),
        ("Finished since", str(done)),
        ("Work, planned", f"{duration(planned)}, from {plan['source']}"),
        ("Work, taken" if done >= left else "Work, so far", duration(took)),
    ]
    if planned:
        rows.append(("Taken over planned", f"{took / planned:.0%}"))
    return [facts("Plan against truth", rows)]
