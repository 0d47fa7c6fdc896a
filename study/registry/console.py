"""What the user sees of promotions and of a registry: lines and tables of 80 columns."""

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from study.registry.candidates import Candidate
from study.registry.from_fit import FromFit
from study.registry.gate import IMAGE_AUROC, PIXEL_AP
from study.registry.promotion import Promoted
from study.registry.versions import (
    DISCARDED,
    FIRST,
    FORCED,
    PASSED,
    REFUSED,
    ROLLED_BACK,
    Version,
)

Line = str | Text | Table | Padding
# Rows of a comparison that every version has, in this order; others of the tags do not matter.
COMPARED = (
    ("study", "study"),
    ("configuration", "configuration_name"),
    ("fit", "fit_key"),
    ("seed", "seed"),
    ("trained again", "retrained"),
    ("image size", "image_size"),
    ("report image AUROC", "report_image_auroc"),
    ("report pixel AP", "report_pixel_ap"),
    ("gate image AUROC", "gate_image_auroc"),
    ("gate pixel AP", "gate_pixel_ap"),
    ("thresholds by", "threshold_rule"),
    ("image threshold", "image_threshold"),
    ("pixel threshold", "pixel_threshold"),
    ("one image, ms", "latency_ms"),
    ("images a second", "images_per_second"),
    ("peak memory, MB", "peak_memory_mb"),
    ("measured on", "measured_on"),
    ("size, MB", "size_mb"),
    ("gate", "gate"),
    ("reason of --force", "force_reason"),
    ("gate where it was copied from", "copied_gate"),
    ("reason there", "copied_force_reason"),
    ("rolled back because", ROLLED_BACK),
)


def of_candidate(candidate: Candidate, source: FromFit) -> list[Line]:
    """Which fit is promoted."""
    fit = candidate.fit
    seeds = f" (best of {candidate.seeds})" if candidate.seeds > 1 else ""
    head = Text(f"{fit.category}: ", style="bold")
    head.append(f"{candidate.configuration}, seed {fit.seed}{seeds}, fit {fit.key}", "not bold")
    lines: list[Line] = [head]
    if (more := source.additions) is not None:
        lines.append(
            f"  {len(more.trained)} more normal images to train on, {len(more.kept_out)} kept "
            f"out, {more.left_out} known already"
        )
    return lines


def of_promoted(promoted: Promoted) -> list[Line]:
    """What came of a promotion: figures, costs, the gate's checks, the verdict."""
    lines: list[Line] = []
    if (made := promoted.made) is not None:
        calibration, speed = made.detector.calibration, made.speed
        lines += [f"  {figure.metric:<12} {figure}" for figure in made.figures]
        if made.scored is not None and made.scored.masks is None:
            lines.append(f"  {PIXEL_AP:<12} not known: there are no masks (ground_truth/)")
        pixel = calibration.pixel_threshold
        thresholds = f"image {calibration.image_threshold:.4g}"
        thresholds += "" if pixel is None else f", pixel {pixel:.4g}"
        lines += [
            f"  {'thresholds':<12} {thresholds} ({calibration.rule.replace('_', ' ')})",
            f"  {'cost':<12} {speed.latency_ms:.1f} ms an image, "
            f"{speed.images_per_second:.0f} images/s in batches, {made.size_mb:.1f} MB",
        ]
    if promoted.checks:
        lines.append(_checks(promoted))
    style = "yellow" if promoted.verdict == REFUSED else "green"
    return [*lines, Text(f"  {_verdict(promoted)}", style=style)]


def listing(models: dict[str, list[Version]], uri: str) -> list[Line]:
    """All models with their versions, the newest first."""
    if not models:
        return [f"{uri} has no models"]
    lines: list[Line] = []
    for name, versions in models.items():
        table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for title in ("version", "alias", "gate"):
            table.add_column(title, no_wrap=title != "alias", overflow="fold")
        for title in ("AUROC", "pix. AP", "ms"):
            table.add_column(title, justify="right", no_wrap=True)
        # Below the figures: a column beside them would break the names' words.
        origins = Table.grid(padding=(0, 1))
        origins.add_column(no_wrap=True)
        origins.add_column(overflow="fold")
        for version in reversed(versions):
            style = "dim" if version.gate == DISCARDED else None
            table.add_row(
                str(version.number),
                ", ".join(version.aliases),
                version.gate,
                _figure(version, IMAGE_AUROC),
                _figure(version, PIXEL_AP),
                version.tags.get("latency_ms", ""),
                style=style,
            )
            of = [version.tags.get(tag) for tag in ("study", "configuration_name")]
            if any(of):
                words = Text(", ".join(filter(None, of)))
                origins.add_row(f"version {version.number}:", words, style=style)
        lines += [table, Padding(origins, (0, 0, 1, 2))]
    return lines


def comparison(name: str, champion: Version | None, challenger: Version | None) -> list[Line]:
    """Champion beside challenger, by their tags."""
    pair = {"champion": champion, "challenger": challenger}
    there = {alias: version for alias, version in pair.items() if version is not None}
    if not there:
        return [f"{name} has neither champion nor challenger"]
    table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("")
    for alias, version in there.items():
        table.add_column(f"{alias}, version {version.number}", overflow="fold")
    for title, tag in COMPARED:
        values = [version.shown_tags.get(tag, "") for version in there.values()]
        if any(values):
            table.add_row(title, *map(Text, values))
    lines: list[Line] = [table]
    for alias, version in there.items():
        if checks := version.tags.get("gate_checks"):
            against = version.tags.get("gate_champion")
            of = f" against version {against}" if against else ""
            lines.append(f"The gate's checks of the {alias}{of}:")
            lines += [Padding(Text(check), (0, 0, 0, 2)) for check in checks.splitlines()]
    return lines


def _checks(promoted: Promoted) -> Line:
    table = Table.grid(padding=(0, 1))
    for check in promoted.checks:
        word = Text("holds" if check.passed else "fails", "green" if check.passed else "yellow")
        table.add_row(word, Text(check.text))
    return Padding(table, (0, 0, 0, 2))


def _verdict(promoted: Promoted) -> str:
    number = promoted.version
    what = promoted.model if number is None else f"{promoted.model} version {number}"
    against = "" if promoted.against is None else f" against version {promoted.against}"
    if promoted.unchanged:
        state = "the champion" if promoted.champion else "no longer the champion; --force REASON"
        state += "" if promoted.champion else " makes it so again"
        state += "; --force was not needed, and its reason is not kept" * promoted.force_unused
        return f"{what} was promoted before ({promoted.verdict}), and is {state}"
    would = number is None
    words = {
        FIRST: "would be champion, the first" if would else "is champion, the first",
        PASSED: f"{'would pass' if would else 'passed'}{against} and "
        f"{'be' if would else 'is'} champion",
        FORCED: f"{'would be' if would else 'is'} champion by force{against}",
        REFUSED: f"{'would be' if would else 'was'} refused{against}"
        f"{'' if would else ' and is challenger'}",
    }
    return f"{what} {words[promoted.verdict]}"


def _figure(version: Version, metric: str) -> str:
    """A figure's value without its interval."""
    found = [version.tags.get(f"{split}_{metric}", "") for split in ("report", "gate")]
    return next((text.partition(" ")[0] for text in found if text), "")
