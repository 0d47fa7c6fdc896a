"""Commands about studies: `python -m study run|status|sync|report|encoders|promote|predict`."""

import argparse
import dataclasses
import json
import sys

from ffcad.config import ConfigError
from study.config import StudyError
from study.default_places import STORAGE_DEFAULT, default_storage
from study.encoders import EncoderError
from study.lease_holders import current_holder, describe, describe_silence, silent_seconds
from study.ledger import Ledger, LedgerError
from study.mending import mended_trials
from study.question import complete_extension, study_of
from study.signals import PatientConsole, run_and_exit
from study.spaces import SpaceError
from study.storage import Storage, StorageError
from study.trials import existing_study, study_names


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from study.run import main as run

        return run(arguments[1:])
    from study import encoder_commands, report_command
    from study.registry import command as promote_command
    from study.registry import flags as promote_flags
    from study.registry import predict_command

    if arguments[:1] == ["encoders"] and "make" in arguments:
        return encoder_commands.make([a for a in arguments[1:] if a != "make"])
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="runs a study; `run --help` says how")
    status = commands.add_parser("status", help="shows a study, running or not; all names without")
    status.add_argument("study", nargs="?", help="its name")
    status.add_argument("--json", action="store_true", help="all records, for programs")
    sync = commands.add_parser(
        "sync", help="writes into MLflow and Optuna's journal what is not there yet"
    )
    sync.add_argument("study", help="its name")
    sync.add_argument("--tracking-uri", help="default: the study's own")
    report = report_command.add_parser(commands)
    for command in (status, sync, report):
        command.add_argument(
            "--storage", default=default_storage(), help=f"folder or URI ({STORAGE_DEFAULT})"
        )
    encoder_commands.add_parser(commands)
    promote_flags.add_parser(commands)
    predict_command.add_parser(commands, asked="predict" in arguments)
    given = parser.parse_args(arguments)
    try:
        if given.command == "predict":
            return predict_command.run(given)
        storage = Storage(given.storage)
        if given.command == "sync":
            return _sync(storage, given.study, given.tracking_uri)
        if given.command == "report":
            return report_command.run(given, storage, PatientConsole())
        if given.command == "promote":
            return promote_command.run(given, storage, PatientConsole())
        if given.command == "encoders":
            return encoder_commands.run(given, storage, PatientConsole())
        return _status(storage, given.study, given.json)
    except (
        ConfigError,
        EncoderError,
        LedgerError,
        SpaceError,
        StorageError,
        StudyError,
    ) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of the reader of what is printed; `run_and_exit` knows what to do
        raise
    except OSError as e:  # of this machine's own disk
        print(f"error: {e.filename or 'a file'}: {e.strerror or e}", file=sys.stderr)
        return 2


def _status(storage: Storage, name: str | None, as_json: bool) -> int:
    if name is None:
        names = study_names(storage)
        print(json.dumps(names) if as_json else "\n".join(names) or f"no study in {storage.where}")
        return 0
    folder, ledger = existing_study(storage, name), Ledger(storage)
    config, space, inputs = study_of(folder)
    # Nothing of the study is written: somebody may be running it.
    trials, notes = mended_trials(config, space, inputs, folder, write=False)
    holder = current_holder(storage, folder.driver)
    silence = silent_seconds(storage, folder.driver) if holder else None
    if as_json:
        keys = dict.fromkeys(case.key for trial in trials for case in trial.cases)
        fits, wrong = ledger.read_all(list(keys))
        document = {
            "study": config.to_dict(),
            "driver": holder and {**holder, "silent_seconds": silence},
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "fits": [dataclasses.asdict(fit) for fit in fits],
            "notes": [*notes, *wrong],
        }
        print(json.dumps(document, indent=1))
        return 0
    from study.console import failures, notes_of, summary

    console = PatientConsole()
    state = f"run by {describe(holder)}{describe_silence(silence)}" if holder else "nobody runs it"
    begun = sum(not trial.decided for trial in trials)
    console.print(f"{name}: {state}, {len(trials)} trials, {begun} begun", highlight=False)
    summary(console, config, trials, ledger)
    failures(console, trials)
    notes_of(console, trials, ledger)
    for line in notes:
        console.print(f"note: {line}", style="yellow", markup=False)
    return 0


def _sync(storage: Storage, name: str, tracking_uri: str | None) -> int:
    from study.driver import driver_lease
    from study.machine_files import journal_path
    from study.optuna_study import write_journal
    from study.tracking import Mirror

    folder = existing_study(storage, name)
    config, space, inputs = study_of(folder)
    if tracking_uri is not None:
        config = dataclasses.replace(config, tracking_uri=tracking_uri)
    # Its own driver writes while it runs: there is one writer only.
    with driver_lease(folder, PatientConsole()):
        complete_extension(folder, config, space, inputs)
        trials, notes = mended_trials(config, space, inputs, folder)
        for line in notes:
            print(f"note: {line}")
        journal = journal_path(config)
        write_journal(space, trials, journal)
        storage.upload(journal, folder.journal)
        try:
            written = Mirror(config).sync(live=False)
        except Exception as e:  # whatever a database or a server makes MLflow raise
            reason = " ".join(str(e).split())[:300]
            raise StudyError(f"{config.mlflow_uri} cannot be written: {reason}") from e
    print(f"{config.mlflow_uri}: {written} runs written, the others were up to date")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
