"""The method on the command line: `python -m ffcad describe | fit | predict | pretrain`.

Exit codes: 0 done; 1 some files could not be inspected (predict); 2 the user's mistake; 3 the loss
became infinite or not a number, or an encoder came out dead; 130 interrupted.
"""

import argparse
import sys
from typing import NoReturn

from ffcad import __version__
from ffcad.checkpoint import CheckpointError
from ffcad.commands import describe, fit, predict, pretrain
from ffcad.commands.arguments import UsageError
from ffcad.config import ConfigError
from ffcad.corpus import CorpusError
from ffcad.datasets import DataError
from ffcad.detector import DetectorError
from ffcad.encoder_weights import WeightsError
from ffcad.metrics import MetricError
from ffcad.pretrain import PretrainError
from ffcad.training import NonFiniteLoss

MISTAKES = (
    UsageError,
    ConfigError,
    CorpusError,
    DataError,
    WeightsError,
    CheckpointError,
    DetectorError,
    MetricError,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake; argparse would print its usage before it."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments after `python -m ffcad`; None takes the process's.

    Returns:
        The exit code.
    """
    parser = _Parser(prog="python -m ffcad", description="FFC-AD, without a cluster.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (describe, fit, predict, pretrain):
        command.add_parser(commands)
    try:
        args = parser.parse_args(argv)
        return args.run(args)
    except SystemExit as e:  # argparse has printed help, the version or an error
        return e.code
    except MISTAKES as e:
        return _end(args.command, f"error: {e}", 2)
    except (NonFiniteLoss, PretrainError) as e:
        return _end(args.command, f"error: {e}", 3)
    except KeyboardInterrupt as e:
        return _end(args.command, str(e) or "interrupted", 130)


def _end(command: str, message: str, code: int) -> int:
    print(f"python -m ffcad {command}: {' '.join(message.split())}", file=sys.stderr)
    return code
