"""`python -m study report`: writes a study's report, and a copy of it into MLflow."""

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console

from study.config import StudyConfig, StudyError
from study.storage import Storage
from study.trials import existing_study

ALL = "all"
FORMATS = ("html", "markdown", "latex")


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds the command; the caller adds `--storage`."""
    report = commands.add_parser("report", help="tables and pictures of a study, half done or not")
    report.add_argument("study", help="its name")
    report.add_argument(
        "--format",
        choices=(*FORMATS, ALL),
        default=ALL,
        help="a page that needs no other file, Markdown, LaTeX, or all of them (default: all)",
    )
    report.add_argument(
        "--output", help="folder for the files (default: reports/STUDY in the storage's folder)"
    )
    report.add_argument(
        "--also",
        default="",
        metavar="M,M",
        help="metrics compared beside image AUROC and pixel AP, as pixel_aupro",
    )
    report.add_argument(
        "--pictures",
        action="store_true",
        help="with images that two configurations judge differently; needs images and checkpoints",
    )
    report.add_argument(
        "--latency",
        action="store_true",
        help="times a search's configurations on this machine; else their cost is counted",
    )
    report.add_argument("--no-mlflow", action="store_true", help="no copy in the study's run there")
    report.add_argument("--tracking-uri", help="where MLflow is (default: the study's own)")
    return report


def run(given: argparse.Namespace, storage: Storage, console: Console) -> int:
    """Writes the report that was asked for; returns the exit code.

    Raises:
        LedgerError: if there is no such study, or its document cannot be read.
        StudyError: if it was written by another version, files cannot be written, or a flag is for
            another kind of study.
    """
    existing_study(storage, given.study)  # Before imports that take seconds.
    from study.console import short_path
    from study.report import make_report, write_report
    from study.results import read_results

    also = tuple(dict.fromkeys(name for name in given.also.split(",") if name))
    results = read_results(storage, given.study, also)
    if given.latency and results.cells:
        raise StudyError(
            f"--latency is for a search, whose Pareto front it times, but {given.study!r} is a "
            "grid; leave it out: Table 10 counts what an image costs"
        )
    report = make_report(results, storage, pictures=given.pictures, latency=given.latency)
    folder = Path(given.output or results.config.local_folder / "reports" / given.study)
    formats = list(FORMATS) if given.format == ALL else [given.format]
    try:
        written = write_report(report, folder, formats)
    except OSError as e:
        raise StudyError(
            f"--output {folder}: {e.strerror or e}; give a folder that can be written"
        ) from e
    files = ", ".join(path.name for path in written[: len(formats)])
    console.print(f"{short_path(folder)}: {files}", soft_wrap=True, highlight=False, markup=False)
    line = f"{len(report.tables)} tables, {len(report.figures)} pictures"
    if not given.no_mlflow:
        line += f"; {_logged(results.config, folder, written, given.tracking_uri, console)}"
    console.print(line, highlight=False, markup=False)
    return 0


def _logged(
    config: StudyConfig, folder: Path, files: list[Path], tracking_uri: str | None, console: Console
) -> str:
    """Copies the report into MLflow, if nobody else writes there; says what came of it."""
    from study.driver import driver_lease
    from study.tracking import Mirror
    from study.trials import StudyFolder

    if tracking_uri is not None:
        config = dataclasses.replace(config, tracking_uri=tracking_uri)
    try:
        # There is one writer only: a driver's own thread, while one runs.
        with driver_lease(StudyFolder(Storage(config.storage), config.name), console):
            try:
                Mirror(config).keep_report(folder, files)
            except Exception as e:  # whatever a database or a server makes MLflow raise
                return f"MLflow not written: {' '.join(str(e).split())[:300]}"
    except StudyError:
        return "not in MLflow: a driver runs the study"
    return "a copy is in MLflow"
