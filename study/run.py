"""Runs a study: `python study/run.py` from the repository, `python -m study run` from anywhere.

python study/run.py                                       a small one on synthetic images
python study/run.py --data folder --data-root my_images   on your own
python study/run.py --help
"""

import os
import sys

if __package__ in (None, ""):
    # As a script, Python puts this folder first on the import path, where `config` or `search`
    # would hide other packages; the packages are one folder up. `ray submit` runs a copy in the
    # home folder of a cluster's head: there the installed packages count, and nothing beside it.
    folder = os.path.dirname(os.path.abspath(__file__))
    if os.path.isfile(os.path.join(folder, "driver.py")):
        sys.path[0] = os.path.dirname(folder)
    else:
        del sys.path[0]


def main(argv: list[str] | None = None, encoders_only: bool = False) -> int:
    """Runs a study from its command line, or only makes its encoders; returns the exit code.

    0: done. 2: something was asked for that cannot be done, said in one line. 3: fits failed.
    4: the storage failed on the way. 130: interrupted.
    """
    from ffcad.config import ConfigError
    from ffcad.datasets import DataError
    from study.arguments import parse
    from study.config import StudyError
    from study.ledger import LedgerError
    from study.signals import PatientConsole
    from study.spaces import SpaceError
    from study.storage import StorageError

    wrong: tuple[type[Exception], ...] = (
        ConfigError,
        DataError,
        LedgerError,
        SpaceError,
        StudyError,
    )
    started = False
    try:
        config, space, sought = parse(sys.argv[1:] if argv is None else argv)
        # torch is imported from here on.
        from ffcad.corpus import CorpusError
        from ffcad.encoder_weights import WeightsError
        from study.confirmation import confirm_best
        from study.driver import FITS_FAILED, OK, run_study
        from study.dry_run import dry_run
        from study.inputs import prepare

        wrong += (CorpusError, WeightsError)
        console = PatientConsole()
        if sought.dry_run:
            return dry_run(config, space, sought, console)
        with console.status("reading the images"):
            config, inputs, notes = prepare(config, space)
        started = True
        code = run_study(config, space, inputs, notes, console, sought.extend, encoders_only)
        if config.confirm and not encoders_only and code in (OK, FITS_FAILED):
            code = max(code, confirm_best(config, space, console))
        return code
    except wrong as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except StorageError as e:
        print(f"error: {e}", file=sys.stderr)
        if not started:
            return 2
        print("Nothing finished is lost. Mend that, then give the same command.", file=sys.stderr)
        return 4
    except OSError as e:  # of this machine's own disk
        print(f"error: {e.filename or 'a file'}: {e.strerror or e}", file=sys.stderr)
        return 4 if started else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    from study.signals import run_and_exit

    run_and_exit(main)
