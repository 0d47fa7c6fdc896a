"""Commands about studies: `python -m study run|status|sync`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console

from study.config import StudyConfig, StudyError
from study.ledger import Ledger, LedgerError
from study.trials import StudyFolder, existing_study, study_names


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from study.run import main as run

        return run(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="runs a study; `run --help` says how")
    status = commands.add_parser("status", help="shows a study, running or not; all names without")
    status.add_argument("study", nargs="?", help="its name")
    status.add_argument("--json", action="store_true", help="all records, for programs")
    sync = commands.add_parser("sync", help="writes into MLflow what is not there yet")
    sync.add_argument("study", help="its name")
    sync.add_argument("--tracking-uri", help="default: the study's own")
    for command in (status, sync):
        command.add_argument("--storage", type=Path, default=Path("runs"), help="default: runs")
    given = parser.parse_args(arguments)
    try:
        if given.command == "sync":
            return _sync(given.storage, given.study, given.tracking_uri)
        return _status(given.storage, given.study, given.json)
    except (LedgerError, StudyError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _status(storage: Path, name: str | None, as_json: bool) -> int:
    if name is None:
        names = study_names(storage)
        print(json.dumps(names) if as_json else "\n".join(names) or f"no study in {storage}")
        return 0
    folder = existing_study(storage, name)
    config, trials, ledger = _config(folder, storage), folder.trials(), Ledger(storage)
    if as_json:
        fits = [ledger.read(case.key) for trial in trials for case in trial.cases]
        document = {
            "study": config.to_dict(),
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "fits": [dataclasses.asdict(fit) for fit in fits if fit is not None],
        }
        print(json.dumps(document, indent=1))
        return 0
    from study.console import failures, summary

    console = Console()
    summary(console, config, trials, ledger)
    failures(console, trials)
    return 0


def _sync(storage: Path, name: str, tracking_uri: str | None) -> int:
    from study.driver import driver_lock
    from study.tracking import Mirror

    folder = existing_study(storage, name)
    config = _config(folder, storage)
    if tracking_uri is not None:
        config = dataclasses.replace(config, tracking_uri=tracking_uri)
    # Its own driver writes while it runs: there is one writer only.
    with driver_lock(folder):
        try:
            written = Mirror(config).sync(live=False)
        except Exception as e:  # whatever a database or a server makes MLflow raise
            reason = " ".join(str(e).split())[:300]
            raise StudyError(f"{config.mlflow_uri} cannot be written: {reason}") from e
    print(f"{config.mlflow_uri}: {written} runs written, the others were up to date")
    return 0


def _config(folder: StudyFolder, storage: Path) -> StudyConfig:
    """The study as its document has it, on the storage where it was found."""
    document = folder.read_document()
    return StudyConfig(**{**document["study"], "storage": str(storage.resolve())})


if __name__ == "__main__":
    sys.exit(main())
